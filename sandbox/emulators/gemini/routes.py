"""Google's Gemini API under ``/gemini``: one call, one answer, and most refusals with status 200.

``:generateContent`` of the living image models on v1 and v1beta, and Imagen's ``:predict`` for gateways that still
have it. Source: providers/upstreams/gemini/CONTRACT.md.
"""

import base64
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat
from sandbox.counts import prompt_hash
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import EmptyStore, Emulator, Wrong, keys
from sandbox.emulators.gemini import errors, rules
from sandbox.emulators.gemini.errors import ApiError
from sandbox.emulators.gemini.rules import ImageOrder
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.calls import Calls, html_answer, new_blueprint
from sandbox.state import current_state

NAME = "gemini"
PREFIX = "/gemini"
NO_BILLING_KEY = "no-billing"
LEGACY_KEY = "legacy-gateway"
_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)
_BAD_KEY = "API key not valid. Please pass a valid API key."
_SERVICE = {"service": "generativelanguage.googleapis.com"}
_COMMON_ENDS = {"policy": "IMAGE_SAFETY", "moderation": "IMAGE_SAFETY", "text": "STOP"}
_SIGNATURE = base64.b64encode(b"signature").decode()

bp = new_blueprint(NAME, bad_marker=ApiError)


LIST_PAGE = 50


@bp.get("/<any(v1, v1beta):_version>/models")
def models(_version: str) -> Response:
    """The list, by pages. An Imagen model is in it for the keys that may still call it."""
    key = _key()
    names = [*rules.MODELS, *(rules.IMAGEN if key == LEGACY_KEY else ())]
    items = current_state().lists.changed(NAME, map(_listed, names), "name")
    size, token = request.args.get("pageSize", LIST_PAGE, type=int), request.args.get("pageToken", "0")
    if size < 1 or not token.isdecimal():
        raise ApiError("* ListModelsRequest: page_size and page_token must be those of a page.")
    first, after = int(token), int(token) + min(size, 1000)
    more = {"nextPageToken": str(after)} if after < len(items) else {}
    return Calls(NAME, errors.for_fault("")).begin("models").answer(jsonify(models=items[first:after], **more))


def _listed(name: str) -> dict[str, Any]:
    method = "predict" if name in rules.IMAGEN else "generateContent"
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "description": "",
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": [method],
    }


@bp.post("/<any(v1, v1beta):_version>/models/<name>:<method>")
def call(_version: str, name: str, method: str) -> Response:
    """One paid call: answers when the images are there."""
    key = _key()
    _check_timeout()
    if name in rules.MODELS and method == "generateContent":
        return _serve(rules.read_generate(name), key, _generated)
    if name in rules.IMAGEN and method == "predict" and key == LEGACY_KEY:
        return _serve(rules.read_predict(name), key, _predicted)
    raise ApiError(f"models/{name} is not found, or is not supported for {method}.", status=404)


def _key() -> str:
    """By header alone: a key in the URL would end up in logs, so it counts as none."""
    key = request.headers.get("x-goog-api-key", "").strip()
    if not key:
        raise ApiError(_NO_KEY, status=403)
    if key == keys.BAD_KEY:
        info = errors.detail("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com", metadata=_SERVICE)
        raise ApiError(_BAD_KEY, info, errors.detail("LocalizedMessage", locale="en-US", message=_BAD_KEY))
    if key == NO_BILLING_KEY:
        raise ApiError("User location is not supported without a billing account linked.", rpc="FAILED_PRECONDITION")
    return key


def _check_timeout() -> None:
    """Whole seconds, where the caller says how long it will wait."""
    seconds = request.headers.get("X-Server-Timeout")
    if seconds is not None and not (seconds.isdecimal() and int(seconds) > 0):
        raise ApiError(f"Invalid X-Server-Timeout: {seconds[:20]}")


def _serve(order: ImageOrder, key: str, answer_for: Callable[[ImageOrder, Script], dict[str, Any]]) -> Response:
    prompt = order.first.prompt
    calls = Calls(NAME, errors.for_fault(order.first.model))
    calls.count_submit(prompt)
    if key == keys.NO_QUOTA_KEY:
        raise errors.out_of_credit()
    call = calls.begin("submit", prompt)
    fate = call.work()
    return call.answer(_failure(fate) or jsonify(answer_for(order, fate)))


def _failure(fate: Script) -> Response | None:
    """How a call ends that makes nothing and says so by its status."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None or (fault.name == "fail" and fault.value):
        return None
    if fault.name == "timeout":
        return html_answer(504)
    return ApiError("An internal error has occurred.", status=500 if fault.name == "fail" else 503).response()


# ---------------------------------------------------------------- generateContent


def _generated(order: ImageOrder, fate: Script) -> dict[str, Any]:
    candidates = [_candidate(order, fate)]
    if fewer := fate.get("fewer"):  # a second one: blocked, or an image too many
        blocked = {"finishReason": "IMAGE_SAFETY", "content": {"role": "model"}}
        candidates.append({**(candidates[0] if fewer.number(1) < 0 else blocked), "index": 1})
    return {
        "candidates": candidates,
        "usageMetadata": _usage(order, drawn=not fate.get("fail", "empty")),
        "modelVersion": order.first.model,
        "responseId": uuid.uuid4().hex[:16],
    }


def _candidate(order: ImageOrder, fate: Script) -> dict[str, Any]:
    if fault := fate.get("fail"):
        return _without_image(order, fault.value)
    content: dict[str, Any] = {"role": "model"}
    if not fate.get("empty"):
        words = [{"text": "Here is your image."}] if order.wants_text else []
        drawn = {"inlineData": _inline(order.first, fate), "thoughtSignature": _SIGNATURE}
        content["parts"] = [*_thoughts(order, fate), *words, drawn]
    return {"index": 0, "finishReason": "STOP", "content": content}


def _without_image(order: ImageOrder, end: str) -> dict[str, Any]:
    """``fail=text`` answers in words, ``fail=<finishReason>`` has nothing but its reason."""
    reason = _COMMON_ENDS.get(end, end.upper())
    candidate: dict[str, Any] = {"index": 0, "finishReason": reason, "content": {"role": "model"}}
    if end == "text":
        candidate["content"]["parts"] = [{"text": "Which of the two foxes do you mean?"}]
        return candidate
    candidate["finishMessage"] = f"Ended by {reason}."
    return candidate | ({"continuationToken": prompt_hash(order.first.prompt)} if reason == "CONTINUATION" else {})


def _thoughts(order: ImageOrder, fate: Script) -> list[dict[str, Any]]:
    """Where they were asked for: one in words and one in an image, which is no result."""
    if not order.thoughts:
        return []
    draft = _inline(replace(order.first, prompt=f"draft of {order.first.prompt}"), fate)
    return [{"text": "Let me think about the light.", "thought": True}, {"inlineData": draft, "thought": True}]


def _inline(recipe: Recipe, fate: Script) -> dict[str, str]:
    recipe = outcomes.altered(recipe, fate)
    # Prepared images are served for any of their size; drawing into large inputs is what takes time.
    recipe = replace(recipe, inputs=()) if current_state().settings.prepared else recipe
    return {"mimeType": CONTENT_TYPES[recipe.file_format], "data": outcomes.base64_of(recipe, fate)}


def _usage(order: ImageOrder, *, drawn: bool) -> dict[str, Any]:
    asked = chat.tokens_in(order.first.prompt) + 1120 * len(order.first.inputs)
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


# ---------------------------------------------------------------- predict


def _predicted(order: ImageOrder, fate: Script) -> dict[str, Any]:
    """A filtered sample is missing, or tells why where that was asked for; all filtered is an empty object."""
    come = 0 if fate.get("fail") else outcomes.count_of(order.count, fate)
    samples = [_sample(replace(order.first, seed=place), fate) for place in range(come)]
    if order.says_filtered and not fate.get("empty"):
        samples += [{"raiFilteredReason": "The image violates our usage guidelines."}] * (order.count - come)
    return {"predictions": samples} if samples else {}


def _sample(recipe: Recipe, fate: Script) -> dict[str, str]:
    found = _inline(recipe, fate)
    return {"bytesBase64Encoded": found["data"], "mimeType": found["mimeType"]}


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit: a page, as the real front answers."""
    return html_answer(wrong.status)


ENVIRON = {"GOOGLE_GEMINI_BASE_URL": "{url}", "GEMINI_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, EmptyStore, unrouted, ENVIRON)
