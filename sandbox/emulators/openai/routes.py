"""OpenAI's Images, Models and Chat Completions routes under ``/openai/v1``, as strict as the real ones."""

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, g, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files, images
from sandbox.drawing.images import Recipe
from sandbox.drawing.sizes import DEFAULT_PX
from sandbox.emulators import EmptyStore, Emulator, Wrong, keys
from sandbox.emulators.openai import errors, rules
from sandbox.emulators.openai.errors import ApiError
from sandbox.emulators.openai.rules import ImageOrder
from sandbox.faults import Script
from sandbox.markers import Fault, UnknownFault
from sandbox.state import current_state

NAME = "openai"
PREFIX = "/openai"
TEXT_MODELS = (
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5.5",
    "o4-mini",
)
_TEXT_MODEL = re.compile(r"^(gpt-\d|chatgpt-|o\d)(?!.*image)")
_REASONING = re.compile(r"^(o\d|gpt-5)(?!.*chat)")
# Output tokens of one 1024 x 1024 picture.
_TOKENS = {"low": 272, "medium": 1056, "high": 4160, "xhigh": 8320, "max": 16640}
_CHAT_FIELDS = frozenset({
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "n", "stop", "max_tokens",
    "max_completion_tokens", "presence_penalty", "frequency_penalty", "user", "safety_identifier",
    "seed", "response_format", "reasoning_effort", "verbosity", "metadata", "store", "service_tier",
    "modalities", "logprobs", "top_logprobs", "logit_bias", "tools", "tool_choice", "prompt_cache_key",
})  # fmt: skip

bp = Blueprint("openai", __name__)
recorder.watch(bp, NAME)


@bp.errorhandler(ApiError)
def api_error(error: ApiError) -> Response:
    """The envelope."""
    return error.response()


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return ApiError(str(error), param="prompt").response()


@bp.before_request
def start_clock() -> None:
    """For the processing-time header."""
    g.openai_begun = time.monotonic()


@bp.after_request
def house_headers(answer: Response) -> Response:
    """The headers every answer carries."""
    answer.headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
    answer.headers["openai-version"] = "2020-10-01"
    answer.headers["openai-processing-ms"] = str(int((time.monotonic() - g.openai_begun) * 1000))
    return answer


@bp.post("/v1/images/generations")
def generate() -> Response:
    """One call, one job: answers when the picture is done."""
    key = _key()
    return _serve(rules.read_generation(), key, "image_generation")


@bp.post("/v1/images/edits")
def edit() -> Response:
    """Edits of one to sixteen pictures, with a mask or without."""
    key = _key()
    return _serve(rules.read_edit(), key, "image_edit")


@bp.post("/v1/images/variations")
def variations() -> Response:
    """Retired with its only model."""
    _key()
    raise errors.model_not_found(request.form.get("model", "dall-e-2"))


def _serve(order: ImageOrder, key: str, event: str) -> Response:
    if key == keys.NO_ORG_KEY:
        raise errors.unverified_organization(order.model)
    here = current_state()
    here.counts.submit(
        NAME,
        key=prompt_hash(order.prompt),
        prompt=order.prompt,
        request_id=request.headers.get("X-Client-Request-Id", ""),
    )
    if key == keys.NO_QUOTA_KEY:
        raise errors.no_quota()
    script = here.script(NAME, "submit", order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for(order.model))
    # From here on the call is paid for, whatever becomes of its answer.
    here.counts.accept(NAME, key=prompt_hash(order.prompt), prompt=order.prompt)
    fate = here.script(NAME, "outcome", order.prompt)
    return misbehave.finish(script, _work(order, fate, event), _error_for(order.model))


def _work(order: ImageOrder, fate: Script, event: str) -> Response:
    here = current_state()
    latency_s = here.latency_s(fate, order.prompt)
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    if order.stream:
        return Response(_stream(order, fate, event, latency_s, _drawing()), content_type="text/event-stream")
    time.sleep(latency_s)
    if failure := _failure(fate):
        return failure
    return jsonify(_answer(order, fate, _drawing()))


def _failure(fate: Script) -> Response | None:
    """How a paid call ends without a picture."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None:
        return None
    if fault.name == "timeout":
        return errors.gateway_page(504)
    if fault.name == "restart":
        return errors.server_error(503).response()
    if fault.value in ("policy", "moderation"):
        return errors.moderation_blocked().response()
    return errors.server_error().response()


Draw = Callable[[Recipe], bytes]


def _drawing() -> Draw:
    """Draws without a request at hand: a stream does so after its request is over."""
    here = current_state()
    return lambda recipe: here.gallery.file(recipe, prepared=here.settings.prepared)


def _recipe(order: ImageOrder, place: int, fate: Script) -> Recipe:
    size_px = order.size_px or (images.dimensions(order.inputs[0]) if order.inputs else DEFAULT_PX)
    recipe = Recipe(
        prompt=order.prompt,
        model=order.model,
        width_px=size_px[0],
        height_px=size_px[1],
        seed=place,
        file_format=order.output_format,
        transparent=order.background == "transparent",
        quality=90 if order.compression is None else order.compression,
        frames=order.frames if order.output_format == "gif" else 1,
        frame_ms=order.frame_ms,
        inputs=order.inputs,
        mask=order.mask,
    )
    if fate.get("wrong_size"):
        recipe = replace(recipe, width_px=max(16, size_px[0] // 2), height_px=max(16, size_px[1] // 2))
    if fate.get("wrong_format"):
        recipe = replace(recipe, file_format="png" if order.output_format == "jpeg" else "jpeg")
    return recipe


def _answer(order: ImageOrder, fate: Script, draw: Draw) -> dict[str, Any]:
    fewer = fate.get("fewer")
    count = 0 if fate.get("empty") else max(0, order.n - int(fewer.number(1) if fewer else 0))
    items = [{"b64_json": _encoded(draw, _recipe(order, place, fate), fate)} for place in range(count)]
    echo = _echo(order)
    if order.safety_identifier:
        echo["safety_identifier"] = order.safety_identifier
    document = {"created": int(time.time()), **echo, "data": items, "usage": _usage(order, details=True)}
    if order.output_format == "svg":
        document["svg_usage"] = {
            "model": "gpt-5.5",
            "input_tokens": 900,
            "output_tokens": 700,
            "reasoning_tokens": 0,
            "total_tokens": 1600,
        }
    return document


def _encoded(draw: Draw, recipe: Recipe, fate: Script) -> str:
    blob, _ = bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), draw(recipe))
    return base64.b64encode(blob).decode()


def _echo(order: ImageOrder) -> dict[str, Any]:
    """What was drawn in the end, where the request left it to the service."""
    width, height = order.size_px or (images.dimensions(order.inputs[0]) if order.inputs else DEFAULT_PX)
    return {
        "background": "opaque" if order.background == "auto" else order.background,
        "output_format": order.output_format,
        "quality": "medium" if order.quality == "auto" else order.quality,
        "size": f"{width}x{height}",
    }


def _usage(order: ImageOrder, *, details: bool) -> dict[str, Any]:
    width, height = order.size_px or DEFAULT_PX
    per_picture = _TOKENS["medium" if order.quality == "auto" else order.quality]
    drawn = round(per_picture * width * height / 2**20) * order.n
    text, seen = chat.tokens_in(order.prompt), 320 * len(order.inputs)
    counted: dict[str, Any] = {
        "input_tokens": text + seen,
        "output_tokens": drawn,
        "total_tokens": text + seen + drawn,
        "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
    }
    if details:
        counted["output_tokens_details"] = {"text_tokens": 0, "image_tokens": drawn}
    return counted


def _stream(order: ImageOrder, fate: Script, event: str, latency_s: float, draw: Draw) -> Iterator[bytes]:
    """Server-sent events: partial pictures, then the completed one; the close ends it."""
    recipe, rounds = _recipe(order, 0, fate), order.partial_images + 1
    for place in range(order.partial_images):
        time.sleep(latency_s / rounds)
        blurred = base64.b64encode(images.partial(recipe, place + 1, rounds)).decode()
        yield _event(f"{event}.partial_image", order, b64_json=blurred, partial_image_index=place)
    time.sleep(latency_s / rounds)
    if fate.get("early_close"):
        return
    if fate.get("fail", "stream_error"):
        yield f"event: error\ndata: {json.dumps(errors.server_error().document())}\n\n".encode()
        return
    done = _encoded(draw, recipe, fate)
    yield _event(f"{event}.completed", order, b64_json=done, usage=_usage(order, details=False))


def _event(kind: str, order: ImageOrder, **fields: object) -> bytes:
    document = {"type": kind, **fields, "created_at": int(time.time()), **_echo(order)}
    return f"event: {kind}\ndata: {json.dumps(document)}\n\n".encode()


@bp.get("/v1/models")
def models() -> Response:
    """The list; a listed model need not be usable."""
    _key()
    listed = [*(_model(name) for name in rules.IMAGE_MODELS), *(_model(name) for name in TEXT_MODELS)]
    script = current_state().script(NAME, "models")
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for("models"))
    return misbehave.finish(script, jsonify(object="list", data=listed), _error_for("models"))


@bp.get("/v1/models/<name>")
def model(name: str) -> Response:
    """One of them."""
    _key()
    if name not in rules.IMAGE_MODELS and name not in TEXT_MODELS:
        raise errors.model_not_found(name)
    return jsonify(_model(name))


def _model(name: str) -> dict[str, object]:
    known = rules.IMAGE_MODELS.get(name)
    created = known.created_at if known else 1744300000
    return {"id": name, "object": "model", "created": created, "owned_by": "system", "shutdown_date": None}


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """Text, streamed or whole."""
    key = _key()
    document = rules.json_body()
    asked = _checked_chat(document)
    here = current_state()
    here.counts.chat(NAME)
    if key == keys.NO_QUOTA_KEY:
        raise errors.no_quota()
    script, name = here.script(NAME, "chat", asked), str(document["model"])
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for(name))
    talk = chat.talk_for(document, asked)
    if document.get("stream") is not True:
        return misbehave.finish(script, jsonify(chat.whole(talk, script)), _error_for(name))
    stream = chat.stream(talk, script, delta_pause_s=here.settings.chat_delta_s)
    return misbehave.finish(script, Response(stream, content_type="text/event-stream"), _error_for(name))


def _checked_chat(document: dict[str, Any]) -> str:
    """The last user message of a request that passes. Raises ApiError."""
    for field in document:
        if field not in _CHAT_FIELDS:
            raise ApiError(f"Unrecognized request argument supplied: {field}")
    name = document.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError("you must provide a model parameter")
    if not _TEXT_MODEL.match(name):
        raise errors.model_not_found(name)
    if not isinstance(document.get("messages"), list) or not document["messages"]:
        raise errors.missing("messages")
    _check_temperature(document, name)
    if "max_tokens" in document and _REASONING.match(name):
        text = "Unsupported parameter: 'max_tokens' is not supported with this model. "
        text += "Use 'max_completion_tokens' instead."
        raise ApiError(text, code="unsupported_parameter", param="max_tokens")
    return chat.user_text(document["messages"])


def _check_temperature(document: dict[str, Any], name: str) -> None:
    warmth = document.get("temperature")
    if warmth is None:
        return
    if isinstance(warmth, bool) or not isinstance(warmth, (int, float)):
        raise ApiError("Invalid type for 'temperature': expected a decimal.", code="invalid_type", param="temperature")
    if not 0 <= warmth <= 2:
        text = f"Invalid 'temperature': decimal out of range. Expected 0 to 2, but got {warmth}."
        raise ApiError(text, code="decimal_above_max_value", param="temperature")
    if warmth != 1 and _REASONING.match(name):
        text = (
            f"Unsupported value: 'temperature' does not support {warmth} with this model. "
            "Only the default (1) value is supported."
        )
        raise ApiError(text, code="unsupported_value", param="temperature")


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit."""
    if wrong.status == 413:
        return errors.gateway_page(413)
    text = f"Invalid URL ({wrong.method} {wrong.path})"
    if wrong.status == 405:
        text = f"Not allowed to {wrong.method} on {wrong.path} (HINT: perhaps another HTTP method?)"
    return ApiError(text, status=wrong.status).response()


def _error_for(name: str) -> misbehave.ErrorFor:
    def error_for(fault: Fault) -> Response:
        return errors.for_fault(fault, name)

    return error_for


def _key() -> str:
    key = keys.bearer_key()
    if not key:
        raise errors.no_key()
    if key == keys.BAD_KEY:
        raise errors.bad_key(f"{key[:3]}****{key[-2:]}")
    return key


ENVIRON = {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, EmptyStore, unrouted, ENVIRON)
