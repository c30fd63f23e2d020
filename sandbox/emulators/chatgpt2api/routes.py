"""chatgpt2api: an asynchronous image-task API and OpenAI-shaped synchronous routes over one account pool.

Speaks the contract of release 1.7.0 under ``/c2a``. Source: providers/upstreams/chatgpt2api/CONTRACT.md.
"""

import json
import time
import uuid

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat
from sandbox.drawing.images import CONTENT_TYPES, NotAnImage, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.chatgpt2api import errors, requests, tasks
from sandbox.emulators.chatgpt2api.errors import DATA, PREFIX, ApiError
from sandbox.emulators.chatgpt2api.requests import ImageOrder
from sandbox.emulators.chatgpt2api.tasks import ImageTask, ImageTaskStore
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.calls import Call, Calls, new_blueprint
from sandbox.plumbing.tasks import store_of
from sandbox.state import current_state

NAME = "chatgpt2api"
VERSION = "1.7.0"
BAD_KEY = "密钥无效或已失效，请重新登录"
NO_IMAGE = "image not found"
CALLS = Calls(NAME, errors.for_fault)
_store = store_of(NAME, ImageTaskStore)

bp = new_blueprint(NAME, bad_marker=ApiError)


def _key() -> str:
    key = keys.bearer_key()
    if not key or key == keys.BAD_KEY:
        raise ApiError(BAD_KEY, 401)
    return key


def _request_id() -> str:
    return request.headers.get("X-Client-Request-Id", "")


# ---------------------------------------------------------------- tasks


@bp.post("/api/image-tasks/generations")
def submit_generation() -> Response:
    """Start an image. The schema is checked before the key, as the real server's framework does."""
    order = requests.read_generation("image-tasks/generations")
    return _submit(order, _key())


@bp.post("/api/image-tasks/edits")
def submit_edit() -> Response:
    """Start an edit: key first, then fields, then the word filter, then the images, then the id."""
    key = _key()
    return _submit(requests.read_edit(), key)


def _submit(order: ImageOrder, key: str) -> Response:
    if not order.task_id:
        raise ApiError("client_task_id is required")
    CALLS.count_submit(order.prompt, key=order.task_id, request_id=_request_id())
    # The word filter stands before the look-up of the id: a repeat may be refused although its task exists.
    # An empty pool refuses nothing here but fails the task later.
    call = CALLS.begin("submit", order.prompt, order.task_id, taking=("quota",))
    order = requests.load(order)
    store, owner = _store(), keys.owner_of(key)
    with store.lock:
        if known := store.find(owner, order.task_id):
            return call.answer(jsonify(tasks.describe(known, store.now())))
        task = store.accept(order, owner, call.accept(), poor=key == keys.NO_QUOTA_KEY)
    return call.answer(jsonify(tasks.describe_new(task)))


@bp.get("/api/image-tasks")
def list_tasks() -> Response:
    """Many tasks at a look: ``?ids=a,b``; without ids every task of this key."""
    owner, store = keys.owner_of(_key()), _store()
    numbers = [part.strip() for part in request.args.get("ids", "").split(",") if part.strip()]
    current_state().counts.check(NAME, len(numbers))
    asked = [(number, store.find(owner, number)) for number in numbers]
    found = [task for _, task in asked if task] if numbers else _latest_first(store.all_of(owner))
    items = [tasks.describe(task, store.now()) for task in found]
    missing = [number for number, task in asked if task is None]
    return _begin_check(found).answer(jsonify(items=items, missing_ids=missing))


def _latest_first(found: list[ImageTask]) -> list[ImageTask]:
    now = _store().now()
    return sorted(found, key=lambda task: task.standing(now).since_s, reverse=True)


def _begin_check(found: list[ImageTask]) -> Call:
    """One call, one answer: the first task whose prompt says ``at=check`` speaks for the batch."""
    marked = [task for task in found if "[" in task.prompt] or found[:1]
    call = None
    for task in marked:
        call = CALLS.begin("check", task.prompt, task.number)
        if call.script.faults:
            break
    return call or CALLS.begin("check")


@bp.post("/api/image-tasks/<task_id>/resume-poll")
def resume_poll(task_id: str) -> Response:
    """The rescue of a timed-out task, as broken as in release 1.7.0 unless scripted otherwise."""
    seconds = float(requests.read_json("resume-poll").get("extra_timeout_secs", 30.0))
    store = _store()
    task = store.find(keys.owner_of(_key()), task_id.strip())
    if task is None:
        raise ApiError("task not found")
    ending = task.standing(store.now()).ending
    if ending is None or ending.status != "error":
        raise ApiError("task is not in error state")
    if "超时" not in ending.error:
        raise ApiError("task error is not a timeout error")
    if not ending.conversation_id:
        raise ApiError("task has no conversation_id")
    return jsonify(tasks.describe(store.resume(task, seconds), store.now()))


@bp.get("/images/<path:place>")
def image(place: str) -> ResponseReturnValue:
    """A finished image: no key, open to every origin. HEAD is not served."""
    if request.method == "HEAD":
        return unrouted(Wrong(404, request.method, request.path))
    file = _store().file(place)
    if file is None:
        return errors.plain(NO_IMAGE, 404)
    try:
        good = current_state().draw(file.recipe)
    except NotAnImage:
        return unrouted(Wrong(500, request.method, request.path))
    answer = CALLS.download(good, CONTENT_TYPES["png"], fault=file.fault, prompt=file.recipe.prompt)
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


# ---------------------------------------------------------------- images at once


@bp.post("/v1/images/generations")
def generate_now() -> Response:
    """The synchronous route: blocks for as long as an image takes, and knows no dedupe key."""
    order = requests.read_generation("images/generations")
    return _draw_now(order, _key())


@bp.post("/v1/images/edits")
def edit_now() -> Response:
    """The synchronous edit."""
    key = _key()
    return _draw_now(requests.read_edit(), key)


def _draw_now(order: ImageOrder, key: str) -> Response:
    CALLS.count_submit(order.prompt, request_id=_request_id())
    call = CALLS.begin("submit", order.prompt)
    if key == keys.NO_QUOTA_KEY:
        raise errors.no_quota()
    order = requests.load(order)
    fate = call.accept()
    time.sleep(current_state().latency_s(fate, order.prompt))
    _raise_scripted_failure(fate, order)
    return call.answer(jsonify(_drawn(order, keys.owner_of(key), fate)))


def _drawn(order: ImageOrder, owner: str, fate: Script) -> dict[str, object]:
    store, items = _store(), list[dict[str, str]]()
    wanted = outcomes.count_of(order.n, fate)
    recipe = Recipe(order.prompt, order.model, 1024, 1024)
    for _ in range(wanted):
        recipe, readable = store.recipe(order, owner, fate)
        if not readable:
            raise errors.sync_failure("other", tasks.ERROR_TEXTS["unreadable"])
        items.append(_item(order, recipe, fate))
    return {"created": int(store.now()), "data": items, "usage": tasks.usage(order.prompt, recipe, images=wanted)}


def _item(order: ImageOrder, recipe: Recipe, fate: Script) -> dict[str, str]:
    store = _store()
    link = store.publish(recipe, fate, salt=uuid.uuid4().hex, from_s=store.now())
    item = {"url": link, "revised_prompt": order.prompt}
    return item if order.response_format == "url" else {"b64_json": outcomes.base64_of(recipe, fate), **item}


def _raise_scripted_failure(fate: Script, order: ImageOrder) -> None:
    if not errors.draws_with(order.model):
        raise errors.sync_failure("other", errors.unknown_model())
    if fault := fate.get("fail", "timeout", "restart"):
        text = tasks.ending_for(fate, order, poor=False, readable=True).error
        raise errors.sync_failure(fault.value, text)


# ---------------------------------------------------------------- models, text, health


@bp.get("/v1/models")
def models() -> Response:
    """OpenAI's list; a good probe of a key."""
    _key()
    names = (*DATA["image_models"], *DATA["text_models"])
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": NAME} for name in names]
    changed = current_state().lists.changed(NAME, listed, "id")
    return CALLS.begin("models").answer(jsonify(object="list", data=changed))


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """Text, streamed or whole. The stream opens with a comment line."""
    document = requests.read_json("chat/completions")
    _key()
    asked = chat.user_text(document.get("messages"))
    if not asked:
        raise ApiError("messages or prompt is required")
    answer = chat.serve(CALLS, {"model": "auto", **document}, asked, comment="stream-open")
    return answer if document.get("stream") is True or answer.status_code != 200 else _in_its_shape(answer)


def _in_its_shape(answer: Response) -> Response:
    """A whole text with the fields that the gateway sends: no ``logprobs``, no ``refusal``, tokens by their kind."""
    document = answer.get_json(silent=True)
    if not isinstance(document, dict):
        return answer
    for choice in document["choices"]:
        del choice["logprobs"], choice["message"]["refusal"]
    usage = document["usage"]
    usage["prompt_tokens_details"] = tasks.token_details(text=usage["prompt_tokens"], cached=True)
    usage["completion_tokens_details"] = tasks.token_details(text=usage["completion_tokens"])
    answer.set_data(json.dumps(document, ensure_ascii=False))
    return answer


@bp.get("/health")
def health() -> Response:
    """The pool's health: a page, or with ``?format=json`` its figures."""
    if request.args.get("format") != "json":
        return Response("<!DOCTYPE html><title>chatgpt2api</title>", content_type="text/html; charset=utf-8")
    return jsonify(status="ok", healthy=True, version=VERSION, **DATA["health"])


@bp.get("/version")
def version() -> Response:
    """The release whose contract this is."""
    return jsonify(version=VERSION)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """The framework's own words. A route for every GET stands last: what is unknown is 404 to GET, else 405."""
    reading = wrong.method in {"GET", "HEAD"}
    if wrong.status in {404, 405}:
        missing = NO_IMAGE if wrong.path.startswith("/images/") and wrong.method == "GET" else "Not Found"
        return errors.plain(missing, 404) if reading else errors.plain("Method Not Allowed", 405)
    text = "Request Entity Too Large" if wrong.status == 413 else "Internal Server Error"
    return errors.plain(text, wrong.status)


ENVIRON = {"CHATGPT2API_BASE_URL": "{url}/v1", "CHATGPT2API_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, ImageTaskStore, unrouted, ENVIRON)
