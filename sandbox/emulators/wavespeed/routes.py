"""WaveSpeed under ``/wavespeed``: one asynchronous API for all models, uploads, history, webhooks.

Speaks the contract of the vendor's sheet (package wavespeed 2.0.5, docs read 2026-11-20). Stricter in one
thing: a property that a model does not list is refused, where the real server is thought to ignore it.
"""

import json
import time
import uuid
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import NotAnImage
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.wavespeed import account, hooks, tasks
from sandbox.emulators.wavespeed import images as drawn
from sandbox.emulators.wavespeed.envelope import (
    NAME,
    PREFIX,
    ApiError,
    base_url,
    blob_of,
    envelope,
    error_for,
    json_body,
    key_of_caller,
    only,
    refuse_keys,
    store,
    whole,
)
from sandbox.emulators.wavespeed.fields import BadField, check
from sandbox.emulators.wavespeed.models import MODELS, Model
from sandbox.emulators.wavespeed.tasks import Ending, Task, TaskStore
from sandbox.faults import Script
from sandbox.markers import UnknownFault
from sandbox.state import current_state

SYNC_S = 90.0
PAGE_SIZE_MAX = 100
SYNC_TIMED_OUT = "Sync mode timed out after 90s; query the result later"

bp = Blueprint("wavespeed", __name__)
recorder.watch(bp, NAME)
bp.register_blueprint(account.bp)


@bp.errorhandler(ApiError)
def api_error(error: ApiError) -> Response:
    """The envelope."""
    return error.response()


@bp.errorhandler(BadField)
@bp.errorhandler(UnknownFault)
def bad_input(error: Exception) -> Response:
    """An input outside the model's schema, or a marker nobody understands."""
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
    check(model.fields, given)
    webhook = _webhook()
    here, prompt = current_state(), str(given.get("prompt") or given.get("focus") or "")
    counted_as = prompt_hash(prompt or json.dumps([path, given], sort_keys=True))
    here.counts.submit(NAME, key=counted_as, prompt=prompt)
    if key == keys.NO_QUOTA_KEY:
        raise ApiError(402, "Insufficient credits, please top up")
    if key == keys.NO_ORG_KEY:
        raise ApiError(403, "Your account level is too low for this model")
    script = here.script(NAME, "submit", prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, error_for)
    task = _new_task(model, given, here.script(NAME, "outcome", prompt), keys.owner_of(key), webhook)
    here.counts.accept(NAME, key=counted_as, prompt=prompt)
    store().keep(task)
    if webhook and task.ending.plot != "never":
        _promise(task)
    return misbehave.finish(script, _first_answer(task), error_for)


def _webhook() -> str:
    url = request.args.get("webhook", "")
    if url and not hooks.takes(url):
        raise ApiError(400, "webhook must be an https URL")
    if stray := set(request.args) - {"webhook"}:
        raise ApiError(400, f"unknown query parameter '{sorted(stray)[0]}'")
    return url


def _new_task(model: Model, given: dict[str, Any], fate: Script, owner: str, webhook: str) -> Task:
    here, number = current_state(), uuid.uuid4().hex
    now, lasts_s = here.clock.now(), here.latency_s(fate, str(given.get("prompt") or ""))
    ending = tasks.ending_for(fate, model)
    try:
        inputs = drawn.inputs_of(model, given, _uploaded)
    except drawn.Unreachable:
        inputs, ending = drawn.Inputs(), Ending("failed", 1402, tasks.TASK_ERRORS[1402])
    files = tuple(drawn.files_of(model, given, inputs, fate, from_s=now + lasts_s))
    form, expire = fate.get("form"), fate.get("expire")
    return Task(
        number=number,
        owner=owner,
        model=model,
        given=given,
        ending=ending,
        created_s=now,
        lasts_s=lasts_s,
        base_url=base_url(),
        files=files,
        words=drawn.caption(given, inputs) if model.output == "text" else "",
        links=tuple(_link(number, file, fate) for file in files[: _delivered(files, fate)]),
        form=form.value if form else "",
        gone_after_s=now + lasts_s + expire.number(0) if expire else None,
        webhook=webhook,
    )


def _delivered(files: tuple[drawn.Served, ...], fate: Script) -> int:
    fewer = fate.get("fewer")
    return max(0, len(files) - int(fewer.number(1) if fewer else 0))


def _link(number: str, file: drawn.Served, fate: Script) -> str:
    dead = fate.get("dead_link")
    path = f"/media/outputs/{number}/{file.name}"
    if dead is None:
        return f"{base_url()}{path}"
    if dead.value == "relative":
        return f"{PREFIX}{path}"
    return f"http://127.0.0.1:1{path}" if dead.value == "host" else f"{base_url()}/media/outputs/gone/{file.name}"


def _uploaded(link: str) -> bytes | None:
    """The bytes behind one of our own download links. Raises Unreachable."""
    own = f"{base_url()}/media/uploads/"
    if not link.startswith(own):
        return None
    upload = store().upload(link.removeprefix(own).partition("/")[0])
    if upload is None or upload.data is None:
        raise drawn.Unreachable(link)
    return upload.data


def _first_answer(task: Task) -> Response:
    if not task.given.get("enable_sync_mode"):
        # Always queued, however short the work.
        return envelope(tasks.describe(task, task.ending.waiting or "created", blob_of))
    if task.ending.plot == "never" or task.lasts_s > SYNC_S:
        time.sleep(0 if task.ending.plot == "never" else SYNC_S)
        late = tasks.describe(task, "processing", blob_of)
        return envelope({**late, "code": 5004, "error": SYNC_TIMED_OUT})
    time.sleep(max(0.0, task.done_s - current_state().clock.now()))
    return envelope(tasks.describe(task, task.ending.status, blob_of))


def _promise(task: Task) -> None:
    here = current_state()

    def blob(file: drawn.Served) -> bytes:
        return file.blob(lambda recipe: here.gallery.file(recipe, prepared=here.settings.prepared))

    def ended() -> bytes:
        shown = tasks.describe(task, tasks.status_of(task, here.clock.now()), blob)
        return hooks.body_of({**shown, "input": dict(task.given)})

    hooks.deliver_when(
        lambda: here.clock.now() >= task.done_s, ended, url=task.webhook, secret=hooks.secret_of(task.owner)
    )


# ---------------------------------------------------------------- looking


@bp.get("/api/v3/predictions/<number>/result")
@bp.get("/api/v3/predictions/<number>")
def result(number: str) -> Response:
    """A task as it stands."""
    owner, here = keys.owner_of(key_of_caller()), current_state()
    here.counts.check(NAME, 1)
    task = store().find(owner, number)
    script = here.script(NAME, "check", str(task.given.get("prompt") or "") if task else "")
    if script.refusal:
        return misbehave.instead(script.refusal, error_for)
    if task is None:
        raise ApiError(404, "task not found")
    shown = tasks.describe(task, tasks.status_of(task, here.clock.now()), blob_of)
    answer = jsonify(shown) if task.form == "bare" else envelope(shown)
    return misbehave.finish(script, answer, error_for)


@bp.post("/api/v3/predictions")
def history() -> Response:
    """The tasks of the last seven days, the latest first, filtered and by pages."""
    owner, asked, here = keys.owner_of(key_of_caller()), json_body(), current_state()
    only(asked, "page", "page_size", "model", "status", "created_after", "created_before")
    page, size = whole(asked, "page", 1, 1_000_000), whole(asked, "page_size", 1, PAGE_SIZE_MAX)
    after, before = _moment(asked, "created_after", 0.0), _moment(asked, "created_before", float("inf"))
    script = here.script(NAME, "check")
    if script.refusal:
        return misbehave.instead(script.refusal, error_for)
    now = here.clock.now()
    found = [
        task
        for task in store().history(owner)
        if asked.get("model") in (None, task.model.path)
        and asked.get("status") in (None, tasks.status_of(task, now))
        and after <= task.created_s <= before
    ]
    shown = [
        {**tasks.describe(task, tasks.status_of(task, now), blob_of), "input": dict(task.given)}
        for task in found[(page - 1) * size : page * size]
    ]
    return misbehave.finish(script, envelope({"page": page, "items": shown}), error_for)


def _moment(asked: dict[str, Any], name: str, otherwise: float) -> float:
    if name not in asked:
        return otherwise
    try:
        return datetime.fromisoformat(asked[name]).timestamp()
    except (TypeError, ValueError):
        raise ApiError(400, f"{name} must be an ISO 8601 time") from None


@bp.get("/media/outputs/<number>/<name>")
def output(number: str, name: str) -> ResponseReturnValue:
    """A result file: no key, and woe to those who send one."""
    refuse_keys()
    found = store().file(number, name)
    if found is None:
        return Response("Not Found", 404, content_type="text/plain")
    task, file = found
    here = current_state()
    here.counts.download(NAME)
    try:
        blob, odd_type = bad_files.spoil(file.fault, blob_of(file))
    except NotAnImage:
        return Response("Internal Server Error", 500, content_type="text/plain")
    answer = Response(blob, content_type=odd_type or file.content_type)
    script = here.script(NAME, "download", str(task.given.get("prompt") or ""))
    if script.refusal:
        return misbehave.instead(script.refusal, error_for)
    return misbehave.finish(script, answer, error_for)


# ---------------------------------------------------------------- shared


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """The vendor's envelope for what no route takes."""
    return ApiError(wrong.status, {404: "not found", 405: "method not allowed"}.get(wrong.status, "error")).response()


ENVIRON = {"WAVESPEED_BASE_URL": "{url}", "WAVESPEED_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, TaskStore, unrouted, ENVIRON)
