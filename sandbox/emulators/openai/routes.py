"""OpenAI's Images, Models, Chat Completions and Moderations routes under ``/openai/v1``, as strict as the real ones."""

import base64
import json
import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from flask import Response, g, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave
from sandbox.drawing import images
from sandbox.emulators import EmptyStore, Emulator, Wrong, keys
from sandbox.emulators.openai import errors, moderations, rules, tokens
from sandbox.emulators.openai.errors import ApiError
from sandbox.emulators.openai.rules import ImageOrder
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.calls import Calls, html_answer, new_blueprint
from sandbox.state import State, current_state

NAME = "openai"
PREFIX = "/openai"
TEXT_MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "gpt-5.5", "o4-mini")
_SVG_USAGE = {"input_tokens": 900, "output_tokens": 700, "reasoning_tokens": 0, "total_tokens": 1600}

bp = new_blueprint(NAME, bad_marker=lambda text: ApiError("conflict", param="prompt", complaint=text))


def _calls(model: str) -> Calls:
    return Calls(NAME, partial(errors.for_fault, model=model))


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


def _key() -> str:
    key = keys.bearer_key()
    if not key:
        raise ApiError("no_key")
    if key == keys.BAD_KEY:
        raise ApiError("bad_key", shown=f"{key[:3]}****{key[-2:]}")
    return key


# ---------------------------------------------------------------- images


@bp.post("/v1/images/generations")
def generate() -> Response:
    """One call, one job: answers when the image is done."""
    key = _key()
    return _serve(rules.read_generation(), key, "image_generation")


@bp.post("/v1/images/edits")
def edit() -> Response:
    """Edits of one to sixteen images, with a mask or without."""
    key = _key()
    return _serve(rules.read_edit(), key, "image_edit")


@bp.post("/v1/images/variations")
def variations() -> Response:
    """Retired with its only model."""
    _key()
    raise ApiError("model_not_found", model=request.form.get("model", "dall-e-2"))


def _serve(order: ImageOrder, key: str, event: str) -> Response:
    if key == keys.NO_ORG_KEY:
        raise ApiError("unverified", model=order.model)
    calls = _calls(order.model)
    calls.count_submit(order.prompt, request_id=request.headers.get("X-Client-Request-Id", ""))
    if key == keys.NO_QUOTA_KEY:
        raise ApiError("quota")
    call = calls.begin("submit", order.prompt)
    # From here on the call is paid for, whatever becomes of its answer.
    return call.answer(_work(order, call.accept(), event))


def _work(order: ImageOrder, fate: Script, event: str) -> Response:
    here = current_state()
    latency_s = here.latency_s(fate, order.prompt)
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    if order.fields["stream"]:
        return Response(_stream(order, fate, event, latency_s, here), content_type="text/event-stream")
    time.sleep(latency_s)
    return _failure(fate) or jsonify(_answer(order, fate))


def _failure(fate: Script) -> Response | None:
    """How a paid call ends without an image."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None:
        return None
    if fault.name == "timeout":
        return html_answer(504)
    if fault.name == "restart":
        return ApiError("503").response()
    return ApiError("refuse" if fault.value in ("policy", "moderation") else "server_error").response()


def _answer(order: ImageOrder, fate: Script) -> dict[str, Any]:
    drawn = outcomes.recipes(order.recipe, order.fields["n"], fate)
    items = [{"b64_json": outcomes.base64_of(recipe, fate)} for recipe in drawn]
    echo = _echo(order)
    if order.fields.get("safety_identifier"):
        echo["safety_identifier"] = order.fields["safety_identifier"]
    document = {"created": int(time.time()), **echo, "data": items, "usage": _usage(order, details=True)}
    if order.fields["output_format"] == "svg":
        document["svg_usage"] = {"model": "gpt-5.5", **_SVG_USAGE}
    return document


def _echo(order: ImageOrder) -> dict[str, Any]:
    """What was drawn in the end, where the request left it to the service."""
    background, quality = order.fields["background"], order.fields["quality"]
    return {
        "background": "opaque" if background == "auto" else background,
        "output_format": order.fields["output_format"],
        "quality": "medium" if quality == "auto" else quality,
        "size": f"{order.recipe.width_px}x{order.recipe.height_px}",
    }


def _usage(order: ImageOrder, *, details: bool) -> dict[str, Any]:
    drawn = tokens.of_output(order, _echo(order)["quality"]) * order.fields["n"]
    text, seen = tokens.of_text(order.prompt), tokens.of_inputs(order)
    counted: dict[str, Any] = {
        "input_tokens": text + seen,
        "output_tokens": drawn,
        "total_tokens": text + seen + drawn,
        "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
    }
    if details:
        counted["output_tokens_details"] = {"text_tokens": 0, "image_tokens": drawn}
    return counted


def _stream(order: ImageOrder, fate: Script, event: str, latency_s: float, here: State) -> Iterator[bytes]:
    """Server-sent events: partial images, then the completed one; the close ends it.

    It runs when the request is over, so the state is handed in.
    """
    recipe, partials = outcomes.altered(order.recipe, fate), order.fields["partial_images"]
    for place in range(partials):
        time.sleep(latency_s / (partials + 1))
        blurred = base64.b64encode(images.partial(recipe, place + 1, partials + 1)).decode()
        yield _event(f"{event}.partial_image", order, b64_json=blurred, partial_image_index=place)
    time.sleep(latency_s / (partials + 1))
    if fate.get("early_close"):
        return
    if fate.get("fail", "stream_error"):
        yield f"event: error\ndata: {json.dumps(ApiError('server_error').document)}\n\n".encode()
        return
    done = outcomes.base64_of(recipe, fate, here)
    yield _event(f"{event}.completed", order, b64_json=done, usage=_usage(order, details=False))


def _event(kind: str, order: ImageOrder, **fields: object) -> bytes:
    document = {"type": kind, **fields, "created_at": int(time.time()), **_echo(order)}
    return f"event: {kind}\ndata: {json.dumps(document)}\n\n".encode()


# ---------------------------------------------------------------- models and chat


@bp.get("/v1/models")
def models() -> Response:
    """The list; a listed model need not be usable."""
    _key()
    call = _calls("models").begin("models")
    listed = [_model(name) for name in (*rules.IMAGE_MODELS, *TEXT_MODELS)]
    return call.answer(jsonify(object="list", data=current_state().lists.changed(NAME, listed, "id")))


@bp.get("/v1/models/<name>")
def model(name: str) -> Response:
    """One of them."""
    _key()
    if name not in rules.IMAGE_MODELS and name not in TEXT_MODELS:
        raise ApiError("model_not_found", model=name)
    return jsonify(_model(name))


def _model(name: str) -> dict[str, object]:
    created = rules.IMAGE_MODELS.get(name, {}).get("created", 1744300000)
    return {"id": name, "object": "model", "created": created, "owned_by": "system", "shutdown_date": None}


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """Text, streamed or whole."""
    key = _key()
    document, asked = rules.read_chat()
    barred = ApiError("quota") if key == keys.NO_QUOTA_KEY else None
    return chat.serve(_calls(document["model"]), document, asked, barred=barred)


@bp.post("/v1/moderations")
def moderate() -> Response:
    """What a text or an image would be refused for."""
    _key()
    model, texts = moderations.read()
    calls = [_calls(model).begin(moderations.PLACE, text, takes_refused=True) for text in texts]
    flags = [call.script.get("refuse") for call in calls]
    return calls[0].answer(jsonify(moderations.document(model, flags)))


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit."""
    if wrong.status == 413:
        return html_answer(413)
    name = "405" if wrong.status == 405 else "404"
    return ApiError(name, status=wrong.status, method=wrong.method, path=wrong.path).response()


ENVIRON = {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, EmptyStore, unrouted, ENVIRON)
