"""xAI's picture, model and chat routes under ``/xai/v1``, and the host of its temporary links beside them.

Speaks the contract sheet "xAI (Grok Imagine)" (read 2026-11-20): OpenAI's paths, JSON alone, flat errors.
"""

import base64
import time
import uuid
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave, recorder
from sandbox.bounded import BoundedStore
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.xai import errors, rules
from sandbox.emulators.xai.errors import ApiError
from sandbox.emulators.xai.rules import Order
from sandbox.faults import Script
from sandbox.markers import Fault, UnknownFault
from sandbox.state import State, current_state

NAME = "xai"
PREFIX = "/xai"
LINKS_LIVE_S = 3600.0  # "temporary"; how long is not documented
# Counted as a fault in the tallies: a key sent along to the host of the links.
KEY_LEAKED = "key_leaked"
TEXT_MODELS = ("grok-4.3", "grok-4.5", "grok-4.6")
_CHAT_FIELDS = frozenset({
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "n", "stop", "max_tokens",
    "max_completion_tokens", "user", "seed", "response_format", "reasoning_effort",
})  # fmt: skip

bp = Blueprint("xai", __name__)
recorder.watch(bp, NAME)


@dataclass(frozen=True)
class Link:
    """A picture that can be fetched until ``gone_s``; seconds since 1970 on the sandbox's clock."""

    recipe: Recipe
    prompt: str
    fault: Fault | None
    gone_s: float


class XaiStore:
    """The links handed out. The API itself keeps no work between two calls."""

    def __init__(self, sandbox_state: State) -> None:
        self.links: BoundedStore[str, Link] = BoundedStore(
            items_max=sandbox_state.settings.tasks_max, size_max=2**28, size_of=lambda link: link.recipe.size_bytes
        )

    def clear(self) -> None:
        """Forget every link."""
        self.links.clear()

    def restart(self) -> int:
        """Nothing to break off."""
        return 0


@bp.errorhandler(ApiError)
def api_error(error: ApiError) -> Response:
    """The flat body."""
    return error.response()


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return ApiError(str(error)).response()


# ---------------------------------------------------------------- pictures


@bp.post("/v1/images/generations")
def generate() -> Response:
    """One call, one answer."""
    key = _key()
    return _serve(rules.read_generation(), key)


@bp.post("/v1/images/edits")
def edit() -> Response:
    """Edits of one to five pictures, as JSON alone."""
    key = _key()
    return _serve(rules.read_edit(), key)


def _key() -> str:
    key = keys.bearer_key()
    if not key:
        raise errors.no_key()
    if key == keys.BAD_KEY:
        raise errors.bad_key(f"{key[:2]}***{key[-2:]}")
    return key


def _serve(order: Order, key: str) -> Response:
    here = current_state()
    here.counts.submit(NAME, key=prompt_hash(order.prompt), prompt=order.prompt)
    if key == keys.NO_QUOTA_KEY:
        raise errors.out_of_credit()
    script = here.script(NAME, "submit", order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    here.counts.accept(NAME, key=prompt_hash(order.prompt), prompt=order.prompt)
    fate = here.script(NAME, "outcome", order.prompt)
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    time.sleep(here.latency_s(fate, order.prompt))
    return misbehave.finish(script, _failure(order, fate) or _answer(order, fate), errors.for_fault)


def _failure(order: Order, fate: Script) -> Response | None:
    """How a call ends that makes nothing and says so by its status."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None or fault.value == "withheld":
        return None
    if fault.name == "timeout":
        return errors.gateway_page(504)
    if fault.value in {"policy", "moderation"}:  # after the work, and at its price
        return errors.moderated(order.ticks * order.n).response()
    return ApiError("An error occurred on our side.", status=500 if fault.name == "fail" else 503).response()


def _answer(order: Order, fate: Script) -> Response:
    fewer, fault = fate.get("fewer"), fate.get("fail")
    count = 0 if fate.get("empty") else max(0, order.n - int(fewer.number(1) if fewer else 0))
    items = [_item(order, fate, place) for place in range(count)]
    if fault:  # withheld: one as a placeholder, the rest without anything
        items = [{**items[0], "respect_moderation": False}, *({"respect_moderation": False} for _ in items[1:])]
    document: dict[str, Any] = {"data": items, "usage": {"cost_in_usd_ticks": order.ticks * order.n}}
    if order.model.names_itself:
        document["model"] = order.model.answers_as
    return jsonify(document)


def _item(order: Order, fate: Script, place: int) -> dict[str, Any]:
    here, form = current_state(), fate.get("form")
    recipe = _recipe(order, fate, place)
    fault = fate.get(*bad_files.IMAGE_FAULTS)
    item: dict[str, Any] = {"mime_type": CONTENT_TYPES[recipe.file_format], "revised_prompt": ""}
    if not order.wants_bytes or (form and form.value == "url"):
        return item | {"url": _link(Link(recipe, order.prompt, fault, _gone_s(fate)), fate)}
    blob, _ = bad_files.spoil(fault, here.gallery.file(recipe, prepared=here.settings.prepared))
    prefix = f"data:{item['mime_type']};base64," if form and form.value == "prefix" else ""
    return item | {"b64_json": prefix + base64.b64encode(blob).decode()}


def _recipe(order: Order, fate: Script, place: int) -> Recipe:
    width, height = rules.size_px(order)
    if fate.get("wrong_size"):
        width, height = max(16, width // 2), max(16, height // 2)
    return Recipe(
        prompt=order.prompt,
        model=order.model.answers_as,
        width_px=width,
        height_px=height,
        seed=place,
        file_format="png" if fate.get("wrong_format") else "jpeg",
        # Prepared pictures stand for any of their size; drawing into large inputs is what takes time.
        inputs=() if current_state().settings.prepared else order.inputs,
    )


# ---------------------------------------------------------------- links


def _gone_s(fate: Script) -> float:
    expire = fate.get("expire")
    return current_state().clock.now() + (expire.number(0) if expire else LINKS_LIVE_S)


def _link(link: Link, fate: Script) -> str:
    """An address on this host, or one that leads nowhere (``dead_link``, ``dead_link=host``)."""
    number, dead = str(uuid.uuid4()), fate.get("dead_link")
    if dead is None:
        _store().links.put(number, link)
    host = "http://127.0.0.1:1" if dead and dead.value == "host" else request.host_url.rstrip("/")
    return f"{host}{PREFIX}/imgen/xai-tmp-imgen-{number}.{link.recipe.file_format}"


@bp.get("/imgen/xai-tmp-imgen-<uuid:number>.<any(jpeg, png):_ending>")
def picture(number: uuid.UUID, _ending: str) -> ResponseReturnValue:
    """The picture behind a temporary link. Takes no key."""
    here, link = current_state(), _store().links.get(str(number))
    if "Authorization" in request.headers:
        here.counts.fault(NAME, KEY_LEAKED)
        return ApiError("key leaked").response()
    if link is None or here.clock.now() >= link.gone_s:
        return Response("Not Found", status=404, content_type="text/plain")
    here.counts.download(NAME)
    script = here.script(NAME, "download", link.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    blob = here.gallery.file(link.recipe, prepared=here.settings.prepared)
    blob, odd_type = bad_files.spoil(link.fault, blob)
    answer = Response(blob, content_type=odd_type or CONTENT_TYPES[link.recipe.file_format])
    return misbehave.finish(script, answer, errors.for_fault)


def _store() -> XaiStore:
    store = current_state().stores[NAME]
    if not isinstance(store, XaiStore):
        raise TypeError("the shelf of another twin")
    return store


# ---------------------------------------------------------------- models and chat


@bp.get("/v1/image-generation-models")
def image_models() -> Response:
    """The living ones, with what they cost."""
    _key()
    return jsonify(models=[_image_model(name) for name, known in rules.MODELS.items() if known.answers_as == name])


@bp.get("/v1/image-generation-models/<name>")
def image_model(name: str) -> Response:
    """One of them."""
    _key()
    if name not in rules.MODELS:
        raise errors.no_model(name)
    return jsonify(_image_model(name))


def _image_model(name: str) -> dict[str, Any]:
    return {
        **_model(name),
        "fingerprint": f"fp_{prompt_hash(name)[:4]}",
        "max_prompt_length": 1024,
        "version": "1.0.0",
        "input_modalities": ["text", "image"],
        "output_modalities": ["image"],
        "image_price": rules.MODELS[name].price_cents,
        "aliases": [],
    }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "created": 1770000000, "object": "model", "owned_by": "xai"}


@bp.get("/v1/models")
def models() -> Response:
    """All of them, in OpenAI's form."""
    _key()
    script = current_state().script(NAME, "models")
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    listed = [_model(name) for name in (*rules.MODELS, *TEXT_MODELS)]
    return misbehave.finish(script, jsonify(object="list", data=listed), errors.for_fault)


@bp.get("/v1/api-key")
def api_key() -> Response:
    """What the key may do, at no cost."""
    key = _key()
    blocked = key == keys.NO_QUOTA_KEY
    return jsonify(
        redacted_api_key=f"{key[:2]}***{key[-2:]}",
        name="sandbox",
        acls=["api-key:model:*", "api-key:endpoint:*"],
        team_blocked=blocked,
        api_key_blocked=False,
        api_key_disabled=False,
    )


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """Text, streamed or whole."""
    key = _key()
    document = rules.json_body()
    asked = _checked_chat(document)
    here = current_state()
    here.counts.chat(NAME)
    if key == keys.NO_QUOTA_KEY:
        raise errors.out_of_credit()
    script, talk = here.script(NAME, "chat", asked), chat.talk_for(document, asked)
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    if document.get("stream") is not True:
        return misbehave.finish(script, jsonify(chat.whole(talk, script)), errors.for_fault)
    stream = chat.stream(talk, script, delta_pause_s=here.settings.chat_delta_s)
    return misbehave.finish(script, Response(stream, content_type="text/event-stream"), errors.for_fault)


def _checked_chat(document: dict[str, Any]) -> str:
    """The last user message of a request that passes. Raises ApiError."""
    for name in document:
        if name not in _CHAT_FIELDS:
            raise errors.unsupported(name)
    if document.get("model") not in TEXT_MODELS:
        raise errors.no_model(str(document.get("model")))
    if not isinstance(document.get("messages"), list) or not document["messages"]:
        raise errors.misfit("missing field `messages`")
    warmth = document.get("temperature", 1)
    if isinstance(warmth, bool) or not isinstance(warmth, int | float) or not 0 <= warmth <= 2:
        raise ApiError(f"Invalid temperature: {warmth}. It must be between 0 and 2.")
    return chat.user_text(document["messages"])


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit."""
    return ApiError(f"{wrong.method} {wrong.path} is not available.", status=wrong.status).response()


ENVIRON = {"XAI_BASE_URL": "{url}/v1", "XAI_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, XaiStore, unrouted, ENVIRON)
