"""Stability AI's v2beta under ``/stability``: most endpoints answer at once, two with an id to look up.

Speaks the contract sheet "Stability" (read 2026-11-20): strict parts, prices, the limit of 150 requests in
10 s with its minute of lock-out, blurred pictures for filtered content, results for 24 h.
"""

import base64
import hashlib
import io
import time
import uuid
from dataclasses import replace

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from PIL import Image

from sandbox import misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files, images, models3d
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.stability import rules
from sandbox.emulators.stability.rules import BadParts, Order
from sandbox.emulators.stability.store import Job, StabilityStore
from sandbox.faults import Script
from sandbox.markers import Fault, UnknownFault
from sandbox.state import current_state

NAME = "stability"
PREFIX = "/stability"
REQUEST_BYTES_MAX = 10 * 2**20
KEPT_S = 24 * 3600.0
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

bp = Blueprint("stability", __name__)
recorder.watch(bp, NAME)


class ApiError(Exception):
    """An answer in the error envelope; ``name`` follows from the status where none is given."""

    def __init__(self, status: int, *texts: str, name: str = "") -> None:
        super().__init__("; ".join(texts))
        self.status, self.texts = status, texts
        self.name = name or _NAMES.get(status, "internal_error")

    def response(self) -> Response:
        """v2beta lists its errors, v1 has one message."""
        number = uuid.uuid4().hex
        if request.path.startswith(f"{PREFIX}/v1/"):
            answer = jsonify(id=number, name=self.name, message=str(self))
        else:
            answer = jsonify(id=number, name=self.name, errors=list(self.texts))
        answer.status_code = self.status
        return answer


@bp.errorhandler(ApiError)
def api_error(error: ApiError) -> Response:
    """The envelope, JSON whatever the caller accepts."""
    return error.response()


@bp.errorhandler(BadParts)
def bad_parts(error: BadParts) -> Response:
    """Everything that is wrong with a form, at once."""
    return ApiError(400, *error.complaints).response()


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return ApiError(400, str(error)).response()


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
    wants_json = _wants_json(("image/*", "*/*"))
    order = rules.read(path)
    here, owner, about = current_state(), keys.owner_of(key), _about(order)
    here.counts.submit(NAME, key=prompt_hash(about), prompt=about)
    script = here.script(NAME, "submit", order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    if not _store().charge(owner, key, order.credits):
        raise _no_credits()
    here.counts.accept(NAME, key=prompt_hash(about), prompt=about)
    fate = here.script(NAME, "outcome", order.prompt)
    if order.endpoint.later:
        answer = jsonify(id=_accepted(order, owner, fate).number)
    else:
        answer = _work(order, fate, wants_json=wants_json)
    if _failure(fate):
        _store().refund(owner, order.credits)  # only what was made is billed
    return misbehave.finish(script, answer, _error_for)


@bp.get("/v2beta/results/<number>")
def result(number: str) -> Response:
    """An asynchronous call: 202 while it lasts, then the result for 24 h."""
    owner = keys.owner_of(_key())
    wants_json = _wants_json(("*/*",))
    here = current_state()
    here.counts.check(NAME, 1)
    job = _store().find(owner, number)
    script = here.script(NAME, "check", job.order.prompt if job else "", number)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    if job is None or here.clock.now() >= job.gone_s:
        raise ApiError(404, "no result with this id, or it has expired")
    return misbehave.finish(script, _standing(job, wants_json=wants_json), _error_for)


@bp.get("/v1/user/balance")
def balance() -> Response:
    """The credits left."""
    key = _key()
    return jsonify(credits=_store().credits(keys.owner_of(key), key))


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the sandbox's own limit."""
    return ApiError(wrong.status, f"{wrong.method} {wrong.path}").response()


# ---------------------------------------------------------------- what stands before the work


def _key() -> str:
    """The caller's key, once it is known and within its rate."""
    key = keys.bearer_key()
    if not key or key == keys.BAD_KEY:
        raise ApiError(401, "authorization: invalid or missing header value")
    if not _store().admit(keys.owner_of(key), key):
        raise ApiError(429, TOO_MANY)
    return key


def _wants_json(others: tuple[str, ...]) -> bool:
    """Whether the result shall come in JSON; bytes otherwise."""
    accept = request.headers.get("Accept", others[0])
    if accept not in (*others, "application/json"):
        raise ApiError(400, f"accept: must be {others[0]} or application/json")
    return accept == "application/json"


def _about(order: Order) -> str:
    """What a call is counted by: its prompt, or else the picture it works on."""
    return order.prompt or f"{order.path} of {hashlib.sha256(order.base or b'').hexdigest()}"


# ---------------------------------------------------------------- the work


def _accepted(order: Order, owner: str, fate: Script) -> Job:
    here = current_state()
    lasts_s = float("inf") if fate.get("never") else here.latency_s(fate, order.prompt)
    done_s = here.clock.now() + lasts_s
    steps, expiry = fate.get("steps"), fate.get("expire")
    gone_s = done_s + (expiry.number(0) if expiry else KEPT_S)
    looks = int(steps.number(1)) if steps else 0
    return _store().put(owner, order, fate, seed=_store().seed_for(order), done_s=done_s, gone_s=gone_s, looks=looks)


def _standing(job: Job, *, wants_json: bool) -> Response:
    now = current_state().clock.now()
    if now < job.done_s or job.looks_left > 0:
        if job.looked_s is not None and now - job.looked_s < LOOK_EVERY_S:
            current_state().counts.fault(NAME, LOOKED_TOO_SOON)
        job.looks_left, job.looked_s = job.looks_left - 1, now
        word = job.fate.get("word")
        answer = jsonify(id=job.number, status=word.value if word else "in-progress")
        answer.status_code = 202
        return answer
    return _failure(job.fate) or _result(job.order, job.seed, job.fate, wants_json=wants_json)


def _work(order: Order, fate: Script, *, wants_json: bool) -> Response:
    here = current_state()
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    time.sleep(here.latency_s(fate, order.prompt))
    return _failure(fate) or _result(order, _store().seed_for(order), fate, wants_json=wants_json)


def _failure(fate: Script) -> Response | None:
    """How a call ends that made nothing; ``fail=moderation`` is none of them, for it makes a blurred picture."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None or fault.value == "moderation":
        return None
    if fault.name == "timeout":
        return Response("<html><h1>504 Gateway Time-out</h1></html>", status=504, content_type="text/html")
    if fault.value == "policy":
        return _flagged().response()
    return ApiError(500, "an unexpected server error has occurred").response()


def _result(order: Order, seed: int, fate: Script, *, wants_json: bool) -> Response:
    if order.endpoint.makes == "glb":
        return Response(_model(order, seed, fate), content_type=models3d.CONTENT_TYPE)
    fault = fate.get("fail")
    reason = "CONTENT_FILTERED" if fault and fault.value == "moderation" else "SUCCESS"
    recipe = _recipe(order, seed, fate)
    blob, odd_type = _file(recipe, fate, filtered=reason != "SUCCESS")
    content_type = odd_type or CONTENT_TYPES[recipe.file_format]
    if not wants_json:
        answer = Response(blob, content_type=content_type)
        answer.headers["finish-reason"], answer.headers["seed"] = reason, str(seed)
        return answer
    image = {"image": base64.b64encode(blob).decode()} if blob else {}
    answer = jsonify(**image, finish_reason=reason, seed=seed)
    answer.content_type = f"application/json; type={content_type}"
    return answer


def _model(order: Order, seed: int, fate: Script) -> bytes:
    if fate.get("empty", "fewer"):
        return b""
    blob = models3d.glb(f"{order.path} {seed} {hashlib.sha256(order.base or b'').hexdigest()}")
    return bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), blob)[0]


def _file(recipe: Recipe, fate: Script, *, filtered: bool) -> tuple[bytes, str | None]:
    here = current_state()
    if fate.get("empty", "fewer"):
        return b"", None
    if filtered:
        return images.partial(recipe, 1, 4), None
    blob = here.gallery.file(recipe, prepared=here.settings.prepared)
    return bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), blob)


def _recipe(order: Order, seed: int, fate: Script) -> Recipe:
    width, height = rules.size_px(order)
    if fate.get("wrong_size"):
        width, height = max(16, width // 2), max(16, height // 2)
    recipe = Recipe(
        prompt=order.prompt or order.model,
        model=order.model,
        width_px=width,
        height_px=height,
        seed=seed,
        file_format=order.texts.get("output_format", "png"),
        transparent=order.path.endswith("/remove-background"),
        inputs=tuple(order.files[name] for name in order.files if name != "mask"),
        mask=_mask(order),
    )
    if fate.get("wrong_format"):
        recipe = replace(recipe, file_format="png" if recipe.file_format == "jpeg" else "jpeg")
    # Prepared pictures stand for any of their size; drawing into large inputs is what takes time. What a mask
    # keeps cannot be prepared.
    return replace(recipe, inputs=()) if current_state().settings.prepared and recipe.mask is None else recipe


def _mask(order: Order) -> bytes | None:
    """White is changed here, and our painter changes what is clear; without a mask the picture's own alpha counts."""
    if "grow_mask" not in order.endpoint.parts or "mask" not in order.endpoint.parts or order.base is None:
        return None
    if "mask" not in order.files:
        return order.base if images.has_alpha(order.base) else None
    with Image.open(io.BytesIO(order.files["mask"])) as given:
        keep = given.convert("L").point([255 - level for level in range(256)])
    mask, out = Image.new("RGBA", keep.size), io.BytesIO()
    mask.putalpha(keep)
    mask.save(out, "PNG")
    return out.getvalue()


# ---------------------------------------------------------------- errors and the shelf


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


def _store() -> StabilityStore:
    store = current_state().stores[NAME]
    if not isinstance(store, StabilityStore):
        raise TypeError("the shelf of another twin")
    return store


ENVIRON = {"STABILITY_BASE_URL": "{url}", "STABILITY_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, StabilityStore, unrouted, ENVIRON)
