"""The OpenAPI document, a page that shows it, and one of the error codes; nothing comes from other hosts."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template
from werkzeug.wrappers import Response as BaseResponse

from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import CODES
from app.http.responses import text_answer
from core.version import VERSION
from core.wire import json_text
from jobs.failures import SENTENCES

bp = Blueprint("docs", __name__)

_CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self' data: blob:"
# The viewer (app/web/static/scalar) sets styles as it runs, and shows the answers of its own requests.
_VIEWER = f"{_CLOSED}; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; connect-src 'self'"
_PLAIN = f"{_CLOSED}; style-src 'self'"
_HTML = ("text/html",)
TEXT = "darkroom_openapi_text"


@bp.get("/openapi.json")
@describe(Endpoint("This document", "service", (Answer(200, "OpenAPI 3.1."),), scope=None))
def openapi_json() -> Response:
    extensions: dict[str, Any] = current_app.extensions
    if TEXT not in extensions:  # written once: anyone may ask, as often as they like
        extensions[TEXT] = json_text(extensions["darkroom_openapi"]())
    return text_answer(extensions[TEXT], headers={"Cache-Control": "no-cache"})


@bp.get("/docs")
@describe(Endpoint("Reference page", "service", (Answer(200, "For people.", media_types=_HTML),), scope=None))
def docs() -> Response:
    return _page(render_template("docs.html"), _VIEWER)


@bp.get("/docs/errors")
@describe(Endpoint("Every error code", "service", (Answer(200, "For people.", media_types=_HTML),), scope=None))
def error_codes() -> Response:
    return _page(render_template("errors.html", version=VERSION, codes=CODES, failures=SENTENCES), _PLAIN)


@bp.get("/")
@describe(Endpoint("To the reference page", "service", (Answer(302, "To /docs.", media_types=_HTML),), scope=None))
def home() -> BaseResponse:
    return redirect("/docs")


def _page(text: str, policy: str) -> Response:
    response = Response(text, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = policy
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response
