"""The OpenAPI document, and a reference page made of it that loads nothing from other hosts."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template
from werkzeug.wrappers import Response as BaseResponse

from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import CODES
from app.http.responses import json_answer

bp = Blueprint("docs", __name__)

_CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@bp.get("/openapi.json")
@describe(Endpoint("This document", "docs", (Answer(200, "OpenAPI 3.1."),), scope=None))
def openapi_json() -> Response:
    return json_answer(_document(), headers={"Cache-Control": "no-cache"})


@bp.get("/docs")
@describe(Endpoint("Reference page", "docs", (Answer(200, "For people.", media_types=("text/html",)),), scope=None))
def docs() -> Response:
    document = _document()
    page = render_template(
        "docs.html", document=document, groups=_by_tag(document), codes=CODES, fields=_fields(document)
    )
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _CSP
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response


@bp.get("/")
@describe(
    Endpoint("To the reference page", "docs", (Answer(302, "To /docs.", media_types=("text/html",)),), scope=None)
)
def home() -> BaseResponse:
    return redirect("/docs")


def _document() -> dict[str, Any]:
    found: dict[str, Any] = current_app.extensions["darkroom_openapi"]
    return found


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """Method, path and operation, in groups; without HEAD."""
    groups: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "head":
                groups.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return groups


def _fields(document: dict[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """Name, kind and description of every schema's members."""
    return {
        name: [
            (field, _kind(known), known.get("description", "")) for field, known in schema.get("properties", {}).items()
        ]
        for name, schema in document["components"]["schemas"].items()
    }


def _kind(known: dict[str, Any]) -> str:
    """The type of a schema in a few words."""
    if "$ref" in known:
        return str(known["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in known:
        return " or ".join(_kind(each) for each in known["anyOf"])
    if "enum" in known or "const" in known:
        return " | ".join(str(each) for each in known.get("enum", [known.get("const")]))
    if known.get("type") == "array":
        return f"list of {_kind(known.get('items', {}))}"
    return str(known.get("format") or known.get("type") or "any")
