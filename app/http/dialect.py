"""What a dialect changes of HTTP itself: how it says an error, which schemes of Authorization it takes, its headers.

A dialect is another service's API, by the paths it answers under. Everything else about one is in ``app/dialects/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, current_app

Problem = Mapping[str, Any]  # app.http.errors.document

DIALECTS = "darkroom_dialects"


@dataclass(frozen=True, slots=True)
class Said:
    """An error in a dialect's words: body, status, media type, and headers besides those that every error has."""

    body: Mapping[str, Any]
    status: int
    content_type: str = "application/json"
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """``prefixes``: paths that begin so are its own, the longest of all dialects' wins. ``say`` puts an error in its
    words. ``schemes``: of Authorization, in lower case. ``finish`` adds headers to each of its answers. ``claims`` says
    which of the paths below its prefixes are its own, where two dialects share one; left out: all of them."""

    name: str
    prefixes: tuple[str, ...]
    say: Callable[[Problem], Said]
    schemes: tuple[str, ...] = ("bearer",)
    finish: Callable[[Response], None] | None = None
    claims: Callable[[str], bool] | None = None


NATIVE_SCHEMES = ("bearer",)


def install(app: Flask, dialects: tuple[Dialect, ...]) -> None:
    """Have these dialects speak under their paths."""
    by_prefix = {prefix: dialect for dialect in dialects for prefix in dialect.prefixes}
    app.extensions[DIALECTS] = sorted(by_prefix.items(), key=lambda row: -len(row[0]))


def dialect_of(path: str) -> Dialect | None:
    """The dialect of a path; None for our own."""
    if path.startswith("/api/images"):  # the hot routes, asked before all others
        return None
    return dialect_in(current_app, path)


def dialect_in(app: Flask, path: str) -> Dialect | None:
    """The same for an app that handles no request."""
    rows: list[tuple[str, Dialect]] = app.extensions.get(DIALECTS, [])
    return next(
        (
            dialect
            for prefix, dialect in rows
            if path.startswith(prefix) and (dialect.claims is None or dialect.claims(path))
        ),
        None,
    )
