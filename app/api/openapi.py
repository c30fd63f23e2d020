"""The OpenAPI 3.1 document, made of the routes' own descriptions and the schemas they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from app.http.dialect import Dialect, dialect_in
from app.http.endpoint import Answer, Endpoint, about
from app.http.errors import CODES, PROBLEM_JSON
from app.http.errors import document as error_document
from app.image_bytes import EXTENSIONS
from app.orders.operations import OPERATIONS
from app.shapes.schemas.batches import BatchBody
from app.shapes.schemas.orders import OrderBody, RerunBody
from app.shapes.schemas.problems import ProblemOut
from app.shapes.schemas.tasks import ListQuery
from core.version import VERSION

REF = "#/components/schemas/{model}"

# In the order in which people need them. A tag of a route that is not named here ends the document's making.
TAGS: Mapping[str, str] = {
    "orders": "Submit a job, or price one. Every operation has the same route and the same answer: a task.",
    "tasks": "Follow tasks to their end, cancel and delete them.",
    "batches": "Submit up to 100,000 orders at once; each is accepted or refused by itself.",
    "images": "Fetch what a task made.",
    "uploads": "Keep an image here, and order with it as often as you like.",
    "files": "Uploads as the clients of OpenAI, Replicate and fal make them.",
    "models": "What can be ordered, with limits, prices and the JSON Schema of every order.",
    "openai": "OpenAI's own image routes, for its clients. Errors come in its envelope.",
    "prompts": "Have a prompt rewritten.",
    "fal": "fal's own API, for its clients: the queue and the synchronous host.",
    "quota": "Credits: the balance, every transfer behind it, and usage: what was sold. Usage needs the scope"
    " `usage:read`.",
    "replicate": "Predictions, for clients of Replicate: the same tasks in its words.",
    "webhooks": "Be told when a task moves, instead of asking: endpoints, secrets, deliveries. Needs the scope"
    " `webhooks`.",
    "providers": "The upstreams: are they well, how busy are they.",
    "provider keys": "Have your orders made with your own key of a provider, at the operator's fee.",
    "admin": "For operators: needs a key with the scope `admin`.",
    "replaced": "Routes of the services that this one replaces, for clients that were written for them.",
    "hooks": "For upstreams that report when a call has ended.",
    "service": "Health, and this document.",
}
_EXAMPLES = Path(__file__).resolve().parent.parent / "web" / "examples"
_INTRO = """\
A self-hosted queue for AI image jobs: **submit** an order, **follow** its task, **fetch** the images.

Sign in with an API key, as `Authorization: Bearer dk_...`. Errors are `application/problem+json`; go by their `code`
([every code](/docs/errors)). A failed task costs nothing.
"""
_ORDER_EXAMPLE = {"prompt": "a red fox asleep under a lemon tree", "size": "1024x1024"}

# What any route behind a key may answer, any that needs none, any that takes or sends a body, and any at all.
_GUARDED = (
    *("key_missing", "key_invalid", "key_paused", "scope_missing", "rate_limited"),
    *("service_unavailable", "database_unavailable"),
)
_OPEN = ("rate_limited",)
_WITH_BODY = ("malformed_json", "request_timeout", "request_too_large", "unsupported_media_type")
_SENDING = ("not_acceptable",)
_ALWAYS = ("bad_request", "uri_too_long", "headers_too_large", "internal_error")

_HEADERS: Mapping[str, tuple[str, str]] = {
    "Location": ("string", "Where the task, or the image, is read."),
    "Retry-After": ("integer", "Seconds to wait before asking again."),
    "ETag": ("string", "For If-None-Match, and of accounts and keys for If-Match."),
    "X-Request-Id": ("string", "Yours when it was valid, else ours."),
    "X-Task-Id": ("string", "The task's id."),
    "X-Provider": ("string", "The provider whose turn it is, or that made it."),
    "X-Attempts": ("string", "Calls made to upstreams so far."),
    "X-Fallbacks": ("string", "How many models it has fallen over to."),
    "X-Cost-Quoted": ("string", "The quoted price in credits."),
    "X-Cost-Captured": ("string", "The price charged, in credits, once the task has ended."),
    "X-Balance-Remaining": ("string", "What is left to spend, in credits, where this request has changed it."),
    "X-Darkroom-Cache": ("string", "`hit`: the images are those of an earlier task (`cached_from`)."),
    "X-Darkroom-Ignored-Fields": ("string", "Fields that were left out, because nothing here takes them."),
    "X-Darkroom-Cancel-On-Disconnect": ("string", "`true`: cancel the task when this connection is closed."),
    "Idempotent-Replayed": ("string", "`true` when an earlier submit answers."),
    "Preference-Applied": ("string", "The wait that was granted."),
    "Content-Location": ("string", "Where the image sent is read."),
    "Link": ("string", "The task's other images, as `rel=item`."),
    "Accept-Ranges": ("string", "`bytes`."),
    "Content-Range": ("string", "Which bytes these are."),
    "Content-Disposition": ("string", "A generated file name."),
    "Cache-Control": (
        "string",
        "Of an answer: images never change under one address. Of an order, where the result cache is on: `no-cache`, no"
        " earlier task may answer it; `no-store`, and its task answers no later one.",
    ),
    "Allow": ("string", "The methods this route takes."),
    "WWW-Authenticate": ("string", "How to authenticate."),
    "RateLimit": ("string", 'What is left of the limit nearest to its end: `"name";r=left;t=seconds`.'),
    "RateLimit-Policy": ("string", 'Every limit that concerns the request: `"name";q=most;w=seconds;qu="unit"`.'),
    "Idempotency-Key": (
        "string",
        "Quoted or bare, 1 to 255 printable ASCII characters, remembered for 24 h within the account. The "
        "same key, route and body always answer the same task; another body or route is a 422.",
    ),
    "Prefer": (
        "string",
        "`wait=n`: wait up to n seconds, at most 60, for the end of the task; `respond-async`, on the routes of other "
        "services: answer with the task.",
    ),
    "Cancel-After": ("string", "Cancel it unless it has ended by then: `90s`, `5m`, `1h30m`; from 5 s to 30 days."),
    "X-Fal-Queue-Priority": ("string", "`normal` or `low`."),
    "X-Fal-Request-Timeout": ("number", "Seconds: fail with 504 if the job has not started by then."),
    "x-fal-no-retry": ("string", "`1`: no other model takes the order's turn."),
    "If-None-Match": ("string", "Answer 304 when the ETag is still the same."),
    "If-Match": ("string", "Do it only while the ETag is the same, else 412 `precondition_failed`."),
    "Last-Event-ID": ("string", "Go on after the record with this `id`."),
    "If-Range": ("string", "Serve the range only while the ETag is the same."),
    "Range": ("string", "One range of bytes: `bytes=first-last`, `bytes=first-` or `bytes=-count`."),
}
_ERROR_HEADERS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    405: ("Allow",),
    409: ("Retry-After",),
    416: ("Content-Range",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def document(app: Flask, *, public_url: str = "") -> dict[str, Any]:
    """The whole document, as JSON-ready data. Raises KeyError for a route whose tag is not one of :data:`TAGS`."""
    routes = [
        (rule, endpoint)
        for rule in app.url_map.iter_rules()
        if (endpoint := about(app.view_functions.get(rule.endpoint))) is not None
    ]
    order = {tag: position for position, tag in enumerate(TAGS)}
    # Stable: within a tag the routes stay as their module defines them.
    routes.sort(key=lambda route: order[route[1].tag])
    paths: dict[str, dict[str, Any]] = {}
    for rule, endpoint in routes:
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            operation = _operation(rule, endpoint, method)
            if (dialect := dialect_in(app, rule.rule)) is not None:
                with app.test_request_context(rule.rule):
                    operation["responses"] = _said_by(dialect, endpoint, method, operation["responses"])
            paths.setdefault(_path(rule), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Darkroom", "version": VERSION, "description": _introduction()},
        **({"servers": [{"url": public_url}]} if public_url else {}),
        "tags": [
            {"name": name, "x-displayName": name.capitalize(), "description": text} for name, text in TAGS.items()
        ],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `dk_<id>_<secret>`, or a JWT."},
                "signature": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "signature",
                    "description": "Part of an expiring `signed_url`.",
                },
            },
            "schemas": _schemas([endpoint for _, endpoint in routes]),
            "headers": {name: _header(name) for name in _HEADERS},
        },
    }


def _introduction() -> str:
    """The first steps as programs that run (tests/e2e/test_docs_page.py runs them)."""
    kinds = (("By curl", "generate.sh", "sh"), ("In Python", "generate.py", "python"),
             ("In JavaScript (Node)", "generate.mjs", "js"))  # fmt: skip
    steps = [f"### {title}\n\n```{name}\n{(_EXAMPLES / file).read_text()}```\n" for title, file, name in kinds]
    return "\n".join([_INTRO, *steps])


def _path(rule: Rule) -> str:
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)


def _operation(rule: Rule, endpoint: Endpoint, method: str) -> dict[str, Any]:
    name = rule.endpoint.replace(".", "_")
    operation: dict[str, Any] = {
        "operationId": f"{name}_head" if method == "HEAD" else name,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": _parameters(rule, endpoint),
        "responses": _responses(endpoint, method),
    }
    if method == "HEAD":
        operation["x-internal"] = True  # as GET, without the body: nothing for a reader
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.scope is None:
        operation["security"] = []
    else:
        operation["x-scope"] = endpoint.scope
        operation["security"] = [{"key": []}, {"signature": []}] if endpoint.signed else [{"key": []}]
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint)
    return operation


def _parameters(rule: Rule, endpoint: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)} for name in sorted(rule.arguments)
    ]
    if endpoint.query is not None:
        found += _query(endpoint.query)
    if endpoint.query is ListQuery:
        values = {"type": "object", "additionalProperties": {"type": "string"}}
        found.append(
            {
                "name": "metadata",
                "in": "query",
                "description": "As `metadata.<key>=<value>`: tasks that carry this metadata.",
                "schema": values,
                "style": "form",
                "explode": True,
            }
        )
    for name in ("X-Request-Id", *endpoint.request_headers):
        kind, text = _HEADERS[name]
        found.append({"name": name, "in": "header", "description": text, "schema": {"type": kind}})
    return found


def _path_schema(name: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(OPERATIONS)} if name == "operation" else {"type": "string"}


def _query(schema: type[BaseModel]) -> list[dict[str, Any]]:
    shape = schema.model_json_schema()
    required = shape.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": {key: value for key, value in known.items() if key != "description"},
            **({"description": known["description"]} if "description" in known else {}),
        }
        for name, known in shape.get("properties", {}).items()
    ]


def _request_body(endpoint: Endpoint) -> dict[str, Any]:
    assert endpoint.body is not None  # noqa: S101 (the caller looked)
    reference = {"$ref": REF.format(model=endpoint.body.__name__)}
    content: dict[str, Any] = {"application/json": {"schema": reference}}
    if issubclass(endpoint.body, OrderBody) and endpoint.body is not RerunBody:
        content["application/json"]["example"] = _ORDER_EXAMPLE
    if endpoint.body is BatchBody:
        content["application/jsonl"] = {"schema": {"type": "string", "description": "one order a line"}}
    if endpoint.multipart:
        form = _form(endpoint.body) if issubclass(endpoint.body, OrderBody) else _FILE_FORM
        content["multipart/form-data"] = {"schema": form}
    return {"required": endpoint.body is not RerunBody, "content": content}


def _form(body: type[BaseModel]) -> dict[str, Any]:
    """The order as a form: its fields with their types, as text, and the images as files."""
    binary = {"type": "string", "format": "binary", "contentMediaType": "image/*"}
    parts = {"image": {"type": "array", "items": binary}, "mask": binary, "face": binary}
    known = body.model_json_schema(ref_template=REF).get("properties", {})
    fields = {name: schema for name, schema in known.items() if name not in ("images", "mask", "face")}
    return {
        "type": "object",
        "description": "Images as parts `image` (or `image[]`, `images[]`), `mask`, `face`; every other part is a "
        "field as text: numbers and true or false as they are, lists and objects as JSON.",
        "properties": {**parts, **fields},
    }


_FILE_FORM: Mapping[str, Any] = {
    "type": "object",
    "description": "One image as the part `file` or `image`.",
    "properties": {
        "file": {"type": "string", "format": "binary", "contentMediaType": "image/*"},
        "expires_s": {"type": "integer", "description": "seconds to keep it"},
    },
    "required": ["file"],
}


def _responses(endpoint: Endpoint, method: str) -> dict[str, Any]:
    limits = ("RateLimit", "RateLimit-Policy") if endpoint.scope is not None or not endpoint.spared else ()
    found = {str(each.status): _answer(each, limits, bodiless=method == "HEAD") for each in endpoint.answers}
    by_status: dict[int, list[str]] = {}
    for code in _codes(endpoint):
        by_status.setdefault(CODES[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        if str(status) not in found:
            found[str(status)] = _problem(status, codes, bodiless=method == "HEAD")
    return found


def _answer(each: Answer, limits: tuple[str, ...], *, bodiless: bool) -> dict[str, Any]:
    headers = ("X-Request-Id", *limits, *each.headers)
    found: dict[str, Any] = {"description": each.description, "headers": _header_refs(headers)}
    if bodiless or each.status == 304:
        return found
    schema = {"schema": {"$ref": REF.format(model=each.schema.__name__)}} if each.schema is not None else {}
    found["content"] = {
        # An answer with a schema that may also be a file.
        media_type: _BYTES if schema and (media_type in EXTENSIONS or media_type.startswith("text/")) else schema
        for media_type in each.media_types
    }
    return found


def _codes(endpoint: Endpoint) -> tuple[str, ...]:
    """Every code that a route may answer."""
    guarded = _GUARDED if endpoint.scope is not None else ()
    received = _WITH_BODY if endpoint.body is not None else ()
    sent = _SENDING if any(each.media_types for each in endpoint.answers) else ()
    limited = _OPEN if endpoint.scope is None and not endpoint.spared else ()
    return tuple(dict.fromkeys((*endpoint.errors, *guarded, *limited, *received, *sent, *_ALWAYS)))


def _said_by(dialect: Dialect, endpoint: Endpoint, method: str, responses: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of a dialect's route: its errors have the statuses and the form that its own words give them."""
    found = {status: responses[status] for status in {str(each.status) for each in endpoint.answers}}
    by_status: dict[tuple[int, str], list[str]] = {}
    for code in _codes(endpoint):
        said = dialect.say(error_document(code, instance="", request_id=""))
        by_status.setdefault((said.status, said.content_type), []).append(code)
    for (status, content_type), codes in sorted(by_status.items()):
        if str(status) not in found:
            answer = _problem(status, codes, bodiless=method == "HEAD")
            answer["content"] = {content_type: {"schema": {"type": "object"}}}
            found[str(status)] = answer
    return found


def _problem(status: int, codes: list[str], *, bodiless: bool) -> dict[str, Any]:
    text = " ".join(f"`{code}`: {CODES[code].help}" for code in codes)
    headers = _header_refs(("X-Request-Id", *_ERROR_HEADERS.get(status, ())))
    found: dict[str, Any] = {"description": text, "headers": headers}
    if not bodiless:
        schema = {
            "allOf": [{"$ref": REF.format(model="ProblemOut")}],
            "properties": {"code": {"enum": codes}},
        }
        found["content"] = {PROBLEM_JSON: {"schema": schema}}
    return found


def _header_refs(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(name: str) -> dict[str, Any]:
    kind, text = _HEADERS[name]
    return {"description": text, "schema": {"type": kind}}


def _schemas(endpoints: list[Endpoint]) -> dict[str, Any]:
    bodies = {endpoint.body for endpoint in endpoints if endpoint.body is not None}
    answers = {each.schema for endpoint in endpoints for each in endpoint.answers if each.schema is not None}
    return _json_schemas(tuple(sorted(bodies, key=_name)), tuple(sorted(answers | {ProblemOut}, key=_name)))


@lru_cache(maxsize=4)
def _json_schemas(bodies: tuple[type[BaseModel], ...], answers: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    """JSON Schema of what goes in (validation) and out (serialization), by class name."""
    wanted = [(each, "validation") for each in bodies] + [(each, "serialization") for each in answers]
    _, whole = models_json_schema(wanted, ref_template=REF)  # type: ignore[arg-type]
    definitions: dict[str, Any] = whole["$defs"]
    return definitions


def _name(schema: type[BaseModel]) -> str:
    return schema.__name__
