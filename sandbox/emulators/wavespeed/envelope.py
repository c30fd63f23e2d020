"""What every route of WaveSpeed's emulator shares: the envelope, keys and bodies."""

from typing import Any

from flask import Response, jsonify, request

from sandbox.emulators import keys
from sandbox.emulators.wavespeed.models import BODIES, check
from sandbox.emulators.wavespeed.tasks import TaskStore
from sandbox.markers import Fault
from sandbox.plumbing.calls import Calls, WireError, json_answer
from sandbox.plumbing.tasks import store_of

NAME = "wavespeed"
PREFIX = "/wavespeed"


class ApiError(WireError):
    """An answer in the error envelope. ``code`` is HTTP's status too, unless ``status`` is given."""

    def __init__(self, code: int, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.code, self.status = code, status or code

    def response(self) -> Response:
        """The envelope; with status 200 is how the real server sometimes answers."""
        return json_answer({"code": self.code, "message": str(self)}, self.status)


def _error_for(fault: Fault) -> Response:
    """The envelope of a scripted refusal, of an empty account, or of a bare status."""
    code, message = fault.status or 500, f"scripted by the sandbox: HTTP {fault.status}"
    if fault.name == "refuse":
        code, message = 400, "The prompt violates our content policy"
    elif fault.name == "quota":
        code, message = int(fault.number(402)), "Insufficient balance, please top up your account"
    return ApiError(code, message, status=200 if fault.options.get("envelope") == "1" else 0).response()


CALLS = Calls(NAME, _error_for)
store = store_of(NAME, TaskStore)


def envelope(data: object) -> Response:
    """A good answer."""
    return jsonify(code=200, message="success", data=data)


def not_found() -> Response:
    """What the hosts of files say."""
    return Response("Not Found", 404, content_type="text/plain")


def key_of_caller() -> str:
    """Raises ApiError for none, and for the bad one."""
    key = keys.bearer_key()
    if not key or key == keys.BAD_KEY:
        raise ApiError(401, "Unauthorized: invalid API key")
    return key


def refuse_keys() -> None:
    """A link is for its holder alone: a key sent along has leaked."""
    if "Authorization" in request.headers:
        raise ApiError(400, "key leaked")


def json_body(form: str = "") -> dict[str, Any]:
    """The body, checked against its schema where it has one. Raises ApiError where it is no JSON object; BadInput."""
    document = request.get_json(silent=True) if request.mimetype == "application/json" else None
    if not isinstance(document, dict):
        raise ApiError(400, "the body must be a JSON object")
    if form:
        check(BODIES[form], document)
    return document


def base_url() -> str:
    """Links are built from the Host of the request, whatever name the caller used for us."""
    return f"{request.scheme}://{request.host}{PREFIX}"
