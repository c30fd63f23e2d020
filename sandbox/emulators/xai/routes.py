"""xAI's image, model and chat routes under ``/xai/v1``, and the host of its temporary links next to them.

Speaks providers/upstreams/xai/CONTRACT.md (read 2026-11-20): OpenAI's paths, JSON alone, flat errors.
"""

import time
import uuid
from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.xai import errors, rules
from sandbox.emulators.xai.errors import ApiError
from sandbox.emulators.xai.rules import Order
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.calls import Calls, html_answer, new_blueprint
from sandbox.plumbing.tasks import ResultFile, TaskStore
from sandbox.state import current_state

NAME = "xai"
PREFIX = "/xai"
LINKS_LIVE_S = 3600.0  # "temporary"; how long is not documented
# Counted as a fault in the tallies: a key sent along to the host of the links.
KEY_LEAKED = "key_leaked"
CALLS = Calls(NAME, errors.for_fault)

bp = new_blueprint(NAME, bad_marker=ApiError)


# ---------------------------------------------------------------- images


@bp.post("/v1/images/generations")
def generate() -> Response:
    """One call, one answer."""
    key = _key()
    return _serve(rules.read_generation(), key)


@bp.post("/v1/images/edits")
def edit() -> Response:
    """Edits of one to five images, as JSON alone."""
    key = _key()
    return _serve(rules.read_edit(), key)


def _key() -> str:
    key = keys.bearer_key()
    if not key:
        text = "No credentials were given: an Authorization header with a bearer token is needed."
        raise ApiError(text, status=401)
    if key == keys.BAD_KEY:  # a bad argument here: 400
        shown = f"{key[:2]}***{key[-2:]}"
        raise ApiError(f"Incorrect API key provided: {shown}. You can obtain an API key from https://console.x.ai.")
    return key


def _serve(order: Order, key: str) -> Response:
    CALLS.count_submit(order.prompt)
    if key == keys.NO_QUOTA_KEY:
        raise errors.out_of_credit()
    call = CALLS.begin("submit", order.prompt)
    fate = call.accept()
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    time.sleep(current_state().latency_s(fate, order.prompt))
    return call.answer(_failure(order, fate) or _answer(order, fate))


def _failure(order: Order, fate: Script) -> Response | None:
    """How a call ends that makes nothing and says so by its status."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None or fault.value == "withheld":
        return None
    if fault.name == "timeout":
        return html_answer(504)
    if fault.value in {"policy", "moderation"}:  # after the work, and at its price
        return errors.moderated(order.ticks).response()
    return ApiError("An error occurred on our side.", status=500 if fault.name == "fail" else 503).response()


def _answer(order: Order, fate: Script) -> Response:
    items = [_item(order, recipe, fate) for recipe in outcomes.recipes(_recipe(order), order.fields["n"], fate)]
    if fate.get("fail"):  # withheld: one as a placeholder, the rest without anything
        items = [{**items[0], "respect_moderation": False}, *({"respect_moderation": False} for _ in items[1:])]
    document: dict[str, Any] = {"data": items, "usage": {"cost_in_usd_ticks": order.ticks}}
    if order.model.get("names_itself", True):
        document["model"] = order.model["answers_as"]
    return jsonify(document)


def _item(order: Order, recipe: Recipe, fate: Script) -> dict[str, Any]:
    scripted = fate.get("form")
    form = scripted.value if scripted else ""
    item: dict[str, Any] = {"mime_type": CONTENT_TYPES[recipe.file_format], "revised_prompt": ""}
    if order.fields["response_format"] == "url" or form == "url":
        return item | {"url": _publish(recipe, fate)}
    prefix = f"data:{item['mime_type']};base64," if form == "prefix" else ""
    return item | {"b64_json": prefix + outcomes.base64_of(recipe, fate)}


def _recipe(order: Order) -> Recipe:
    width_px, height_px = rules.size_px(order)
    return Recipe(
        prompt=order.prompt,
        model=order.model["answers_as"],
        width_px=width_px,
        height_px=height_px,
        file_format="jpeg",
        # Prepared images stand for any of their size; drawing into large inputs is what takes time.
        inputs=() if current_state().settings.prepared else order.inputs,
    )


# ---------------------------------------------------------------- links


def _publish(recipe: Recipe, fate: Script) -> str:
    """The address of an image on this host; ``dead_link`` leads nowhere."""
    host_url, store = request.host_url.rstrip("/"), current_state().store(NAME, TaskStore)
    path = f"xai-tmp-imgen-{uuid.uuid4()}.{recipe.file_format}"
    until_s = store.now() + outcomes.kept_s(LINKS_LIVE_S, fate)
    if not fate.get("dead_link"):
        file = ResultFile(recipe, recipe.prompt, fate.get(*bad_files.IMAGE_FAULTS), until_s=until_s)
        store.files.put(path, file)
    link = f"{host_url}{PREFIX}/imgen/{path}"
    return outcomes.link_of(link, fate, host_url=host_url, nowhere=link)


@bp.get("/imgen/<path>")
def image(path: str) -> ResponseReturnValue:
    """The image behind a temporary link. Takes no key."""
    here = current_state()
    if "Authorization" in request.headers:
        here.counts.fault(NAME, KEY_LEAKED)
        raise ApiError("key leaked")
    file = here.store(NAME, TaskStore).file(path)
    if file is None:
        return Response("Not Found", status=404, content_type="text/plain")
    content_type = CONTENT_TYPES[file.recipe.file_format]
    return CALLS.download(here.draw(file.recipe), content_type, fault=file.fault, prompt=file.prompt)


# ---------------------------------------------------------------- models and chat


@bp.get("/v1/image-generation-models")
def image_models() -> Response:
    """The living ones, with what they cost."""
    _key()
    living = [name for name, known in rules.MODELS.items() if known["answers_as"] == name]
    changed = current_state().lists.changed(NAME, map(_image_model, living), "id")
    return CALLS.begin("models").answer(jsonify(models=changed))


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
        "image_price": rules.MODELS[name]["price_cents"],
        "aliases": [],
    }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "created": 1770000000, "object": "model", "owned_by": "xai"}


@bp.get("/v1/models")
def models() -> Response:
    """All of them, in OpenAI's form."""
    _key()
    call = CALLS.begin("models")
    listed = [_model(name) for name in (*rules.MODELS, *rules.TEXT_MODELS)]
    return call.answer(jsonify(object="list", data=listed))


@bp.get("/v1/api-key")
def api_key() -> Response:
    """What the key may do, at no cost."""
    key = _key()
    return jsonify(
        redacted_api_key=f"{key[:2]}***{key[-2:]}",
        name="sandbox",
        acls=["api-key:model:*", "api-key:endpoint:*"],
        team_blocked=key == keys.NO_QUOTA_KEY,
        api_key_blocked=False,
        api_key_disabled=False,
    )


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """Text, streamed or whole."""
    key = _key()
    document, asked = rules.read_chat()
    return chat.serve(CALLS, document, asked, barred=errors.out_of_credit() if key == keys.NO_QUOTA_KEY else None)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit."""
    return ApiError(f"{wrong.method} {wrong.path} is not available.", status=wrong.status).response()


ENVIRON = {"XAI_BASE_URL": "{url}/v1", "XAI_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, TaskStore, unrouted, ENVIRON)
