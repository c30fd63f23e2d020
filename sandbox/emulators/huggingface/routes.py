"""Hugging Face's router under ``/huggingface``, with four providers behind it, the Hub's model pages and a CDN.

Source: providers/upstreams/huggingface/CONTRACT.md.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.huggingface import errors, rules
from sandbox.emulators.huggingface.errors import RouteError
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.bodies import json_object
from sandbox.plumbing.calls import Call, Calls, new_blueprint
from sandbox.plumbing.tasks import FOREVER_S, Ending, ResultFile, Task, TaskStore, store_of
from sandbox.state import current_state

NAME = "huggingface"
PREFIX = "/huggingface"
CALLS = Calls(NAME, errors.for_fault("router"))

bp = new_blueprint(NAME, bad_marker=lambda text: RouteError("router", 400, text))


@dataclass(kw_only=True)
class RouterTask(Task[Ending]):
    """A task of fal's queue or of WaveSpeed (``route``), in the words of the latter."""

    stages = ((0.0, "created"), (0.3, "processing"))
    route: str
    order: Recipe
    link: str


class RouterStore(TaskStore[RouterTask]):
    """Tasks by id, and the files of the CDN."""

    def restart(self) -> int:
        """A provider's restart loses its tasks."""
        return self.lose_all()


_store = store_of(NAME, RouterStore)


@bp.before_request
def check_key() -> None:
    """The router takes a Bearer; CDN and Hub pages want none, and the CDN refuses one."""
    below = request.path.removeprefix(PREFIX)
    if below.startswith("/cdn/"):
        if "Authorization" in request.headers:
            raise RouteError("router", 400, "key leaked")
        return
    if below.startswith("/api/models/"):
        return
    key = keys.bearer_key()
    if key in ("", keys.BAD_KEY):
        raise RouteError("router", 401, "Invalid username or password.")
    if key == keys.NO_ORG_KEY:
        text = "This authentication method does not have sufficient permissions to call Inference Providers"
        raise RouteError("router", 403, text)


@bp.after_request
def house_header(answer: Response) -> Response:
    """As every answer of the router has it."""
    answer.headers["x-request-id"] = f"Root=1-{time.time_ns():x}"
    return answer


# ---------------------------------------------------------------- the Hub and the CDN


@bp.get("/api/models/<path:model>")
def mapping(model: str) -> Response:
    """Which provider serves the model, under which id."""
    call = CALLS.begin("models", model)
    routes = rules.MAPPINGS.get(model)
    if routes is None or not current_state().lists.changed(NAME, [{"id": model}], "id"):
        raise RouteError("router", 404, "Repository not found")
    told: dict[str, object] = {"_id": "66a1b2c3", "id": model}
    if "inferenceProviderMapping" in request.args.getlist("expand[]") + request.args.getlist("expand"):
        told["inferenceProviderMapping"] = {
            provider: {"status": "live", "providerId": own, "task": task} for provider, (own, task) in routes.items()
        }
    else:
        told |= {"pipeline_tag": next(task for _own, task in routes.values()), "tags": []}
    return call.answer(jsonify(told))


@bp.get("/cdn/<name>")
def file(name: str) -> Response:
    """A result, as long as it lives."""
    found = _store().file(name)
    if found is None:
        current_state().counts.download(NAME)
        CALLS.begin("download")
        raise RouteError("router", 404, "Not Found")
    good = current_state().draw(found.recipe)
    kind = CONTENT_TYPES[found.recipe.file_format]
    return CALLS.download(good, kind, fault=found.fault, prompt=found.recipe.prompt)


# ---------------------------------------------------------------- images at once


@bp.post("/hf-inference/models/<path:model>")
def hf_inference(model: str) -> Response:
    """The raw image."""
    order = rules.read_hf_inference(model, _json("hf-inference"))
    return _serve("hf-inference", order, lambda fate: _raw(order, fate))


def _raw(order: Recipe, fate: Script) -> Response:
    if fate.get("empty"):
        return Response(b"", content_type="image/png")
    recipe = outcomes.altered(order, fate)
    blob, odd_type = outcomes.file_of(recipe, fate)
    return Response(blob, content_type=odd_type or CONTENT_TYPES[recipe.file_format])


@bp.post("/nscale/v1/images/generations")
def nscale() -> Response:
    """Base64 in OpenAI's shape."""
    order = rules.read_nscale(_json("nscale"))
    return _serve("nscale", order, lambda fate: jsonify(created=int(time.time()), data=_listed(order, fate)))


def _listed(order: Recipe, fate: Script) -> list[dict[str, str]]:
    return [{"b64_json": outcomes.base64_of(recipe, fate)} for recipe in outcomes.recipes(order, 1, fate)]


def _serve(route: str, order: Recipe, draw: Callable[[Script], Response]) -> Response:
    call = _begin(route, order)
    fate = call.work()
    if fate.get("fail", "timeout", "restart"):
        failure = RouteError("router", 504 if fate.get("timeout") else 500, "Internal Server Error")
        return call.answer(failure.response())
    return call.answer(draw(fate))


def _begin(route: str, order: Recipe) -> Call:
    calls = CALLS.in_words_of(errors.for_fault(route))
    calls.count_submit(order.prompt)
    if keys.bearer_key() == keys.NO_QUOTA_KEY:
        raise errors.no_credits()
    return calls.begin("submit", order.prompt)


def _json(route: str) -> dict[str, Any]:
    return json_object(
        wrong_type=RouteError(route, 415, "Unsupported Media Type"),
        broken=lambda _error: RouteError(route, 400, "the body is no JSON"),
        no_object=RouteError(route, 422, "Input should be an object"),
    )


# ---------------------------------------------------------------- tasks


def _new_task(route: str, order: Recipe, fate: Script) -> RouterTask:
    """A task that was taken on, and its file on the CDN."""
    store = _store()
    number = f"{route.partition('-')[0]}-{store.next_count():08x}"
    cdn = f"{request.host_url.rstrip('/')}{PREFIX}/cdn"
    fault = fate.get(*bad_files.IMAGE_FAULTS)
    store.files.put(f"{number}.png", ResultFile(outcomes.altered(order, fate), fault=fault))
    return store.start(
        RouterTask,
        number=number,
        prompt=order.prompt,
        fate=fate,
        ending=Ending("failed" if fate.get("fail", "timeout") else "completed"),
        kept_s=0.0 if fate.get("expire", "restart") else FOREVER_S,
        route=route,
        order=order,
        link=f"{cdn}/{'gone' if fate.get('dead_link') else number}.png",
    )


def _looked_at(route: str, number: str) -> RouterTask:
    current_state().counts.check(NAME, 1)
    task = _store().find_any(number)
    if task is None or task.route != route:
        raise RouteError(route, 404, "Request not found")
    return task


# ---------------------------------------------------------------- fal-ai


@bp.post("/fal-ai/<path:model>")
def fal(model: str) -> Response:
    """At once, or by the queue."""
    order = rules.read_fal(model, _json("fal-ai"))
    if not _is_queue():
        return _serve("fal-ai", order, lambda fate: jsonify(_fal_result(_new_task("fal-ai", order, fate))))
    call = _begin("fal-ai", order)
    task = _new_task("fal-ai", order, call.accept())
    # Another host, and another path than the one that was posted to.
    link = f"https://queue.fal.run/{'/'.join(model.split('/')[:2])}/requests/{task.number}"
    urls = {"response_url": link, "status_url": f"{link}/status", "cancel_url": f"{link}/cancel"}
    return call.answer(jsonify(request_id=task.number, status="IN_QUEUE", queue_position=0, **urls))


def _is_queue() -> bool:
    given = request.args.get("_subdomain")
    if given not in (None, "queue"):
        raise RouteError("router", 400, f"unknown subdomain {given}")
    return given == "queue"


def _queued(number: str) -> RouterTask:
    if not _is_queue():
        raise RouteError("fal-ai", 404, "Request not found")
    return _looked_at("fal-ai", number)


@bp.get("/fal-ai/<path:app>/requests/<number>/status")
def fal_status(app: str, number: str) -> Response:
    """IN_QUEUE, IN_PROGRESS, COMPLETED; of an error it says nothing."""
    task = _queued(number)
    call = CALLS.begin("check", task.prompt)
    words = {"created": "IN_QUEUE", "processing": "IN_PROGRESS"}
    status = words.get(task.standing(_store().now()).status, "COMPLETED")
    link = f"https://queue.fal.run/{app}/requests/{number}"
    return call.answer(jsonify(status=status, request_id=number, response_url=link))


@bp.get("/fal-ai/<path:app>/requests/<number>")
def fal_result(app: str, number: str) -> Response:
    """The result, or the error, of a task that is over."""
    task = _queued(number)
    if not task.is_over(_store().now()):
        raise RouteError("fal-ai", 400, "Request is still in progress")
    fault = task.fate.get("fail", "timeout")
    if fault is None or fault.value == "nsfw":
        return CALLS.begin("check", task.prompt).answer(jsonify(_fal_result(task)))
    if fault.value == "policy":
        raise errors.content_refused("fal-ai")
    status, kind = (504, "generation_timeout") if fault.name == "timeout" else (500, "internal_server_error")
    raise RouteError("fal-ai", status, f"{app}: {kind}", kind=kind)


def _fal_result(task: RouterTask) -> dict[str, object]:
    order, fail = task.order, task.fate.get("fail")
    image = {"url": task.link, "width": order.width_px, "height": order.height_px, "content_type": "image/png"}
    return {
        "images": [] if task.fate.get("empty") else [image],
        "timings": {"inference": round(task.lasts_s, 3)},
        "seed": order.seed,
        "has_nsfw_concepts": [fail is not None and fail.value == "nsfw"],
        "prompt": order.prompt,
    }


# ---------------------------------------------------------------- wavespeed


@bp.post("/wavespeed/api/v3/<path:model>")
def wavespeed(model: str) -> Response:
    """Take a task."""
    order = rules.read_wavespeed(model, _json("wavespeed"))
    call = _begin("wavespeed", order)
    task = _new_task("wavespeed", order, call.accept())
    return call.answer(jsonify(code=200, message="success", data=_prediction(task, "created")))


@bp.get("/wavespeed/api/v3/predictions/<number>/result")
def wavespeed_result(number: str) -> Response:
    """One task."""
    task = _looked_at("wavespeed", number)
    call = CALLS.begin("check", task.prompt)
    status = task.standing(_store().now()).status
    return call.answer(jsonify(code=200, message="success", data=_prediction(task, status)))


def _prediction(task: RouterTask, status: str) -> dict[str, object]:
    fail = task.fate.get("fail", "timeout")
    nsfw = fail is not None and fail.value in ("nsfw", "policy")
    is_done = status == "completed" and not task.fate.get("empty")
    error = "Content flagged as potentially sensitive" if nsfw else "the model failed"
    is_over = status in ("completed", "failed")
    ran_ms = int(task.lasts_s * 1000) if is_over else 0
    return {
        "id": task.number,
        "model": task.order.model,
        "status": status,
        "outputs": [task.link] if is_done else [],
        "urls": {"get": f"https://api.wavespeed.ai/api/v3/predictions/{task.number}/result"},
        "has_nsfw_contents": [False] if is_done else [],
        "error": error if status == "failed" else "",
        "timings": {"inference": ran_ms},
        **({"executionTime": ran_ms} if is_over else {}),
        **({"code": 1200 if nsfw else 5000} if status == "failed" else {}),
    }


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path without a provider."""
    return RouteError("router", wrong.status, "Not Found").response()


ENVIRON = {"HF_ROUTER_BASE_URL": "{url}", "HF_ENDPOINT": "{url}", "HF_TOKEN": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, RouterStore, unrouted, ENVIRON)
