"""Google's Gemini API under ``/gemini``: one call, one answer, and most refusals with status 200.

Speaks the contract sheet "Google Gemini API" (read 2026-11-20): ``:generateContent`` of the living image models
on v1 and v1beta, and Imagen's ``:predict`` for gateways that still have it.
"""

import base64
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import EmptyStore, Emulator, Wrong, keys
from sandbox.emulators.gemini import errors, rules
from sandbox.emulators.gemini.errors import ApiError
from sandbox.emulators.gemini.rules import Order
from sandbox.faults import Script
from sandbox.markers import Fault, UnknownFault
from sandbox.state import current_state

NAME = "gemini"
PREFIX = "/gemini"
NO_BILLING_KEY = "no-billing"
LEGACY_KEY = "legacy-gateway"
_COMMON_ENDS = {"policy": "IMAGE_SAFETY", "moderation": "IMAGE_SAFETY", "text": "STOP"}
AnswerFor = Callable[[Order, Script], Response]
_SIGNATURE = base64.b64encode(b"signature").decode()

bp = Blueprint("gemini", __name__)
recorder.watch(bp, NAME)


@bp.errorhandler(ApiError)
def api_error(error: ApiError) -> Response:
    """The envelope."""
    return error.response()


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return ApiError(str(error)).response()


# ---------------------------------------------------------------- routes


@bp.post("/<any(v1, v1beta):_version>/models/<name>:<method>")
def call(_version: str, name: str, method: str) -> Response:
    """One paid call: answers when the pictures are there."""
    key = _key()
    _check_timeout()
    if name in rules.MODELS and method == "generateContent":
        return _serve(rules.read_generate(name), key, _generated)
    if name in rules.IMAGEN and method == "predict" and key == LEGACY_KEY:
        return _serve(rules.read_predict(name), key, _predicted)
    raise errors.not_found(name, method)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit: a page, as the real front answers."""
    return errors.gateway_page(wrong.status)


def _key() -> str:
    """By header alone: a key in the URL would end up in logs, so it counts as none."""
    key = request.headers.get("x-goog-api-key", "").strip()
    if not key:
        raise errors.no_key()
    if key == keys.BAD_KEY:
        raise errors.bad_key()
    if key == NO_BILLING_KEY:
        raise errors.no_billing()
    return key


def _check_timeout() -> None:
    """Whole seconds, where the caller says how long it will wait."""
    seconds = request.headers.get("X-Server-Timeout")
    if seconds is not None and not (seconds.isdecimal() and int(seconds) > 0):
        raise ApiError(f"Invalid X-Server-Timeout: {seconds[:20]}")


def _serve(order: Order, key: str, answer_for: AnswerFor) -> Response:
    here = current_state()
    here.counts.submit(NAME, key=prompt_hash(order.prompt), prompt=order.prompt)
    if key == keys.NO_QUOTA_KEY:
        raise errors.out_of_credit()

    def error_for(fault: Fault) -> Response:
        return errors.for_fault(fault, order.model)

    script = here.script(NAME, "submit", order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, error_for)
    here.counts.accept(NAME, key=prompt_hash(order.prompt), prompt=order.prompt)
    fate = here.script(NAME, "outcome", order.prompt)
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    time.sleep(here.latency_s(fate, order.prompt))
    return misbehave.finish(script, _failure(fate) or answer_for(order, fate), error_for)


def _failure(fate: Script) -> Response | None:
    """How a call ends that makes nothing and says so by its status."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None or (fault.name == "fail" and fault.value):
        return None
    if fault.name == "timeout":
        return errors.gateway_page(504)
    return ApiError("An internal error has occurred.", status=500 if fault.name == "fail" else 503).response()


# ---------------------------------------------------------------- answers


def _generated(order: Order, fate: Script) -> Response:
    candidates = [_candidate(order, fate)]
    if fewer := fate.get("fewer"):  # a second one: blocked, or a picture too many
        blocked = {"finishReason": "IMAGE_SAFETY", "content": {"role": "model"}}
        candidates.append({**(candidates[0] if fewer.number(1) < 0 else blocked), "index": 1})
    return jsonify(
        candidates=candidates,
        usageMetadata=_usage(order, drawn=not fate.get("fail", "empty")),
        modelVersion=order.model,
        responseId=uuid.uuid4().hex[:16],
    )


def _candidate(order: Order, fate: Script) -> dict[str, Any]:
    fault = fate.get("fail")
    if fault:
        return _barren(order, fault.value)
    if fate.get("empty"):
        return {"index": 0, "finishReason": "STOP", "content": {"role": "model"}}
    parts = _thoughts(order, fate) if order.thoughts else []
    if order.wants_text:
        parts.append({"text": "Here is your picture."})
    parts.append({"inlineData": _inline(order, fate), "thoughtSignature": _SIGNATURE})
    return {"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": parts}}


def _barren(order: Order, end: str) -> dict[str, Any]:
    """A candidate without a picture: ``fail=text`` speaks, ``fail=<finishReason>`` has none but its reason."""
    reason = _COMMON_ENDS.get(end, end.upper())
    content: dict[str, Any] = {"role": "model"}
    if end == "text":
        content["parts"] = [{"text": "Which of the two foxes do you mean?"}]
        return {"index": 0, "finishReason": reason, "content": content}
    found = {"index": 0, "finishReason": reason, "finishMessage": f"Ended by {reason}.", "content": content}
    return found | ({"continuationToken": prompt_hash(order.prompt)} if reason == "CONTINUATION" else {})


def _thoughts(order: Order, fate: Script) -> list[dict[str, Any]]:
    """A thought in words and one in a picture, which is no result."""
    draft = _inline(replace(order, prompt=f"draft of {order.prompt}"), fate)
    return [{"text": "Let me think about the light.", "thought": True}, {"inlineData": draft, "thought": True}]


def _inline(order: Order, fate: Script, place: int = 0) -> dict[str, str]:
    blob, content_type = _picture(order, fate, place)
    return {"mimeType": content_type, "data": base64.b64encode(blob).decode()}


def _picture(order: Order, fate: Script, place: int) -> tuple[bytes, str]:
    here = current_state()
    width, height = rules.size_px(order)
    file_format = order.file_format
    if fate.get("wrong_size"):
        width, height = max(16, width // 2), max(16, height // 2)
    if fate.get("wrong_format"):
        file_format = "png" if file_format == "jpeg" else "jpeg"
    recipe = Recipe(
        prompt=order.prompt,
        model=order.model,
        width_px=width,
        height_px=height,
        seed=order.seed + place,
        file_format=file_format,
        # Prepared pictures stand for any of their size; drawing into large inputs is what takes time.
        inputs=() if here.settings.prepared else order.inputs,
    )
    blob = here.gallery.file(recipe, prepared=here.settings.prepared)
    return bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), blob)[0], CONTENT_TYPES[file_format]


def _usage(order: Order, *, drawn: bool) -> dict[str, Any]:
    asked = chat.tokens_in(order.prompt) + 1120 * len(order.inputs)
    if not drawn:
        return {"promptTokenCount": asked, "totalTokenCount": asked}
    made = order.tokens + (12 if order.wants_text else 0)
    return {
        "promptTokenCount": asked,
        "candidatesTokenCount": made,
        "totalTokenCount": asked + made,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": order.tokens}],
        "thoughtsTokenCount": 0,
    }


def _predicted(order: Order, fate: Script) -> Response:
    """A filtered sample is missing, or tells why where that was asked for; all filtered is an empty object."""
    fewer = fate.get("fewer")
    lost = order.n if fate.get("fail", "empty") else int(fewer.number(1) if fewer else 0)
    samples = [_sample(order, fate, place) for place in range(max(0, order.n - lost))]
    if order.says_filtered and not fate.get("empty"):
        samples += [{"raiFilteredReason": "The image violates our usage guidelines."}] * min(lost, order.n)
    return jsonify({"predictions": samples} if samples else {})


def _sample(order: Order, fate: Script, place: int) -> dict[str, str]:
    found = _inline(order, fate, place)
    return {"bytesBase64Encoded": found["data"], "mimeType": found["mimeType"]}


ENVIRON = {"GOOGLE_GEMINI_BASE_URL": "{url}", "GEMINI_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, EmptyStore, unrouted, ENVIRON)
