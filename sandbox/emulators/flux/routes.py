"""Black Forest Labs' API under ``/flux``: a task per picture, poll URLs that may name another host, signed links.

Speaks the contract of the vendor's OpenAPI document of April 2026 with what later sources add (sheet read 2026-11-20).
"""

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.flux import rules, tasks
from sandbox.emulators.flux.rules import BadBody
from sandbox.emulators.flux.tasks import TaskStore
from sandbox.faults import Script
from sandbox.markers import Fault, UnknownFault
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

bp = Blueprint("flux", __name__)
recorder.watch(bp, NAME)


class Refused(Exception):  # noqa: N818 - reads as what it is
    """An answer other than 200, with FastAPI's ``detail``."""

    def __init__(self, status: int, detail: object = None) -> None:
        super().__init__(str(status))
        self.status = status
        self.detail = _STATUS_TEXTS.get(status, "Bad Request") if detail is None else detail


@bp.errorhandler(Refused)
def refused(error: Refused) -> tuple[Response, int]:
    """``{"detail": "text"}``."""
    return jsonify(detail=error.detail), error.status


@bp.errorhandler(BadBody)
def bad_body(error: BadBody) -> tuple[Response, int]:
    """``{"detail": [...]}``: every fault with its place."""
    return jsonify(detail=error.faults), 422


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> tuple[Response, int]:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return refused(Refused(400, str(error)))


@bp.post("/v1/<path:name>")
def submit(name: str) -> Response:
    """Start a task. The path comes first, then the key, then the body, then the money (section 7)."""
    if name not in rules.MODELS:
        raise Refused(404)
    key = _key()
    order = rules.read(name, _document())
    here, owner, prompt = current_state(), keys.owner_of(key), order.prompt
    here.counts.submit(NAME, key=prompt_hash(prompt), prompt=prompt)
    if key == keys.NO_QUOTA_KEY:
        raise Refused(402)
    if not _store().has_room(owner, order):
        raise Refused(429)
    script = here.script(NAME, "submit", prompt)
    # Content is never refused by an HTTP error: that task is taken, and moderated at the first look.
    if (refusal := script.refusal) and refusal.name != "refuse":
        return misbehave.instead(refusal, _error_for)
    here.counts.accept(NAME, key=prompt_hash(prompt), prompt=prompt)
    fate = Script((*script.faults, *here.script(NAME, "outcome", prompt).faults))
    task = _store().accept(order, owner=owner, host=request.host, script=fate)
    answer = jsonify(tasks.describe_fresh(task, f"{_poll_base(fate)}/v1/get_result?id={task.number}"))
    return misbehave.finish(script, answer, _error_for)


def _document() -> Any:
    document = request.get_json(silent=True)
    if document is None:
        raise BadBody([{"type": "missing", "loc": ["body"], "msg": "Field required"}])
    return document


def _poll_base(fate: Script) -> str:
    """Where the task is polled: here, or at the host that ``poll_host`` names, on our port unless it says another."""
    moved = fate.get("poll_host")
    if moved is None:
        return _base_url()
    port = urlsplit(request.host_url).port
    return f"{request.scheme}://{moved.value if ':' in moved.value else f'{moved.value}:{port}'}{PREFIX}"


@bp.get("/v1/get_result")
def get_result() -> Response:
    """One look at one task. No key is needed, and none may reach a host that is not the submit's."""
    number = request.args.get("id")
    if not number:
        raise BadBody([{"type": "missing", "loc": ["query", "id"], "msg": "Field required"}])
    here = current_state()
    here.counts.check(NAME, 1)
    task = _store().find(number)
    if task is None:
        return jsonify(tasks.not_found(number))
    if task.host != request.host:
        _refuse_leaked_key()
    script = here.script(NAME, "check", task.order.prompt, number)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    document, status = tasks.describe(task, here.clock.now(), _base_url())
    answer = jsonify(document)
    answer.status_code = status
    return misbehave.finish(script, answer, _error_for)


@bp.get("/delivery/<number>/<name>")
def deliver(number: str, name: str) -> ResponseReturnValue:
    """The picture behind a signed link, for ten minutes. Takes no key."""
    _refuse_leaked_key()
    here, task = current_state(), _store().find(number)
    if task is None or name != f"sample.{task.recipe.file_format}":
        return _blob_error(404, "BlobNotFound")
    until_s = request.args.get("se", default=0, type=int)
    if request.args.get("sig") != tasks.signature(task, until_s) or here.clock.now() > until_s:
        return _blob_error(403, "AuthenticationFailed")
    here.counts.download(NAME)
    good = here.gallery.file(task.recipe, prepared=here.settings.prepared)
    blob, odd_type = bad_files.spoil(_store().fault_of(task), good)
    answer = Response(blob, content_type=odd_type or CONTENT_TYPES[task.recipe.file_format])
    script = here.script(NAME, "download", task.order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    return misbehave.finish(script, answer, _error_for)


def _blob_error(status: int, code: str) -> Response:
    """As the blob store behind the links says it."""
    text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    return Response(text, status=status, content_type="application/xml")


@bp.get("/v1/credits")
def credits_left() -> Response:
    """The balance, which is also how a key is tried."""
    key = _key()
    return jsonify(credits=0.0 if key == keys.NO_QUOTA_KEY else CREDITS)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """The framework's own words."""
    return refused(Refused(wrong.status))


def _error_for(fault: Fault) -> Response:
    """This provider's envelope for an empty account or a bare status."""
    status = 402 if fault.name == "quota" else fault.status or 500
    if status == 422:
        answer, _ = bad_body(BadBody([{"type": "value_error", "loc": ["body"], "msg": "scripted by the sandbox"}]))
    else:
        answer, _ = refused(Refused(status))
    answer.status_code = status
    return answer


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


def _store() -> TaskStore:
    store = current_state().stores[NAME]
    if not isinstance(store, TaskStore):
        raise TypeError(f"the shelf of {NAME} was replaced by {type(store).__name__}")
    return store


ENVIRON = {"BFL_API_BASE": "{url}", "BFL_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, TaskStore, unrouted, ENVIRON)
