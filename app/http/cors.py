"""Calls from pages of other origins, where DARKROOM_CORS_ORIGINS allows them. Off, nothing is installed."""

from __future__ import annotations

import re

from flask import Flask, current_app
from flask_cors import CORS

ANY = "*"
CONFIG = "CORS_ALLOWED"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# What a page may read of an answer, besides what every page may.
EXPOSED = (
    *("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "ETag", "Link", "Location"),
    *("Retry-After", "WWW-Authenticate", "RateLimit", "RateLimit-Policy", "Preference-Applied", "Idempotent-Replayed"),
    *("X-Request-Id", "X-Task-Id", "X-Cost-Quoted", "X-Cost-Captured", "X-Balance-Remaining"),
    *("X-Darkroom-Cache", "X-Darkroom-Ignored-Fields", "X-Provider", "X-Attempts", "X-Fallbacks"),
    *("x-should-retry", "openai-processing-ms", "openai-version"),
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "images", "tokens")
    ),
    *("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
    *("x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type"),
)
# Browsers ask again after at most two hours, some after ten minutes.
MAX_AGE_S = 7200

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?)(:[0-9]{1,5})?", re.IGNORECASE)


def origins_of(text: str) -> tuple[str, ...]:
    """DARKROOM_CORS_ORIGINS as a list. Raises ValueError naming what is no origin."""
    origins = tuple(each.strip() for each in text.split(",") if each.strip())
    if wrong := [each for each in origins if each != ANY and not _ORIGIN.fullmatch(each)]:
        raise ValueError(f"{', '.join(wrong)}: give origins as in https://app.example.org, without a path, or *")
    return origins


def install(app: Flask, origins: tuple[str, ...]) -> None:
    """Let pages of these origins call every route; they send a key and no cookies."""
    app.config[CONFIG] = bool(origins)
    if not origins:
        return
    # Compiled and whole: a text with a bracket would be taken for a pattern, which need not match to the end.
    exact = [re.compile(rf"{re.escape(each)}\Z", re.IGNORECASE) for each in origins]
    CORS(
        app,
        origins=ANY if ANY in origins else exact,
        send_wildcard=ANY in origins,
        methods=list(METHODS),
        allow_headers=ANY,
        expose_headers=list(EXPOSED),
        supports_credentials=False,
        max_age=MAX_AGE_S,
    )


def vary() -> str:
    """Vary of an image, which browsers keep: one that came for an <img> has no Access-Control-Allow-Origin, and must
    not answer a page that calls."""
    return "Authorization, Origin" if current_app.config.get(CONFIG) else "Authorization"


def resource_policy(*, signed: bool) -> str:
    """Cross-Origin-Resource-Policy of an image. A signed link may be embedded by any page; what needs a key is for
    pages that may call."""
    return "cross-origin" if signed or current_app.config.get(CONFIG) else "same-site"
