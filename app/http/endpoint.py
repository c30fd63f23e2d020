"""The description of a route: who may call it, how often, what it takes and what it answers.

The guard (app/http/auth.py), the parser of the query and the OpenAPI document use the same description and cannot
disagree. The app does not start with a route that has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from flask import Flask
from pydantic import BaseModel

Scope = Literal["jobs:read", "jobs:write", "usage:read", "webhooks", "metrics", "admin"]
Pace = Literal["submit", "read", "enhance", "account"]
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Answer:
    """One successful answer of a route. ``schema`` None with a media type means bytes or text."""

    status: int
    description: str
    schema: type[BaseModel] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[str, ...] = ()  # names; app/api/openapi.py says what each means


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``scope`` None: open to everyone. ``signed``: an expiring signature is accepted instead of a key. ``spared``: not
    counted against its address or the installation, because it is a probe, or shows its right in another way."""

    summary: str
    tag: str
    answers: tuple[Answer, ...]
    scope: Scope | None = "jobs:read"
    pace: Pace = "account"
    signed: bool = False
    spared: bool = False
    errors: tuple[str, ...] = ()
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    multipart: bool = False
    request_headers: tuple[str, ...] = ()
    description: str = ""


_ABOUT: dict[Callable[..., Any], Endpoint] = {}


def describe(endpoint: Endpoint) -> Callable[[View], View]:
    """Attach its description to a view."""

    def remember(view: View) -> View:
        _ABOUT[view] = endpoint
        return view

    return remember


def about(view: Callable[..., Any] | None) -> Endpoint | None:
    """The description of a view; None for one that has none."""
    return _ABOUT.get(view) if view is not None else None


def check_described(app: Flask) -> None:
    """Raise LookupError for a route without a description: it would have no guard."""
    bare = [name for name, view in app.view_functions.items() if name != "static" and about(view) is None]
    if bare:
        raise LookupError(f"routes without a description: {', '.join(sorted(bare))}")
