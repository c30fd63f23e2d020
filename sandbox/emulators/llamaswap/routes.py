"""llama-swap with sd-server behind it, under ``/llamaswap``: a proxy that loads models, and what they answer.

Open like the real one without ``apiKeys``, but a key that is sent must be a good one.
Source: providers/upstreams/llamaswap/CONTRACT.md.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat
from sandbox.drawing.scenery import generator
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.llamaswap import errors, jobs, rules
from sandbox.emulators.llamaswap.errors import ProxyError, ServerError
from sandbox.emulators.llamaswap.jobs import Job, LlamaStore
from sandbox.emulators.llamaswap.rules import HOSTED, Hosted, ImageOrder
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.bodies import json_object
from sandbox.plumbing.calls import Call, Calls, json_answer, new_blueprint
from sandbox.plumbing.tasks import store_of
from sandbox.state import current_state

NAME = "llamaswap"
PREFIX = "/llamaswap"
CONCURRENCY_MAX = 10
CALLS = Calls(NAME, errors.for_fault)
_OPEN_PATHS = frozenset({f"{PREFIX}/health", f"{PREFIX}/wol-health"})

_store = store_of(NAME, LlamaStore)
bp = new_blueprint(NAME, bad_marker=errors.invalid)


@bp.before_request
def check_key() -> None:
    """A key that is sent must be a good one."""
    if request.path not in _OPEN_PATHS and errors.sent_key() == keys.BAD_KEY:
        raise ProxyError(401)


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
    listed = [_model(hosted) for _name, hosted in sorted(HOSTED.items())]
    changed = current_state().lists.changed(NAME, listed, "id")
    return CALLS.begin("models").answer(jsonify(object="list", data=changed))


def _model(hosted: Hosted) -> dict[str, object]:
    return {
        "id": hosted.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "llama-swap",
        "capabilities": {"image_generation": hosted.draws, "image_to_image": hosted.draws},
        "meta": {"llamaswap": {"type": "model"}},
        "status": {"value": "loaded" if _store().loaded == hosted.name else "unloaded"},
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


# ---------------------------------------------------------------- sd-server: images at once

Render = Callable[[ImageOrder, list[str]], dict[str, object]]


@bp.post("/v1/images/generations")
def generate() -> Response:
    """OpenAI's route: settings in the prompt's tag."""
    document = _json()
    with _passed_to(document.get("model")) as hosted:
        return _serve(rules.read_openai(document, hosted), hosted, _as_openai)


@bp.post("/v1/images/edits")
def edit() -> Response:
    """OpenAI's other route: a form."""
    if request.mimetype != "multipart/form-data":
        raise ServerError("Content-Type must be multipart/form-data")
    with _passed_to(request.form.get("model")) as hosted:
        return _serve(rules.read_openai_edit(request.form, request.files, hosted), hosted, _as_openai)


@bp.post("/sdapi/v1/<any(txt2img, img2img):route>")
def webui(route: str) -> Response:
    """The WebUI's routes: without an image, or with one and perhaps a mask."""
    document = _json()
    with _passed_to(document.get("model")) as hosted:
        seed = generator(document.get("prompt"), current_state().clock.now()).randrange(2**31)
        return _serve(rules.read_webui(route, document, hosted, random_seed=seed), hosted, _as_webui)


def _json() -> dict[str, Any]:
    return json_object(
        wrong_type=ServerError("Content-Type must be application/json"),
        broken=lambda _error: ServerError("server_error", 500, "[json.exception.parse_error.101] syntax error"),
        no_object=errors.wrong_json("body"),
    )


def _serve(order: ImageOrder, hosted: Hosted, render: Render) -> Response:
    call = _begin(order, hosted)
    fate = call.work()
    if fate.get("restart", "timeout") or not hosted.survives:
        return call.answer(errors.process_died())
    if fate.get("fail"):
        return call.answer(ServerError(jobs.FAILED.error, 500).response())
    return call.answer(jsonify(render(order, _encoded(order, fate))))


def _begin(order: ImageOrder, hosted: Hosted) -> Call:
    CALLS.count_submit(order.first.prompt)
    if not hosted.draws:
        raise ServerError("loaded model does not support img_gen")
    return CALLS.begin("submit", order.first.prompt)


def _encoded(order: ImageOrder, fate: Script) -> list[str]:
    return [outcomes.base64_of(recipe, fate) for recipe in outcomes.recipes(order.first, order.count, fate)]


def _as_openai(order: ImageOrder, images: list[str]) -> dict[str, object]:
    items = [{"b64_json": image} for image in images]
    return {"created": int(time.time()), "data": items, "output_format": order.first.file_format}


def _as_webui(order: ImageOrder, images: list[str]) -> dict[str, object]:
    first = order.first
    echo = {"seed": first.seed, "width": first.width_px, "height": first.height_px}
    seeds = [first.seed + place for place in range(len(images))]
    info = {**echo, "all_seeds": seeds, "steps": order.steps, "sampler_name": "euler"}
    return {"images": images, "parameters": {**echo, "prompt": first.prompt}, "info": json.dumps(info)}


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
        order = rules.read_job(_json(), hosted)
        if _store().is_full():
            raise ServerError("job queue is full", 429)
        call = _begin(order, hosted)
        job = _store().queue(order, call.accept())
        told = {"id": job.number, "kind": "img_gen", "status": "queued", "created": int(job.created_s)}
        return call.answer(json_answer({**told, "poll_url": f"/sdcpp/v1/jobs/{job.number}"}, 202))


@bp.get("/upstream/<model>/sdcpp/v1/jobs/<number>")
def look(model: str, number: str) -> Response:
    """One job."""
    with _passed_to(model):
        current_state().counts.check(NAME, 1)
        try:
            job = _store().job(number)
        except ServerError as unknown:
            return CALLS.begin("check").answer(unknown.response())
        return CALLS.begin("check", job.prompt).answer(jsonify(_described(job)))


@bp.post("/upstream/<model>/sdcpp/v1/jobs/<number>/cancel")
def cancel(model: str, number: str) -> Response:
    """Stop a job that waits."""
    with _passed_to(model):
        store = _store()
        job = store.job(number)
        status = job.standing(store.now()).status
        if status == "generating":
            raise ServerError("job is generating and cannot be interrupted", 409)
        if status == "queued":
            job.break_off(store.now(), jobs.CANCELLED)
        return jsonify(_described(job))


def _described(job: Job) -> dict[str, object]:
    store = _store()
    at = job.standing(store.now())
    begun_s = job.began_s("generating")
    shown: dict[str, object] = {
        "id": job.number,
        "kind": "img_gen",
        "status": at.status,
        "created": int(job.created_s),
        "started": None if begun_s is None or at.status == "queued" else int(begun_s),
        "completed": int(job.done_s) if at.is_over else None,
        "queue_position": store.place_of(job),
        "result": None,
        "error": None,
    }
    if at.status == "completed":
        images = [{"index": place, "b64_json": image} for place, image in enumerate(_encoded(job.order, job.fate))]
        shown["result"] = {"output_format": job.order.first.file_format, "images": images}
    elif at.ending is not None:
        code = "cancelled" if at.status == "cancelled" else "generation_failed"
        shown["error"] = {"code": code, "message": at.ending.error}
    return shown


# ---------------------------------------------------------------- text


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """A local text model, for better prompts."""
    document = _json()
    with _passed_to(document.get("model")):
        return chat.serve(CALLS, {"temperature": 0.7, **document}, chat.user_text(document.get("messages")))


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """Go's own words, as plain text."""
    texts = {404: "404 page not found", 405: "Method Not Allowed"}
    return Response(texts.get(wrong.status, "error") + "\n", status=wrong.status, content_type="text/plain")


ENVIRON = {"LLAMASWAP_BASE_URL": "{url}", "LLAMASWAP_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, LlamaStore, unrouted, ENVIRON)
