"""chatgpt2api: an asynchronous image-task API and OpenAI-shaped synchronous routes over one account pool.

Speaks the contract of release 1.7.0 (docs of the project; contract read 2026-11-20) under ``/c2a``.
"""

import base64
import time
import uuid
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import chat, misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, NotAnImage, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.chatgpt2api import requests as wishes
from sandbox.emulators.chatgpt2api import tasks
from sandbox.emulators.chatgpt2api.requests import Rejected, Wish, bad_request
from sandbox.emulators.chatgpt2api.tasks import TaskStore
from sandbox.faults import Script
from sandbox.markers import Fault, UnknownFault
from sandbox.state import current_state

NAME = "chatgpt2api"
PREFIX = "/c2a"
VERSION = "1.7.0"
TEXT_MODELS = ("auto", "gpt-5", "gpt-5-1", "gpt-5-2", "gpt-5-3", "gpt-5-3-mini", "gpt-5-mini", "gpt-5.5")
BAD_KEY = "密钥无效或已失效，请重新登录"
REFUSALS = {
    "": (400, "检测到敏感词，拒绝本次任务"),
    "review": (400, "AI 审核未通过，拒绝本次任务"),
    "config": (400, "ai review config is incomplete"),
    "unavailable": (503, "AI 审核服务暂时不可用，请稍后重试"),
}

bp = Blueprint("chatgpt2api", __name__)
recorder.watch(bp, NAME)


class V1Error(Exception):
    """An answer in the envelope of the ``/v1`` routes."""

    def __init__(self, status: int, kind: str, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code


@bp.errorhandler(Rejected)
def rejected(error: Rejected) -> tuple[Response, int]:
    """``{"detail": ...}``, except that ``/v1`` puts the text into OpenAI's envelope."""
    text = error.detail.get("error") if isinstance(error.detail, dict) else None
    if _is_v1() and text is not None:
        unauthorised = error.status == 401
        kind = "authentication_error" if unauthorised else "invalid_request_error"
        code = "invalid_api_key" if unauthorised else None
        return v1_error(V1Error(error.status, kind, code, str(text)))
    return jsonify(detail=error.detail), error.status


@bp.errorhandler(V1Error)
def v1_error(error: V1Error) -> tuple[Response, int]:
    """OpenAI's envelope."""
    document = {"message": str(error), "type": error.kind, "param": None, "code": error.code}
    return jsonify(error=document), error.status


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> tuple[Response, int]:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return rejected(bad_request(str(error)))


@bp.post("/api/image-tasks/generations")
def submit_generation() -> Response:
    """Start a picture. The schema is checked before the key, as the real server's framework does."""
    wish = wishes.generation(with_task_id=True)
    return _submit(wish, "generate", _key())


@bp.post("/api/image-tasks/edits")
def submit_edit() -> Response:
    """Start an edit: key first, then fields, then the word filter, then the pictures, then the id."""
    key = _key()
    return _submit(wishes.edit(with_task_id=True), "edit", key)


def _submit(wish: Wish, mode: str, key: str) -> Response:
    if not wish.task_id:
        raise bad_request("client_task_id is required")
    here, owner = current_state(), keys.owner_of(key)
    script = here.script(NAME, "submit", wish.prompt, wish.task_id)
    here.counts.submit(NAME, key=wish.task_id, prompt=wish.prompt, request_id=_request_id())
    # The word filter stands before the look-up of the id: a repeat may be refused although its task exists.
    if (refusal := script.refusal) and refusal.name != "quota":
        return misbehave.instead(refusal, _error_for)
    blobs, mask = _pictures_of(wish, mode)
    known = _store().find(owner, [wish.task_id])[0]
    fate = Script() if known else here.script(NAME, "outcome", wish.prompt, wish.task_id)
    fate = Script((*script.faults, *fate.faults))
    make = tasks.new_task(here, mode=mode, script=fate, blobs=blobs, mask=mask, no_quota=key == keys.NO_QUOTA_KEY)
    task, is_new = _store().accept(wish, owner=owner, base_url=_base_url(), make=make)
    if is_new:
        here.counts.accept(NAME, key=wish.task_id, prompt=wish.prompt)
    answer = tasks.describe_fresh(task) if is_new else tasks.describe(task, here.clock.now(), _draw)
    return misbehave.finish(script, jsonify(answer), _error_for)


def _pictures_of(wish: Wish, mode: str) -> tuple[tuple[bytes, ...], bytes | None]:
    if mode != "edit":
        return (), None
    blobs = wishes.load(wish.sources)
    masks = wishes.load(wish.masks) if wish.masks else ()
    return blobs, masks[0] if masks else None


@bp.get("/api/image-tasks")
def list_tasks() -> Response:
    """Many tasks at a look: ``?ids=a,b``; without ids every task of this key."""
    owner = keys.owner_of(_key())
    here, numbers = current_state(), [part.strip() for part in request.args.get("ids", "").split(",") if part.strip()]
    here.counts.check(NAME, len(numbers))
    found, missing = _store().find(owner, numbers) if numbers else (_store().all_of(owner), [])
    now = here.clock.now()
    answer = jsonify(items=[tasks.describe(task, now, _draw) for task in found], missing_ids=missing)
    script = here.script(NAME, "check") if not found else _check_script(found)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    return misbehave.finish(script, answer, _error_for)


def _check_script(found: list[tasks.Task]) -> Script:
    """One call, one answer: the first task whose prompt says ``at=check`` speaks for the batch."""
    here = current_state()
    marked = [task for task in found if "[" in task.wish.prompt] or found[:1]
    scripts = (here.script(NAME, "check", task.wish.prompt, task.number) for task in marked)
    return next((script for script in scripts if script.faults), Script())


@bp.post("/api/image-tasks/<task_id>/resume-poll")
def resume_poll(task_id: str) -> Response:
    """The rescue of a timed-out task, as broken as in release 1.7.0 unless scripted otherwise."""
    seconds = _extra_seconds()
    found, _ = _store().find(keys.owner_of(_key()), [task_id.strip()])
    now = current_state().clock.now()
    if not found:
        raise bad_request("task not found")
    task = found[0]
    at = tasks.standing(task, now)
    if at.status != "error":
        raise bad_request("task is not in error state")
    if "超时" not in at.error:
        raise bad_request("task error is not a timeout error")
    if not task.ending.conversation_id:
        raise bad_request("task has no conversation_id")
    task.resumed_s, task.lasts_s = now, min(task.lasts_s, seconds)
    return jsonify(tasks.describe(task, now, _draw))


def _extra_seconds() -> float:
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise Rejected(422, [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
    given = document.get("extra_timeout_secs", 30.0)
    where = {"loc": ["body", "extra_timeout_secs"], "input": given}
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise Rejected(422, [{"type": "float_type", "msg": "Input should be a valid number", **where}])
    if given < 5:
        text = "Input should be greater than or equal to 5"
        raise Rejected(422, [{"type": "greater_than_equal", "msg": text, **where, "ctx": {"ge": 5.0}}])
    if given > 120:
        text = "Input should be less than or equal to 120"
        raise Rejected(422, [{"type": "less_than_equal", "msg": text, **where, "ctx": {"le": 120.0}}])
    return float(given)


@bp.get("/images/<path:place>")
def image(place: str) -> ResponseReturnValue:
    """A finished picture: no key, open to every origin."""
    served = _store().file(place)
    if served is None:
        return unrouted(Wrong(404, request.method, request.path))
    here = current_state()
    here.counts.download(NAME)
    try:
        good = _draw(served.recipe)
    except NotAnImage:
        return unrouted(Wrong(500, request.method, request.path))
    blob, odd_type = bad_files.spoil(served.fault, good)
    answer = Response(blob, content_type=odd_type or CONTENT_TYPES["png"])
    answer.headers["Access-Control-Allow-Origin"] = "*"
    answer.set_etag(served.recipe.fingerprint)
    answer.make_conditional(request.environ, accept_ranges=True, complete_length=len(blob))
    script = here.script(NAME, "download", served.recipe.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    return misbehave.finish(script, answer, _error_for)


@bp.get("/v1/models")
def models() -> Response:
    """OpenAI's list; a good probe of a key."""
    _key()
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": "chatgpt2api"}
        for name in (*tasks.IMAGE_MODELS, *TEXT_MODELS)
    ]
    script = current_state().script(NAME, "models")
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    return misbehave.finish(script, jsonify(object="list", data=listed), _error_for)


@bp.post("/v1/images/generations")
def generate_now() -> Response:
    """The synchronous route: blocks for as long as a picture takes, and knows no dedupe key."""
    wish = wishes.generation(with_task_id=False)
    return _draw_now(wish, "generate", _key())


@bp.post("/v1/images/edits")
def edit_now() -> Response:
    """The synchronous edit."""
    key = _key()
    return _draw_now(wishes.edit(with_task_id=False), "edit", key)


def _draw_now(wish: Wish, mode: str, key: str) -> Response:
    here, owner = current_state(), keys.owner_of(key)
    script = here.script(NAME, "submit", wish.prompt)
    here.counts.submit(NAME, key=prompt_hash(wish.prompt), prompt=wish.prompt, request_id=_request_id())
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    if key == keys.NO_QUOTA_KEY:
        raise V1Error(429, "insufficient_quota", "insufficient_quota", "no available image quota")
    blobs, mask = _pictures_of(wish, mode)
    fate = here.script(NAME, "outcome", wish.prompt)
    here.counts.accept(NAME, key=prompt_hash(wish.prompt), prompt=wish.prompt)
    time.sleep(here.latency_s(fate, wish.prompt))
    _raise_scripted_failure(fate, wish)
    answer = jsonify(_sync_answer(wish, owner, blobs, mask, fate))
    return misbehave.finish(script, answer, _error_for)


def _sync_answer(
    wish: Wish, owner: str, blobs: tuple[bytes, ...], mask: bytes | None, fate: Script
) -> dict[str, object]:
    store, now = _store(), current_state().clock.now()
    fewer = fate.get("fewer")
    wanted = 0 if fate.get("empty") else max(0, wish.n - int(fewer.number(1) if fewer else 0))
    items: list[dict[str, str]] = []
    recipe = Recipe(wish.prompt, wish.model, 1024, 1024)
    for _ in range(wanted):
        recipe, readable = tasks.recipe_for(wish, blobs, mask, seed=store.variation(owner, wish.prompt))
        if not readable:
            raise V1Error(502, "upstream_error", "upstream_error", "the upstream could not read the picture")
        recipe = tasks.spoilt_recipe(recipe, fate)
        items.append(_sync_item(wish, recipe, fate, now))
    return {"created": int(now), "data": items, "usage": tasks.usage(wish.prompt, recipe, pictures=wanted)}


def _sync_item(wish: Wish, recipe: Recipe, fate: Script, now: float) -> dict[str, str]:
    fault = fate.get(*bad_files.IMAGE_FAULTS)
    link = _store().publish(recipe, base_url=_base_url(), salt=uuid.uuid4().hex, from_s=now, fault=fault)
    item = {"url": tasks.broken_link(fate.get("dead_link"), link, _base_url())}
    if wish.response_format != "url":
        blob, _ = bad_files.spoil(fault, _draw(recipe))
        item = {"b64_json": base64.b64encode(blob).decode(), **item}
    return {**item, "revised_prompt": wish.prompt}


def _raise_scripted_failure(fate: Script, wish: Wish) -> None:
    if wish.model not in tasks.IMAGE_MODELS:
        raise V1Error(400, "invalid_request_error", None, f"unsupported image model: {wish.model}")
    fault = fate.get("fail", "timeout", "restart")
    if fault is None:
        return
    text = tasks.ending_for(fate, wish, no_quota=False, readable=True).error
    if fault.value in ("policy", "moderation"):
        raise V1Error(400, "invalid_request_error", "content_policy_violation", text)
    if fault.value == "none":
        raise V1Error(400, "invalid_request_error", "no_image_generated", text)
    if fault.value in ("quota", "pool", "plus"):
        raise V1Error(429, "insufficient_quota", "insufficient_quota", text)
    code = "upstream_text_reply" if fault.value == "text" else "upstream_error"
    raise V1Error(502, "upstream_error", code, text)


@bp.post("/v1/chat/completions")
def complete() -> Response:
    """Text, streamed or whole. The stream opens with a comment line."""
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise Rejected(422, [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
    _key()
    here, asked = current_state(), chat.user_text(document.get("messages"))
    if not asked:
        raise bad_request("messages is required")
    here.counts.chat(NAME)
    script = here.script(NAME, "chat", asked)
    if script.refusal:
        return misbehave.instead(script.refusal, _error_for)
    talk = _talk(document, asked)
    if document.get("stream") is not True:
        return misbehave.finish(script, jsonify(chat.whole(talk, script)), _error_for)
    stream = chat.stream(talk, script, delta_pause_s=here.settings.chat_delta_s)
    return misbehave.finish(script, Response(stream, content_type="text/event-stream"), _error_for)


def _talk(document: dict[str, Any], asked: str) -> chat.Talk:
    warmth = document.get("temperature", 0.35)
    warmth = float(warmth) if isinstance(warmth, (int, float)) else 0.35
    return chat.Talk(
        model=str(document.get("model") or "auto"),
        text=chat.enhanced(asked, temperature=warmth),
        number=f"chatcmpl-{uuid.uuid4().hex[:24]}",
        created_at=int(current_state().clock.now()),
        prompt_tokens=chat.tokens_in(asked),
        include_usage=False,
        opening_comment="stream-open",
    )


@bp.get("/health")
def health() -> Response:
    """The pool's health."""
    accounts = {"total": 3, "active": 3, "limited": 0}
    return jsonify(status="ok", healthy=True, version=VERSION, accounts=accounts)


@bp.get("/version")
def version() -> Response:
    """The release this twin stands in for."""
    return jsonify(version=VERSION)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """The framework's own words."""
    text = {404: "Not Found", 405: "Method Not Allowed", 413: "Request Entity Too Large"}
    return jsonify(detail=text.get(wrong.status, "Internal Server Error")), wrong.status


def _error_for(fault: Fault) -> Response:
    """This provider's envelope for a scripted refusal, an empty pool or a bare status."""
    if fault.name == "refuse":
        status, text = REFUSALS.get(fault.value, REFUSALS[""])
        answer, _ = rejected(Rejected(status, {"error": text}))
    elif fault.name == "quota" or (fault.status == 429 and _is_v1()):
        code = "insufficient_quota" if fault.name == "quota" else "rate_limit_exceeded"
        status, text = 429, "no available image quota"
        answer, _ = v1_error(V1Error(status, code, code, text))
    else:
        status = fault.status or 500
        answer, _ = rejected(Rejected(status, {"error": f"scripted by the sandbox: HTTP {status}"}))
    answer.status_code = status
    return answer


def _key() -> str:
    key = keys.bearer_key()
    if not key or key == keys.BAD_KEY:
        raise Rejected(401, {"error": BAD_KEY})
    return key


def _request_id() -> str:
    return request.headers.get("X-Client-Request-Id", "")


def _is_v1() -> bool:
    return request.path.startswith(f"{PREFIX}/v1/")


def _base_url() -> str:
    """Links are built from the Host of the submit, whatever name the caller used for us."""
    return f"{request.scheme}://{request.host}{PREFIX}"


def _draw(recipe: Recipe) -> bytes:
    here = current_state()
    return here.gallery.file(recipe, prepared=here.settings.prepared)


def _store() -> TaskStore:
    store = current_state().stores[NAME]
    if not isinstance(store, TaskStore):
        raise TypeError(f"the shelf of {NAME} was replaced by {type(store).__name__}")
    return store


ENVIRON = {"CHATGPT2API_BASE_URL": "{url}/v1", "CHATGPT2API_API_KEY": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, TaskStore, unrouted, ENVIRON)
