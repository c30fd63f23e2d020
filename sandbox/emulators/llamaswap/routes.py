"""llama-swap with sd-server behind it, under ``/llamaswap``: a proxy that loads models, and what they answer.

Open like the real one without ``apiKeys``, but a key that is sent must be a good one.
Source: upstreams sheet "llama-swap".
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import Recipe
from sandbox.drawing.scenery import generator
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.llamaswap import errors, rules
from sandbox.emulators.llamaswap.errors import ProxyError, ServerError
from sandbox.emulators.llamaswap.jobs import Job, LlamaStore
from sandbox.emulators.llamaswap.rules import ImageOrder
from sandbox.faults import Script
from sandbox.markers import UnknownFault
from sandbox.state import current_state

NAME = "llamaswap"
PREFIX = "/llamaswap"
OLD_BUILD_KEY = "old-build"  # its errors are texts
CONCURRENCY_MAX = 10
_OPEN_PATHS = frozenset({f"{PREFIX}/health", f"{PREFIX}/wol-health"})


@dataclass(frozen=True)
class Hosted:
    """One configured model. ``grid_px``: sides are rounded up to a multiple of it."""

    grid_px: int = 16
    loads: bool = True
    survives: bool = True
    draws: bool = True


HOSTED = {
    "z-image": Hosted(),
    "z-image-turbo": Hosted(),
    "sdxl": Hosted(grid_px=64),
    "gpt-image-1": Hosted(),  # an alias, as in the shipped example
    "broken-model": Hosted(loads=False),
    "dying-model": Hosted(survives=False),
    "qwen-chat": Hosted(draws=False),
}

bp = Blueprint(NAME, __name__)
recorder.watch(bp, NAME)


def _store() -> LlamaStore:
    return cast(LlamaStore, current_state().stores[NAME])


@bp.errorhandler(ServerError)
def server_error(error: ServerError) -> Response:
    """sd-server's envelope."""
    return error.response()


@bp.errorhandler(ProxyError)
def proxy_error(error: ProxyError) -> Response:
    """llama-swap's envelope."""
    return error.response(old_build=_sent_key() == OLD_BUILD_KEY)


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return ServerError("invalid params", message=str(error)).response()


@bp.before_request
def check_key() -> None:
    """Basic is looked at first, then Bearer, then ``x-api-key``."""
    if request.path not in _OPEN_PATHS and _sent_key() == keys.BAD_KEY:
        raise ProxyError(401)


def _sent_key() -> str:
    basic = request.authorization
    if basic is not None and basic.type == "basic":
        return basic.password or ""
    return keys.bearer_key() or request.headers.get("x-api-key", "")


# ---------------------------------------------------------------- the proxy


@contextmanager
def _passed_to(model: object) -> Iterator[Hosted]:
    """Find the model, wait while it is loaded, and count the request while it is under way."""
    if not isinstance(model, str) or not model:
        raise ProxyError(404)
    hosted = HOSTED.get(model)
    if hosted is None:
        raise ProxyError(404, f"model {model} not found")
    if not hosted.loads:
        raise ProxyError(500, "unspecific error: upstream command exited prematurely but successfully")
    store = _store()
    if store.under_way[model] >= CONCURRENCY_MAX:
        raise ProxyError(429)
    store.under_way[model] += 1
    try:
        if store.load(model):
            time.sleep(current_state().settings.latency_s / 2)
        yield hosted
    finally:
        store.under_way[model] -= 1


@bp.get("/health")
@bp.get("/wol-health")
def health() -> Response:
    """The proxy is alive; says nothing of any model."""
    return Response("OK", content_type="text/plain")


@bp.get("/v1/models")
@bp.get("/models")
def models() -> Response:
    """The list, text models among the others."""
    script = current_state().script(NAME, "models")
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    listed = [_model(name, hosted) for name, hosted in sorted(HOSTED.items())]
    return misbehave.finish(script, jsonify(object="list", data=listed), errors.for_fault)


def _model(name: str, hosted: Hosted) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "llama-swap",
        "capabilities": {"image_generation": hosted.draws, "image_to_image": hosted.draws},
        "meta": {"llamaswap": {"type": "model"}},
        "status": {"value": "loaded" if _store().loaded == name else "unloaded"},
    }


@bp.get("/running")
def running() -> Response:
    """What is loaded."""
    loaded = _store().loaded
    if loaded is None:
        return jsonify(running=[])
    process = {"model": loaded, "state": "ready", "cmd": "sd-server", "proxy": "http://127.0.0.1:5800", "ttl": 300}
    return jsonify(running=[{**process, "name": "", "description": ""}])


@bp.get("/unload")
def unload() -> Response:
    """Free the GPU. Kills running work."""
    _store().restart()
    return Response("OK", content_type="text/plain")


# ---------------------------------------------------------------- sd-server: pictures at once

Render = Callable[[ImageOrder, list[str]], Response]


@bp.post("/v1/images/generations")
def generate() -> Response:
    """OpenAI's route: settings in the prompt's tag."""
    document = _json()
    with _passed_to(document.get("model")) as hosted:
        return _serve(rules.read_open_ai(document, (), None, hosted.grid_px), hosted, document["model"], _as_open_ai)


@bp.post("/v1/images/edits")
def edit() -> Response:
    """OpenAI's other route: a form."""
    if request.mimetype != "multipart/form-data":
        raise ServerError("Content-Type must be multipart/form-data")
    with _passed_to(request.form.get("model")) as hosted:
        document = {name: _typed(name, value) for name, value in request.form.items()}
        if document.get("output_format") == "webp":
            raise ServerError("invalid output_format, must be one of [png, jpeg]")
        inputs, mask = _uploads()
        order = rules.read_open_ai(document, inputs, mask, hosted.grid_px)
        return _serve(order, hosted, request.form["model"], _as_open_ai)


def _typed(name: str, value: str) -> object:
    if name in ("n", "output_compression", "steps", "seed", "cfg_scale"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _uploads() -> tuple[tuple[bytes, ...], bytes | None]:
    if stray := set(request.files) - {"image", "image[]", "mask"}:
        raise ServerError("invalid params", message=f"unknown field {sorted(stray)[0]}")
    if len(request.files.getlist("image")) > 1:
        raise ServerError("invalid params", message="of several images only the first would be read")
    files = [*request.files.getlist("image"), *request.files.getlist("image[]")]
    if not files:
        raise ServerError("at least one image[] required")
    inputs = tuple(rules.readable(upload.read()) for upload in files)
    mask = request.files.get("mask")
    return inputs, None if mask is None else rules.inverted_mask(mask.read(), inputs)


@bp.post("/sdapi/v1/txt2img")
def text_to_image() -> Response:
    """The WebUI's route."""
    return _web_ui(is_edit=False)


@bp.post("/sdapi/v1/img2img")
def image_to_image() -> Response:
    """The WebUI's route with a picture, and with a mask or without."""
    return _web_ui(is_edit=True)


def _web_ui(*, is_edit: bool) -> Response:
    document = _json()
    with _passed_to(document.get("model")) as hosted:
        seed = generator(document.get("prompt"), current_state().clock.now()).randrange(2**31)
        order = rules.read_web_ui(document, is_edit=is_edit, random_seed=seed, grid_px=hosted.grid_px)
        return _serve(order, hosted, document["model"], _as_web_ui)


def _json() -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise ServerError("Content-Type must be application/json")
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise ServerError("server_error", 500, "[json.exception.parse_error.101] syntax error") from error
    if not isinstance(document, dict):
        raise errors.wrong_json("body")
    return document


def _serve(order: ImageOrder, hosted: Hosted, model: str, render: Render) -> Response:
    script, fate = _taken_on(order, hosted)
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    return misbehave.finish(script, _drawn(order, fate, model, render), errors.for_fault)


def _taken_on(order: ImageOrder, hosted: Hosted) -> tuple[Script, Script]:
    """The faults of the answer and of the work; the work is counted unless it is refused."""
    here, asked = current_state(), prompt_hash(order.prompt)
    here.counts.submit(NAME, key=asked, prompt=order.prompt)
    if not hosted.draws:
        raise ServerError("loaded model does not support img_gen")
    script = here.script(NAME, "submit", order.prompt)
    if script.refusal:
        return script, Script()
    here.counts.accept(NAME, key=asked, prompt=order.prompt)
    return script, here.script(NAME, "outcome", order.prompt)


def _drawn(order: ImageOrder, fate: Script, model: str, render: Render) -> Response:
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    time.sleep(current_state().latency_s(fate, order.prompt))
    if fate.get("restart", "timeout") or not HOSTED[model].survives:
        return errors.process_died()
    if fate.get("fail"):
        return errors.no_results().response()
    return render(order, _encoded(order, fate, model))


def _encoded(order: ImageOrder, fate: Script, model: str) -> list[str]:
    fewer = fate.get("fewer")
    count = 0 if fate.get("empty") else max(0, order.count - int(fewer.number(1) if fewer else 0))
    spoilt = fate.get(*bad_files.IMAGE_FAULTS)
    here = current_state()
    files = [here.gallery.file(_recipe(order, place, fate, model), prepared=False) for place in range(count)]
    return [base64.b64encode(bad_files.spoil(spoilt, blob)[0]).decode() for blob in files]


def _recipe(order: ImageOrder, place: int, fate: Script, model: str) -> Recipe:
    half = 2 if fate.get("wrong_size") else 1
    other = {"png": "jpeg"}.get(order.file_format, "png")
    return Recipe(
        prompt=order.prompt,
        model=model,
        width_px=order.width_px // half,
        height_px=order.height_px // half,
        seed=order.seed + place,
        file_format=other if fate.get("wrong_format") else order.file_format,
        quality=order.quality,
        inputs=order.inputs,
        mask=order.mask,
    )


def _as_open_ai(order: ImageOrder, pictures: list[str]) -> Response:
    items = [{"b64_json": picture} for picture in pictures]
    return jsonify(created=int(time.time()), data=items, output_format=order.file_format)


def _as_web_ui(order: ImageOrder, pictures: list[str]) -> Response:
    info = {
        "seed": order.seed,
        "all_seeds": [order.seed + place for place in range(len(pictures))],
        "steps": order.steps,
        "width": order.width_px,
        "height": order.height_px,
        "sampler_name": "euler",
    }
    echo = {"prompt": order.prompt, "width": order.width_px, "height": order.height_px, "seed": order.seed}
    return jsonify(images=pictures, parameters=echo, info=json.dumps(info))


# ---------------------------------------------------------------- sd-server: jobs


@bp.get("/upstream/<model>/sdcpp/v1/capabilities")
def capabilities(model: str) -> Response:
    """Limits and lists."""
    with _passed_to(model):
        return jsonify(
            limits={"min_width": 64, "max_width": 4096, "max_batch_count": 8, "max_queue_size": 64},
            samplers=sorted(rules.SAMPLERS),
            schedulers=sorted(rules.SCHEDULERS),
            output_formats=["png", "jpeg", "webp"],
            features={"cancel_queued": True, "cancel_generating": False},
        )


@bp.post("/upstream/<model>/sdcpp/v1/img_gen")
def queue(model: str) -> Response:
    """Take a job."""
    with _passed_to(model) as hosted:
        order = rules.read_job(_json(), hosted.grid_px)
        if _store().is_full():
            raise ServerError("job queue is full", 429)
        script, fate = _taken_on(order, hosted)
        if script.refusal:
            return misbehave.instead(script.refusal, errors.for_fault)
        job = _store().add(model, order, fate)
        told = {"id": job.number, "kind": "img_gen", "status": "queued", "created": int(job.created_s)}
        answer = jsonify(**told, poll_url=f"/sdcpp/v1/jobs/{job.number}")
        answer.status_code = 202
        return misbehave.finish(script, answer, errors.for_fault)


@bp.get("/upstream/<model>/sdcpp/v1/jobs/<number>")
def look(model: str, number: str) -> Response:
    """One job."""
    with _passed_to(model):
        current_state().counts.check(NAME, 1)
        job, status = _store().find(number)
        script = current_state().script(NAME, "check", job.order.prompt if job else "")
        if script.refusal:
            return misbehave.instead(script.refusal, errors.for_fault)
        answer = jsonify(_described(job)) if job else _no_job(status)
        return misbehave.finish(script, answer, errors.for_fault)


@bp.post("/upstream/<model>/sdcpp/v1/jobs/<number>/cancel")
def cancel(model: str, number: str) -> Response:
    """Stop a job that waits."""
    with _passed_to(model):
        job, status = _store().find(number)
        if job is None:
            return _no_job(status)
        now = current_state().clock.now()
        if job.status(now) == "generating":
            raise ServerError("job is generating and cannot be interrupted", 409)
        if job.status(now) == "queued":
            job.cancelled_s = now
        return jsonify(_described(job))


def _no_job(status: int) -> Response:
    return ServerError("job not found" if status == 404 else "job expired", status).response()


def _described(job: Job) -> dict[str, object]:
    now = current_state().clock.now()
    status = job.status(now)
    over = not job.is_live(now)
    shown: dict[str, object] = {
        "id": job.number,
        "kind": "img_gen",
        "status": status,
        "created": int(job.created_s),
        "started": int(job.begun_s) if status not in ("queued", "cancelled") else None,
        "completed": int(job.done_s) if over else None,
        "queue_position": _store().place_of(job),
        "result": None,
        "error": None,
    }
    if status == "completed":
        pictures = _encoded(job.order, job.script, job.model)
        listed = [{"index": place, "b64_json": picture} for place, picture in enumerate(pictures)]
        shown["result"] = {"output_format": job.order.file_format, "images": listed}
    if status == "failed":
        shown["error"] = {"code": "generation_failed", "message": "generate_image returned no results"}
    if status == "cancelled":
        shown["error"] = {"code": "cancelled", "message": "job was cancelled"}
    return shown


# ---------------------------------------------------------------- text


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """A local text model, for better prompts."""
    document = _json()
    with _passed_to(document.get("model")):
        asked = chat.user_text(document.get("messages") or [])
        current_state().counts.chat(NAME)
        script = current_state().script(NAME, "chat", asked)
        if script.refusal:
            return misbehave.instead(script.refusal, errors.for_fault)
        talk = chat.Talk(
            model=str(document["model"]),
            text=chat.enhanced(asked, temperature=float(document.get("temperature", 0.7))),
            number=f"chatcmpl-{prompt_hash(asked)}",
            created_at=int(time.time()),
            prompt_tokens=chat.tokens_in(asked),
            include_usage=False,
        )
        if document.get("stream") is not True:
            return misbehave.finish(script, jsonify(chat.whole(talk, script)), errors.for_fault)
        stream = chat.stream(talk, script, delta_pause_s=current_state().settings.chat_delta_s)
        return misbehave.finish(script, Response(stream, content_type="text/event-stream"), errors.for_fault)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """Go's own words, as plain text."""
    texts = {404: "404 page not found", 405: "Method Not Allowed"}
    return Response(texts.get(wrong.status, "error") + "\n", status=wrong.status, content_type="text/plain")


ENVIRON = {"LLAMASWAP_BASE_URL": "{url}", "LLAMASWAP_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, LlamaStore, unrouted, ENVIRON)
