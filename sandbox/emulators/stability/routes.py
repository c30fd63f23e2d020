"""Stability AI's v2beta under ``/stability``: most endpoints answer at once, two with an id to look up.

Speaks providers/upstreams/stability/CONTRACT.md (read 2026-11-20): strict parts, prices, the limit of 150 requests in
10 s with its minute of lock-out, blurred images for filtered content, results for 24 h.
"""

import base64
import hashlib
import uuid

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox.drawing import bad_files, images, models3d
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.stability import rules
from sandbox.emulators.stability import store as stored
from sandbox.emulators.stability.rules import BadParts, Order
from sandbox.emulators.stability.store import Job, StabilityStore
from sandbox.faults import Script
from sandbox.markers import Fault
from sandbox.plumbing import outcomes
from sandbox.plumbing.calls import Calls, WireError, html_answer, json_answer, new_blueprint
from sandbox.plumbing.tasks import Ending, store_of
from sandbox.state import current_state

NAME = "stability"
PREFIX = "/stability"
REQUEST_BYTES_MAX = 10 * 2**20
LOOK_EVERY_S = 10.0
# Counted as a fault in the tallies: a look at an id less than 10 s after one that said "in-progress".
LOOKED_TOO_SOON = "looked_too_soon"
TOO_MANY = (
    "You have exceeded the rate limit of 150 requests within a 10 second period, "
    "and have been timed out for 60 seconds."
)
_NAMES = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    413: "payload_too_large",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
}


class ApiError(WireError):
    """An answer in the error envelope; ``name`` follows from the status where none is given."""

    def __init__(self, status: int, *texts: str, name: str = "") -> None:
        super().__init__("; ".join(texts))
        self.status, self.texts = status, texts
        self.name = name or _NAMES.get(status, "internal_error")

    def response(self) -> Response:
        """v2beta lists its errors, v1 has one message; JSON whatever the caller accepts."""
        is_v1 = request.path.startswith(f"{PREFIX}/v1/")
        texts = {"message": str(self)} if is_v1 else {"errors": list(self.texts)}
        return json_answer({"id": uuid.uuid4().hex, "name": self.name, **texts}, self.status)


def _no_credits() -> ApiError:
    return ApiError(402, "You lack sufficient credits to make this request.")


def _flagged() -> ApiError:
    return ApiError(403, "Your request was flagged by our content moderation system.", name="content_moderation")


def _error_for(fault: Fault) -> Response:
    """This provider's envelope for a scripted refusal, an empty account or a bare status."""
    if fault.name == "refuse":
        return _flagged().response()
    if fault.name == "quota":
        return _no_credits().response()
    status = fault.status or 500
    return ApiError(status, TOO_MANY if status == 429 else f"scripted {status}").response()


CALLS = Calls(NAME, _error_for)
_store = store_of(NAME, StabilityStore)
bp = new_blueprint(NAME, bad_marker=lambda text: ApiError(400, text))


@bp.errorhandler(BadParts)
def bad_parts(error: BadParts) -> Response:
    """Everything that is wrong with a form, at once."""
    return ApiError(400, *error.complaints).response()


@bp.after_request
def house_headers(answer: Response) -> Response:
    """The header every answer carries."""
    answer.headers["x-request-id"] = uuid.uuid4().hex
    return answer


# ---------------------------------------------------------------- routes


@bp.post("/v2beta/<path:path>")
def submit(path: str) -> Response:
    """One paid call: the result, or the id of one to come."""
    key = _key()
    if path not in rules.ENDPOINTS:
        raise ApiError(404, f"no such endpoint: {path}")
    if (request.content_length or 0) > REQUEST_BYTES_MAX:
        raise ApiError(413, "the request is larger than 10 MiB")
    wants_json = _wants_json("image/*", "*/*")
    order, owner = rules.read(path), keys.owner_of(key)
    # A call is counted by its prompt, or else by the image it works on.
    about = order.prompt or f"{path} of {_digest(order.base)}"
    CALLS.count_submit(about)
    call = CALLS.begin("submit", order.prompt)
    if not _store().charge(owner, key, order.credits):
        raise _no_credits()
    fate = call.accept(about)
    ending = stored.ending_for(fate)
    if ending not in (stored.SUCCESS, stored.FILTERED):
        _store().refund(owner, order.credits)  # only what was made is billed
    if order.endpoint.is_later:
        return call.answer(jsonify(id=_store().accept(order, owner, fate, ending).number))
    call.wait(fate)
    return call.answer(_result(order, _store().seed_for(order), fate, ending, wants_json=wants_json))


@bp.get("/v2beta/results/<number>")
def result(number: str) -> Response:
    """An asynchronous call: 202 while it lasts, then the result for 24 h."""
    owner = keys.owner_of(_key())
    wants_json = _wants_json("*/*")
    current_state().counts.check(NAME, 1)
    job = _store().find(owner, number)
    call = CALLS.begin("check", job.prompt if job else "", number)
    if job is None:
        raise ApiError(404, "no result with this id, or it has expired")
    return call.answer(_look(job, wants_json=wants_json))


@bp.get("/v1/user/balance")
def balance() -> Response:
    """The credits left."""
    key = _key()
    return jsonify(credits=_store().credits(keys.owner_of(key), key))


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the sandbox's own limit."""
    return ApiError(wrong.status, f"{wrong.method} {wrong.path}").response()


def _key() -> str:
    """The caller's key, once it is known and within its rate."""
    key = keys.bearer_key()
    if not key or key == keys.BAD_KEY:
        raise ApiError(401, "authorization: invalid or missing header value")
    if not _store().admit(keys.owner_of(key), key):
        raise ApiError(429, TOO_MANY)
    return key


def _wants_json(*others: str) -> bool:
    """Whether the result shall come in JSON; bytes otherwise."""
    accept = request.headers.get("Accept", others[0])
    if accept not in (*others, "application/json"):
        raise ApiError(400, f"accept: must be {others[0]} or application/json")
    return accept == "application/json"


def _digest(blob: bytes | None) -> str:
    return hashlib.sha256(blob or b"").hexdigest()


# ---------------------------------------------------------------- the work


def _look(job: Job, *, wants_json: bool) -> Response:
    now = _store().now()
    standing = job.standing(now)
    if standing.ending is not None and job.looks_left <= 0:
        return _result(job.order, job.seed, job.fate, standing.ending, wants_json=wants_json)
    if job.looked_s is not None and now - job.looked_s < LOOK_EVERY_S:
        current_state().counts.fault(NAME, LOOKED_TOO_SOON)
    job.looks_left, job.looked_s = job.looks_left - 1, now
    return json_answer({"id": job.number, "status": job.word or "in-progress"}, 202)


def _result(order: Order, seed: int, fate: Script, ending: Ending, *, wants_json: bool) -> Response:
    if ending == stored.TIMED_OUT:
        return html_answer(504)
    if ending == stored.FLAGGED:
        return _flagged().response()
    if ending == stored.BROKEN:
        return ApiError(500, "an unexpected server error has occurred").response()
    if order.endpoint.makes == "glb":
        return Response(_model(order, seed, fate), content_type=models3d.CONTENT_TYPE)
    recipe = _recipe(order, seed, fate)
    blob, odd_type = _file(recipe, fate, ending)
    content_type = odd_type or CONTENT_TYPES[recipe.file_format]
    if not wants_json:
        headers = {"finish-reason": ending.status, "seed": str(seed)}
        return Response(blob, headers=headers, content_type=content_type)
    image = {"image": base64.b64encode(blob).decode()} if blob else {}
    document = {**image, "finish_reason": ending.status, "seed": seed}
    return json_answer(document, content_type=f"application/json; type={content_type}")


def _model(order: Order, seed: int, fate: Script) -> bytes:
    if outcomes.count_of(1, fate) == 0:
        return b""
    blob = models3d.glb(f"{order.path} {seed} {_digest(order.base)}")
    return bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), blob)[0]


def _file(recipe: Recipe, fate: Script, ending: Ending) -> tuple[bytes, str | None]:
    if outcomes.count_of(1, fate) == 0:
        return b"", None
    return (images.partial(recipe, 1, 4), None) if ending == stored.FILTERED else outcomes.file_of(recipe, fate)


def _recipe(order: Order, seed: int, fate: Script) -> Recipe:
    mask = _mask(order)
    # Prepared images stand for any of their size; drawing into large inputs is what takes time. What a mask keeps
    # cannot be prepared.
    is_prepared = current_state().settings.prepared and mask is None
    recipe = Recipe(
        *(order.prompt or order.model, order.model, *rules.size_px(order)),
        seed=seed,
        file_format=order.fields.get("output_format", "png"),
        transparent=order.path.endswith("/remove-background"),
        inputs=() if is_prepared else tuple(blob for name, blob in order.files.items() if name != "mask"),
        mask=mask,
        effect=rules.effect_of(order),
        corner_px=rules.corner_px(order),
    )
    return outcomes.altered(recipe, fate)


def _mask(order: Order) -> bytes | None:
    """White is changed here, and our painter changes what is clear; without a mask the image's own alpha counts."""
    if "mask" in order.files:
        return images.clear_where_white(order.files["mask"])
    if "mask" in order.endpoint.parts.properties and order.base is not None and images.has_alpha(order.base):
        return order.base
    return None


ENVIRON = {"STABILITY_BASE_URL": "{url}", "STABILITY_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, StabilityStore, unrouted, ENVIRON)
