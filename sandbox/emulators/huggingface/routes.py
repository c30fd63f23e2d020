"""Hugging Face's router under ``/huggingface``, with four providers behind it, the Hub's model pages and a CDN.

Source: upstreams sheet "Hugging Face".
"""

import base64
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import misbehave, recorder
from sandbox.bounded import BoundedStore
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.huggingface import rules
from sandbox.emulators.huggingface.rules import ImageOrder, RouteError
from sandbox.faults import Script
from sandbox.markers import UnknownFault
from sandbox.state import State, current_state

NAME = "huggingface"
PREFIX = "/huggingface"
# The share of a task's time that it waits in fal's queue, or is "created" at WaveSpeed.
QUEUED_SHARE = 0.3

bp = Blueprint(NAME, __name__)
recorder.watch(bp, NAME)


@dataclass
class Task:
    """One accepted task of fal's queue or of WaveSpeed. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    route: str
    order: ImageOrder
    script: Script
    created_s: float
    lasts_s: float
    link: str

    def stage(self, now: float) -> int:
        """0 waits, 1 is drawn, 2 is over."""
        if now < self.created_s + self.lasts_s * QUEUED_SHARE:
            return 0
        return 1 if now < self.created_s + self.lasts_s or self.script.get("never") else 2


class Store:
    """Tasks by id, and the files of the CDN."""

    def __init__(self, kept: State) -> None:
        self._sandbox = kept
        self.tasks: BoundedStore[str, Task] = BoundedStore(items_max=kept.settings.tasks_max)
        self.files: BoundedStore[str, tuple[Recipe, Script]] = BoundedStore(items_max=kept.settings.tasks_max)
        self._numbers = itertools.count(1)

    def clear(self) -> None:
        """Forget it all."""
        self.tasks.clear()
        self.files.clear()

    def restart(self) -> int:
        """A provider's restart loses its tasks."""
        now = self._sandbox.clock.now()
        broken = sum(task.stage(now) < 2 for task in self.tasks.values())
        self.tasks.clear()
        return broken

    def add(self, route: str, order: ImageOrder, fate: Script, base_url: str) -> Task:
        """Take a task on, and lay out its file."""
        number = f"{route.partition('-')[0]}-{next(self._numbers):08x}"
        self.files.put(f"{number}.png", (_recipe(order, fate), fate))
        link = f"{base_url}/cdn/{'gone' if fate.get('dead_link') else number}.png"
        lasts_s = self._sandbox.latency_s(fate, order.prompt)
        task = Task(number, route, order, fate, self._sandbox.clock.now(), lasts_s, link)
        self.tasks.put(number, task)
        return task

    def find(self, number: str) -> Task | None:
        """A task, unless it broke off or expired."""
        task, now = self.tasks.get(number), self._sandbox.clock.now()
        if task is None or (task.stage(now) == 2 and task.script.get("expire", "restart")):
            return None
        return task


def _store() -> Store:
    return cast(Store, current_state().stores[NAME])


def _recipe(order: ImageOrder, fate: Script) -> Recipe:
    half = 2 if fate.get("wrong_size") else 1
    return Recipe(
        prompt=order.prompt,
        model=order.model,
        width_px=order.size_px[0] // half,
        height_px=order.size_px[1] // half,
        seed=order.seed,
        file_format="jpeg" if fate.get("wrong_format") else "png",
        inputs=order.inputs,
    )


@bp.errorhandler(RouteError)
def route_error(error: RouteError) -> Response:
    """In the shape of whoever refuses."""
    return error.response()


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return RouteError("router", 400, str(error)).response()


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
    script = current_state().script(NAME, "models", model)
    if script.refusal:
        return misbehave.instead(script.refusal, rules.for_fault("router"))
    routes = rules.MAPPINGS.get(model)
    if routes is None:
        raise RouteError("router", 404, "Repository not found")
    told: dict[str, object] = {"_id": "66a1b2c3", "id": model}
    if "inferenceProviderMapping" in request.args.getlist("expand[]") + request.args.getlist("expand"):
        told["inferenceProviderMapping"] = {
            provider: {"status": "live", "providerId": own, "task": task} for provider, (own, task) in routes.items()
        }
    else:
        told |= {"pipeline_tag": next(task for _own, task in routes.values()), "tags": []}
    return misbehave.finish(script, jsonify(told), rules.for_fault("router"))


@bp.get("/cdn/<name>")
def file(name: str) -> Response:
    """A result, as long as it lives."""
    current_state().counts.download(NAME)
    found = _store().files.get(name)
    script = current_state().script(NAME, "download", found[0].prompt if found else "")
    if script.refusal:
        return misbehave.instead(script.refusal, rules.for_fault("router"))
    if found is None:
        raise RouteError("router", 404, "Not Found")
    return misbehave.finish(script, _picture(*found), rules.for_fault("router"))


def _picture(recipe: Recipe, fate: Script) -> Response:
    here = current_state()
    good = here.gallery.file(recipe, prepared=here.settings.prepared)
    blob, kind = bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), good)
    return Response(blob, content_type=kind or CONTENT_TYPES[recipe.file_format])


# ---------------------------------------------------------------- pictures at once


@bp.post("/hf-inference/models/<path:model>")
def hf_inference(model: str) -> Response:
    """The raw picture."""
    order = rules.read_hf_inference(model, _json("hf-inference"))
    return _serve("hf-inference", order, lambda fate: _raw(order, fate))


def _raw(order: ImageOrder, fate: Script) -> Response:
    if fate.get("empty"):
        return Response(b"", content_type="image/png")
    return _picture(_recipe(order, fate), fate)


@bp.post("/nscale/v1/images/generations")
def nscale() -> Response:
    """Base64 in OpenAI's shape."""
    order = rules.read_nscale(_json("nscale"))
    return _serve("nscale", order, lambda fate: jsonify(created=int(time.time()), data=_listed(order, fate)))


def _listed(order: ImageOrder, fate: Script) -> list[dict[str, str]]:
    if fate.get("empty"):
        return []
    return [{"b64_json": base64.b64encode(_picture(_recipe(order, fate), fate).get_data()).decode()}]


def _serve(route: str, order: ImageOrder, draw: Callable[[Script], Response]) -> Response:
    script, fate = _taken_on(order)
    error_for = rules.for_fault(route)
    if script.refusal:
        return misbehave.instead(script.refusal, error_for)
    if fate.get("never"):
        misbehave.wait_for_hang_up(misbehave.HANG_S)
    time.sleep(current_state().latency_s(fate, order.prompt))
    if fate.get("fail", "timeout", "restart"):
        answer = RouteError("router", 504 if fate.get("timeout") else 500, "Internal Server Error").response()
        return misbehave.finish(script, answer, error_for)
    return misbehave.finish(script, draw(fate), error_for)


def _taken_on(order: ImageOrder) -> tuple[Script, Script]:
    """The faults of the answer and of the work; the work is counted unless it is refused."""
    here, asked = current_state(), prompt_hash(order.prompt)
    here.counts.submit(NAME, key=asked, prompt=order.prompt)
    if keys.bearer_key() == keys.NO_QUOTA_KEY:
        raise rules.no_credits()
    script = here.script(NAME, "submit", order.prompt)
    if script.refusal:
        return script, Script()
    here.counts.accept(NAME, key=asked, prompt=order.prompt)
    return script, here.script(NAME, "outcome", order.prompt)


def _json(route: str) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise RouteError(route, 415, "Unsupported Media Type")
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise RouteError(route, 400, "the body is no JSON") from error
    if not isinstance(document, dict):
        raise RouteError(route, 422, "Input should be an object")
    return document


# ---------------------------------------------------------------- fal-ai


@bp.post("/fal-ai/<path:model>")
def fal(model: str) -> Response:
    """At once, or by the queue."""
    order = rules.read_fal(model, _json("fal-ai"))
    if not _is_queue():
        return _serve("fal-ai", order, lambda fate: jsonify(_fal_result(_new_task("fal-ai", order, fate))))
    script, fate = _taken_on(order)
    if script.refusal:
        return misbehave.instead(script.refusal, rules.for_fault("fal-ai"))
    task = _new_task("fal-ai", order, fate)
    # Another host, and another path than the one that was posted to.
    link = f"https://queue.fal.run/{'/'.join(model.split('/')[:2])}/requests/{task.number}"
    urls = {"response_url": link, "status_url": f"{link}/status", "cancel_url": f"{link}/cancel"}
    answer = jsonify(request_id=task.number, status="IN_QUEUE", queue_position=0, **urls)
    return misbehave.finish(script, answer, rules.for_fault("fal-ai"))


def _is_queue() -> bool:
    given = request.args.get("_subdomain")
    if given not in (None, "queue"):
        raise RouteError("router", 400, f"unknown subdomain {given}")
    return given == "queue"


def _new_task(route: str, order: ImageOrder, fate: Script) -> Task:
    return _store().add(route, order, fate, f"{request.host_url.rstrip('/')}{PREFIX}")


@bp.get("/fal-ai/<path:app>/requests/<number>/status")
def fal_status(app: str, number: str) -> Response:
    """IN_QUEUE, IN_PROGRESS, COMPLETED; of an error it says nothing."""
    task = _asked_for("fal-ai", number)
    script = current_state().script(NAME, "check", task.order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, rules.for_fault("router"))
    status = ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")[task.stage(current_state().clock.now())]
    link = f"https://queue.fal.run/{app}/requests/{number}"
    answer = jsonify(status=status, request_id=number, response_url=link)
    return misbehave.finish(script, answer, rules.for_fault("router"))


@bp.get("/fal-ai/<path:app>/requests/<number>")
def fal_result(app: str, number: str) -> Response:
    """The result, or the error, of a task that is over."""
    task = _asked_for("fal-ai", number)
    if task.stage(current_state().clock.now()) < 2:
        raise RouteError("fal-ai", 400, "Request is still in progress")
    fault = task.script.get("fail", "timeout")
    if fault is None or fault.value == "nsfw":
        script = current_state().script(NAME, "check", task.order.prompt)
        if script.refusal:
            return misbehave.instead(script.refusal, rules.for_fault("router"))
        return misbehave.finish(script, jsonify(_fal_result(task)), rules.for_fault("router"))
    if fault.value == "policy":
        raise RouteError("fal-ai", 422, "The content was flagged.", kind="content_policy_violation", field="prompt")
    status, kind = (504, "generation_timeout") if fault.name == "timeout" else (500, "internal_server_error")
    raise RouteError("fal-ai", status, f"{app}: {kind}", kind=kind)


def _asked_for(route: str, number: str) -> Task:
    current_state().counts.check(NAME, 1)
    task = _store().find(number)
    if task is None or task.route != route or (route == "fal-ai" and not _is_queue()):
        raise RouteError(route, 404, "Request not found")
    return task


def _fal_result(task: Task) -> dict[str, object]:
    width, height = task.order.size_px
    picture = {"url": task.link, "width": width, "height": height, "content_type": "image/png"}
    fail = task.script.get("fail")
    return {
        "images": [] if task.script.get("empty") else [picture],
        "timings": {"inference": round(task.lasts_s, 3)},
        "seed": task.order.seed,
        "has_nsfw_concepts": [fail is not None and fail.value == "nsfw"],
        "prompt": task.order.prompt,
    }


# ---------------------------------------------------------------- wavespeed


@bp.post("/wavespeed/api/v3/<path:model>")
def wavespeed(model: str) -> Response:
    """Take a task."""
    order = rules.read_wavespeed(model, _json("wavespeed"))
    script, fate = _taken_on(order)
    if script.refusal:
        return misbehave.instead(script.refusal, rules.for_fault("wavespeed"))
    task = _new_task("wavespeed", order, fate)
    answer = jsonify(code=200, message="success", data=_prediction(task, "created"))
    return misbehave.finish(script, answer, rules.for_fault("wavespeed"))


@bp.get("/wavespeed/api/v3/predictions/<number>/result")
def wavespeed_result(number: str) -> Response:
    """One task."""
    task = _asked_for("wavespeed", number)
    script = current_state().script(NAME, "check", task.order.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, rules.for_fault("router"))
    status = ("created", "processing", "completed")[task.stage(current_state().clock.now())]
    if status == "completed" and task.script.get("fail", "timeout"):
        status = "failed"
    answer = jsonify(code=200, message="success", data=_prediction(task, status))
    return misbehave.finish(script, answer, rules.for_fault("router"))


def _prediction(task: Task, status: str) -> dict[str, object]:
    fail = task.script.get("fail", "timeout")
    nsfw = fail is not None and fail.value in ("nsfw", "policy")
    is_done = status == "completed" and not task.script.get("empty")
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
EMULATOR = Emulator(NAME, PREFIX, bp, Store, unrouted, ENVIRON)
