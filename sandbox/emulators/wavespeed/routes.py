"""WaveSpeed under ``/wavespeed``: one asynchronous API for all models, uploads, history, webhooks.

Speaks providers/upstreams/wavespeed/CONTRACT.md (package wavespeed 2.0.5, docs read 2026-11-20). Stricter in one
thing: a property that a model does not list is refused, where the real server is thought to ignore it.
"""

import json
import time
import uuid
from datetime import datetime
from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox.counts import prompt_hash
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import NotAnImage
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.wavespeed import account, hooks, images, tasks
from sandbox.emulators.wavespeed.envelope import (
    CALLS,
    NAME,
    PREFIX,
    ApiError,
    base_url,
    envelope,
    json_body,
    key_of_caller,
    not_found,
    refuse_keys,
    store,
)
from sandbox.emulators.wavespeed.images import Inputs
from sandbox.emulators.wavespeed.models import MODELS, BadInput, Model, check
from sandbox.emulators.wavespeed.tasks import Ending, Task, TaskStore
from sandbox.faults import Script
from sandbox.plumbing import outcomes, webhooks
from sandbox.plumbing.calls import new_blueprint
from sandbox.state import current_state

SYNC_S = 90.0
SYNC_TIMED_OUT = {"code": 5004, "error": "Sync mode timed out after 90s; query the result later"}

bp = new_blueprint(NAME, bad_marker=lambda text: ApiError(400, text))
bp.register_blueprint(account.bp)


@bp.errorhandler(BadInput)
def bad_input(error: BadInput) -> Response:
    """An input outside the model's schema."""
    return ApiError(400, str(error)).response()


# ---------------------------------------------------------------- submit


@bp.post("/api/v3/<path:path>")
def submit(path: str) -> Response:
    """Start a task. In sync mode the answer waits for its end, 90 s at most."""
    key = key_of_caller()
    model = MODELS.get(path)
    if model is None:
        raise ApiError(404, "product not found")
    given = json_body()
    check(model.schema, given)
    webhook = _webhook()
    prompt = given.get("prompt") or given.get("focus") or ""
    counted_as = prompt_hash(prompt or json.dumps([path, given], sort_keys=True))
    CALLS.count_submit(prompt, key=counted_as)
    if key == keys.NO_QUOTA_KEY:
        raise ApiError(402, "Insufficient credits, please top up")
    if key == keys.NO_ORG_KEY:
        raise ApiError(403, "Your account level is too low for this model")
    call = CALLS.begin("submit", prompt)
    try:
        taken = images.inputs_of(model, given, _uploaded)
    except images.Unreachable:
        taken = None  # the task is taken on and fails when it fetches its inputs
    fate = call.accept(key=counted_as)
    task = _new_task(model, given, taken, prompt=prompt, fate=fate, owner=keys.owner_of(key))
    if webhook and not fate.get("never"):
        _promise(task, webhook)
    return call.answer(_first_answer(task))


def _webhook() -> str:
    url = request.args.get("webhook", "")
    if url and not webhooks.takes(url):
        raise ApiError(400, "webhook must be an https URL")
    if stray := set(request.args) - {"webhook"}:
        raise ApiError(400, f"unknown query parameter '{sorted(stray)[0]}'")
    return url


def _uploaded(link: str) -> bytes | None:
    """The bytes behind one of our own download links. Raises Unreachable."""
    own = f"{base_url()}/media/uploads/"
    if not link.startswith(own):
        return None
    upload = store().upload(link.removeprefix(own).partition("/")[0])
    if upload is None or upload.data is None:
        raise images.Unreachable(link)
    return upload.data


def _new_task(
    model: Model, given: dict[str, Any], taken: Inputs | None, *, prompt: str, fate: Script, owner: str
) -> Task:
    number, form = uuid.uuid4().hex, fate.get("form")
    usual_form = "singular" if model.is_partner else ""
    files = tuple(images.files_of(model, given, taken or Inputs(), fate))
    return store().start(
        Task,
        number=number,
        owner=owner,
        prompt=prompt,
        fate=fate,
        ending=tasks.ending_for(fate, model) if taken else tasks.failure(1402),
        flips_to=Ending("failed", "The result was lost"),
        retention_s=tasks.KEPT_S,
        model=model,
        given=given,
        base_url=base_url(),
        files=files,
        links=tuple(_link(number, file, fate) for file in files),
        words=images.caption(given, taken or Inputs()) if model.output == "text" else "",
        form=form.value if form else usual_form,
    )


def _link(number: str, file: images.Served, fate: Script) -> str:
    outputs = f"{base_url()}/media/outputs"
    good, nowhere = f"{outputs}/{number}/{file.name}", f"{outputs}/gone/{file.name}"
    return outcomes.link_of(good, fate, host_url=request.host_url.rstrip("/"), nowhere=nowhere)


def _promise(task: Task, url: str) -> None:
    here = current_state()

    def body(_now: float) -> bytes:
        """A bare prediction, without the envelope."""
        return json.dumps({**tasks.describe_now(task, here), "input": task.given}, ensure_ascii=False).encode()

    delivery = webhooks.Delivery(
        url, lambda: task.done_s, body, hooks.signer(task.owner), pauses_s=iter(hooks.PAUSES_S)
    )
    store().postman.expect([delivery])


def _first_answer(task: Task) -> Response:
    here, never = current_state(), task.fate.get("never")
    if not task.given.get("enable_sync_mode"):
        # Always queued, however short the work.
        return envelope(tasks.describe(task, task.word or "created", None, here))
    if never or task.lasts_s > SYNC_S:
        time.sleep(0 if never else SYNC_S)
        return envelope({**tasks.describe(task, "processing", None, here), **SYNC_TIMED_OUT})
    time.sleep(max(0.0, task.done_s - here.clock.now()))
    return envelope(tasks.describe(task, task.ending.status, task.ending, here))


# ---------------------------------------------------------------- looking


@bp.get("/api/v3/predictions/<number>/result")
@bp.get("/api/v3/predictions/<number>")
def result(number: str) -> Response:
    """A task as it stands."""
    owner, here = keys.owner_of(key_of_caller()), current_state()
    here.counts.check(NAME, 1)
    task = store().find(owner, number)
    call = CALLS.begin("check", task.prompt if task else "")
    if task is None:
        raise ApiError(404, "task not found")
    shown = tasks.describe_now(task, here)
    return call.answer(jsonify(shown) if task.form == "bare" else envelope(shown))


@bp.post("/api/v3/predictions")
def history() -> Response:
    """The tasks of the last seven days, the latest first, filtered and by pages; by default without their inputs."""
    owner = keys.owner_of(key_of_caller())
    asked = json_body("history")
    page, size = asked["page"], asked["page_size"]
    after_s, before_s = _moment(asked, "created_after", 0.0), _moment(asked, "created_before", float("inf"))
    call = CALLS.begin("check")
    found = [
        task
        for task in store().all_of(owner)
        if asked.get("model") in (None, task.model.path)
        and asked.get("status") in (None, task.standing(store().now()).shown)
        and after_s <= task.created_s <= before_s
    ]
    shown = [_listed(task) for task in found[(page - 1) * size : page * size]]
    return call.answer(envelope({"page": page, "items": shown}))


def _listed(task: Task) -> dict[str, object]:
    """An item of the history: the prediction object, which the documents show without the task's input."""
    here = current_state()
    return tasks.describe_now(task, here) | ({"input": task.given} if here.settings.history_shows_input else {})


def _moment(asked: dict[str, Any], name: str, otherwise: float) -> float:
    if name not in asked:
        return otherwise
    try:
        return datetime.fromisoformat(asked[name]).timestamp()
    except (TypeError, ValueError):
        raise ApiError(400, f"{name} must be an ISO 8601 time") from None


@bp.get("/media/outputs/<number>/<name>")
def output(number: str, name: str) -> ResponseReturnValue:
    """A result file: no key, and an error for one that is sent."""
    refuse_keys()
    found = store().result_file(number, name)
    if found is None:
        return not_found()
    task, file = found
    try:
        blob = file.blob(current_state().draw)
    except NotAnImage:
        return Response("Internal Server Error", 500, content_type="text/plain")
    fault = task.fate.get(*IMAGE_FAULTS) if file.recipe else None
    return CALLS.download(blob, file.content_type, fault=fault, prompt=task.prompt)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """The vendor's envelope for what no route takes."""
    return ApiError(wrong.status, {404: "not found", 405: "method not allowed"}.get(wrong.status, "error")).response()


ENVIRON = {"WAVESPEED_BASE_URL": "{url}", "WAVESPEED_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, TaskStore, unrouted, ENVIRON)
