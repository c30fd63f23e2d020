"""What every route of the WaveSpeed twin shares: the envelope, keys, bodies, its shelf."""

from typing import Any

from flask import Response, jsonify, request

from sandbox.drawing.images import Recipe
from sandbox.emulators import keys
from sandbox.emulators.wavespeed.images import Served
from sandbox.emulators.wavespeed.tasks import TaskStore
from sandbox.markers import Fault
from sandbox.state import current_state

NAME = "wavespeed"
PREFIX = "/wavespeed"


class ApiError(Exception):
    """An answer in the error envelope; ``code`` is HTTP's status too."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    def response(self, *, status: int | None = None) -> Response:
        """The envelope; ``status`` 200 is how the real server sometimes answers."""
        answer = jsonify(code=self.code, message=str(self))
        answer.status_code = status or self.code
        return answer


def error_for(fault: Fault) -> Response:
    """The envelope of a scripted refusal, of an empty account, or of a bare status."""
    if fault.name == "refuse":
        error = ApiError(400, "The prompt violates our content policy")
    elif fault.name == "quota":
        error = ApiError(int(fault.number(402)), "Insufficient balance, please top up your account")
    else:
        error = ApiError(fault.status or 500, f"scripted by the sandbox: HTTP {fault.status}")
    return error.response(status=200 if fault.options.get("envelope") == "1" else None)


def envelope(data: object) -> Response:
    """A good answer."""
    return jsonify(code=200, message="success", data=data)


def key_of_caller() -> str:
    """Raises ApiError for none, and for the bad one."""
    key = keys.bearer_key()
    if not key or key == keys.BAD_KEY:
        raise ApiError(401, "Unauthorized: invalid API key")
    return key


def refuse_keys() -> None:
    """A link is nobody's business but its holder's: a key sent along has leaked."""
    if "Authorization" in request.headers:
        raise ApiError(400, "key leaked")


def json_body() -> dict[str, Any]:
    """Raises ApiError for any other content type, and for anything but an object."""
    document = request.get_json(silent=True) if request.mimetype == "application/json" else None
    if not isinstance(document, dict):
        raise ApiError(400, "the body must be a JSON object")
    return document


def whole(asked: dict[str, Any], name: str, low: int, high: int) -> int:
    """A required whole number of a body."""
    value = asked.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ApiError(400, f"{name} is required, from {low} to {high}")
    return value


def only(asked: dict[str, Any], *names: str) -> None:
    """Refuse every other field."""
    if stray := set(asked) - set(names):
        raise ApiError(400, f"unknown field '{sorted(stray)[0]}'")


def base_url() -> str:
    """Links are built from the Host of the request, whatever name the caller used for us."""
    return f"{request.scheme}://{request.host}{PREFIX}"


def blob_of(file: Served) -> bytes:
    """A result file, drawn now. Raises NotAnImage."""
    here = current_state()

    def draw(recipe: Recipe) -> bytes:
        return here.gallery.file(recipe, prepared=here.settings.prepared)

    return file.blob(draw)


def store() -> TaskStore:
    """Tasks and uploads."""
    kept = current_state().stores[NAME]
    if not isinstance(kept, TaskStore):
        raise TypeError(f"the shelf of {NAME} was replaced by {type(kept).__name__}")
    return kept
