"""Watches an emulator's requests for the counts: how many at once, and which form they had."""

import re
import time
from typing import Any

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import FileStorage

from sandbox import arrivals
from sandbox.state import current_state

TEXT_SHOWN_MAX = 200
_HEADERS_SHOWN = (
    "Content-Type",
    "User-Agent",
    "Accept",
    "X-Client-Request-Id",
    "Idempotency-Key",
    "Prefer",
    "Cancel-After",
    "OpenAI-Organization",
    "X-Server-Timeout",
    # What traces are passed on by: a client of an upstream has its own reasons to send them, or not to.
    *("traceparent", "tracestate", "baggage", "b3", "X-B3-TraceId", "uber-trace-id", "X-Cloud-Trace-Context"),
)
# Whatever an upstream calls its key: Authorization, x-key, x-goog-api-key, ?key=, Cookie. Of these the name is
# kept and never the value.
_SAYS_CREDENTIAL = re.compile("auth|cookie|credential|key|secret|token", re.IGNORECASE)
_NO_CREDENTIALS = frozenset({"idempotency-key"})


def watch(blueprint: Blueprint, provider: str) -> None:
    """Count and log every request of ``blueprint`` as ``provider``'s."""

    @blueprint.before_request
    def begin() -> None:
        current_state().counts.begin(provider)
        g.sandbox_open = True
        g.sandbox_entry = _describe(provider)
        current_state().counts.note(g.sandbox_entry)

    @blueprint.after_request
    def sent(answer: Response) -> Response:
        counts, status = current_state().counts, answer.status_code
        g.sandbox_entry["status"] = status
        g.sandbox_open = False
        if answer.is_streamed:  # in flight until its last byte
            answer.call_on_close(lambda: counts.end(provider, status))
        else:  # before it is sent, for its caller may begin the next call as soon as it has the last byte
            counts.end(provider, status)
        return answer

    @blueprint.teardown_request
    def gone(_error: BaseException | None) -> None:
        if g.pop("sandbox_open", False):
            current_state().counts.end(provider, None)


def note_stray(status: int) -> None:
    """Log a request that no emulator's route took: it may have carried what this host should not see."""
    current_state().counts.note({**_describe(None), "status": status})


def _describe(provider: str | None) -> dict[str, object]:
    """The request's shape. Of headers and query fields that hold credentials only the names are kept."""
    credentials = [name for name in (*request.headers.keys(), *request.args) if _is_credential(name)]
    return {
        "provider": provider,
        "at": round(time.time(), 3),
        "method": request.method,
        "path": request.path,
        "query": {key: _short(value) for key, value in request.args.items() if key not in credentials},
        "headers": {name: request.headers[name] for name in _HEADERS_SHOWN if name in request.headers},
        "credentials": credentials,
        **_body_shape(),
        "images": arrivals.images_of(request, current_state().counts.sent_before),
    }


def _is_credential(name: str) -> bool:
    return name.lower() not in _NO_CREDENTIALS and _SAYS_CREDENTIAL.search(name) is not None


def _body_shape() -> dict[str, object]:
    if request.method != "POST":
        return {}
    if request.mimetype == "multipart/form-data":
        parts = [
            {"name": name, "kind": "field", "value": _short(value)} for name, value in request.form.items(multi=True)
        ]
        return {
            "form": "multipart",
            "parts": [*parts, *(_file(n, f) for n, f in request.files.items(multi=True))],
        }
    document = request.get_json(silent=True)
    if isinstance(document, dict):
        return {"form": "json", "fields": {str(key): _short(value) for key, value in document.items()}}
    return {"form": "other"}


def _file(name: str, upload: FileStorage) -> dict[str, object]:
    upload.stream.seek(0, 2)
    size_bytes = upload.stream.tell()
    upload.stream.seek(0)
    return {
        "name": name,
        "kind": "file",
        "filename": upload.filename,
        "content_type": upload.content_type,
        "size_bytes": size_bytes,
    }


def _short(value: Any) -> object:
    """Scalars as they are, long texts cut, containers by their kind and length."""
    if isinstance(value, str):
        return value if len(value) <= TEXT_SHOWN_MAX else f"{value[:TEXT_SHOWN_MAX]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {str(key): _short(inner) for key, inner in list(value.items())[:20]}
    if isinstance(value, list):
        return [_short(inner) for inner in value[:20]]
    return value
