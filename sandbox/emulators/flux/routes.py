"""Black Forest Labs' API under ``/flux``: a task per image, poll URLs that may name another host, signed links.

Speaks the vendor's OpenAPI document of April 2026 with what later sources add: providers/upstreams/flux/CONTRACT.md
(read 2026-11-20).
"""

from typing import Any
from urllib.parse import urlsplit

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.flux import rules, tasks
from sandbox.emulators.flux.rules import BadBody, fault_at
from sandbox.emulators.flux.tasks import TaskStore
from sandbox.faults import Script
from sandbox.markers import Fault
from sandbox.plumbing.calls import Calls, WireError, json_answer, new_blueprint
from sandbox.plumbing.tasks import store_of
from sandbox.state import current_state

NAME = "flux"
PREFIX = "/flux"
MALFORMED_KEY = "malformed-key"
CREDITS = 123.45
_STATUS_TEXTS = {
    402: "Insufficient credits. You can add credits to your account.",
    403: "Not authenticated",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    429: "Too many active tasks. Please wait for some to finish.",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Refused(WireError):  # noqa: N818 - reads as what it is
    """An answer other than 200, with FastAPI's ``detail``."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(str(status))
        self.status, self.detail = status, detail or _STATUS_TEXTS.get(status, "Bad Request")

    def response(self) -> Response:
        """``{"detail": "text"}``."""
        return json_answer({"detail": self.detail}, self.status)


def _error_for(fault: Fault) -> Response:
    """This provider's envelope for an empty account or a bare status."""
    status = 402 if fault.name == "quota" else fault.status or 500
    if status == 422:
        return BadBody(fault_at("body", kind="value_error", text="scripted by the sandbox")).response()
    return Refused(status).response()


CALLS = Calls(NAME, _error_for)
_store = store_of(NAME, TaskStore)
bp = new_blueprint(NAME, bad_marker=lambda text: Refused(400, text))


@bp.post("/v1/<path:name>")
def submit(name: str) -> Response:
    """Start a task. The path comes first, then the key, then the body, then the money (CONTRACT.md, section 7)."""
    if name not in rules.MODELS:
        raise Refused(404)
    key = _key()
    document = request.get_json(silent=True)
    if document is None:
        raise BadBody(fault_at("body", kind="missing", text="Field required"))
    order, owner = rules.read(name, document), keys.owner_of(key)
    CALLS.count_submit(order.prompt)
    if key == keys.NO_QUOTA_KEY:
        raise Refused(402)
    if not _store().has_room(owner, order.model):
        raise Refused(429)
    # Content is never refused by an HTTP error: that task is taken, and moderated at the first look.
    call = CALLS.begin("submit", order.prompt, taking=("refuse",))
    fate = call.accept()
    task = _store().accept(order, owner=owner, host=request.host, fate=fate)
    return call.answer(jsonify(tasks.describe_fresh(task, f"{_poll_base(fate)}/v1/get_result?id={task.number}")))


def _poll_base(fate: Script) -> str:
    """Where the task is polled: here, or at the host that ``poll_host`` names, on our port unless it says another."""
    moved = fate.get("poll_host")
    if moved is None:
        return _base_url()
    host = moved.value if ":" in moved.value else f"{moved.value}:{urlsplit(request.host_url).port}"
    return f"{request.scheme}://{host}{PREFIX}"


@bp.get("/v1/get_result")
def get_result() -> Response:
    """One look at one task. No key is needed, and none may reach a host that is not the submit's."""
    number = request.args.get("id")
    if not number:
        raise BadBody(fault_at("query", "id", kind="missing", text="Field required"))
    current_state().counts.check(NAME, 1)
    task = _store().find_any(number)
    if task is None:
        return jsonify(tasks.not_found(number))
    if task.host != request.host:
        _refuse_leaked_key()
    call = CALLS.begin("check", task.prompt, number)
    return call.answer(json_answer(*tasks.describe(task, _store().now(), _base_url())))


@bp.get("/delivery/<number>/<name>")
def deliver(number: str, name: str) -> ResponseReturnValue:
    """The image behind a signed link, for ten minutes. Takes no key."""
    _refuse_leaked_key()
    task = _store().find_any(number)
    if task is None or name != f"sample.{task.recipe.file_format}":
        return _blob_error(404, "BlobNotFound")
    until_s = request.args.get("se", default=0, type=int)
    if request.args.get("sig") != tasks.signature(task, until_s) or _store().now() > until_s:
        return _blob_error(403, "AuthenticationFailed")
    return CALLS.download_image(task.recipe, task.fate)


def _blob_error(status: int, code: str) -> Response:
    """As the blob store behind the links says it."""
    text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    return Response(text, status=status, content_type="application/xml")


@bp.get("/v1/credits")
def credits_left() -> Response:
    """The balance, which is also how a key is tried."""
    return jsonify(credits=0.0 if _key() == keys.NO_QUOTA_KEY else CREDITS)


@bp.get("/openapi.json")
def openapi() -> Response:
    """The document that FastAPI makes of the routes; it takes no key."""
    items = ({"path": f"/v1/{name}", "schema": _public_schema(model)} for name, model in rules.MODELS.items())
    changed = current_state().lists.changed(NAME, items, "path")
    paths = {
        item["path"]: {
            "post": {
                "requestBody": {"content": {"application/json": {"schema": item["schema"]}}},
                **({"deprecated": True} if item.get("deprecated") else {}),
            }
        }
        for item in changed
    }
    paths["/v1/get_result"] = {"get": {}}
    return CALLS.begin("models").answer(jsonify(openapi="3.1.0", info={"title": "BFL API"}, paths=paths))


def _public_schema(model: rules.Model) -> dict[str, Any]:
    """The input without our own keywords."""
    document = model.schema.document
    properties = {
        name: {key: value for key, value in part.items() if not key.startswith("x-")}
        for name, part in document["properties"].items()
    }
    return {"type": "object", "properties": properties, "required": document.get("required", [])}


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """The framework's own words."""
    return Refused(wrong.status).response()


def _key() -> str:
    """The key of ``x-key``. Raises Refused in the words of section 7."""
    key = request.headers.get("x-key", "").strip()
    if not key:
        raise Refused(403)
    if key == MALFORMED_KEY:
        raise Refused(422, "Invalid API key format")
    if key == keys.BAD_KEY:
        raise Refused(403, "Invalid authentication token")
    return key


def _refuse_leaked_key() -> None:
    if any(name in request.headers for name in ("x-key", "Authorization")):
        raise Refused(400, "key leaked")


def _base_url() -> str:
    return f"{request.scheme}://{request.host}{PREFIX}"


ENVIRON = {"BFL_API_BASE": "{url}", "BFL_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, TaskStore, unrouted, ENVIRON)
