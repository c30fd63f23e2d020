"""chatgpt2api: a self-hosted gateway to ChatGPT accounts, used by its asynchronous task API.

Recovery "resend": ``client_task_id`` is our dedupe key, and a repeated submit with a known id returns
the stored task and makes nothing new. So a submit with an unknown outcome may be sent again, after
:meth:`ChatGpt2Api.check` said ``Missing`` twice. An id whose task failed is burnt: a retry needs a
new key.

Source: providers/upstreams/chatgpt2api/CONTRACT.md (v1.7.0, read 2026-11-20); sections are named where used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from pydantic import SecretStr, field_validator

from providers.base import (
    Accepted,
    CallRef,
    CheckResult,
    Finished,
    Missing,
    Running,
    UpstreamOrder,
)
from providers.configured import value_of
from providers.errors import (
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.client import Answer, WireRequest, origin_of
from providers.shared import results
from providers.shared.account import Account, AccountConfig
from providers.shared.behaviour import Unsearchable
from providers.shared.chat import stream_chat
from providers.shared.payload import (
    detail_text,
    extra_fields,
    form_fields,
    image_parts,
    json_object,
    own_params,
    redact,
    retry_after_s,
    size_text,
)
from providers.shared.statuses import by_status

NAME: Final = "chatgpt2api"
DEFAULT_IMAGE_MODEL: Final = "gpt-image-2"
DEFAULT_PROMPT_MODEL: Final = "gpt-5.5"

SUBMIT_TOTAL_S = 60.0  # the task is stored and answered at once; only an upload takes its time
CHECK_TOTAL_S = 15.0
MAX_SUBMIT_ANSWER_BYTES = 4 * 1024 * 1024
MAX_CHECK_ANSWER_BYTES = 64 * 1024 * 1024
MAX_IDS_PER_CHECK = 100
MAX_IDS_CHARS = 3500  # keeps the whole query below 4 kB
_POOL_EMPTY_WAIT_S = 300.0
_RATE_LIMIT_WAIT_S = 60.0

_PIXELS = re.compile(r"\d+x\d+")


# ---------------------------------------------------------------- configuration


def open_ai_base_url(base_url: str) -> str:
    """The root of the OpenAI-shaped routes: always ends in ``/v1`` (section 1)."""
    trimmed = base_url.strip().rstrip("/")
    return trimmed if trimmed.endswith("/v1") else f"{trimmed}/v1"


def task_api_root(base_url: str) -> str:
    """The root of the task routes, which do not stand under ``/v1``: one ``/v1`` is taken off."""
    return base_url.strip().rstrip("/").removesuffix("/v1")


class Config(AccountConfig):
    """How to reach one gateway. ``image_model`` replaces the catalogue's default model on the wire."""

    base_url: str
    api_key: SecretStr
    image_model: str | None = None
    prompt_model: str = DEFAULT_PROMPT_MODEL

    @field_validator("base_url")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        origin_of(value)
        return task_api_root(value)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the base URL or the key is not set. Raises pydantic's ValidationError."""
        base_url = value_of(env, "CHATGPT2API_BASE_URL")
        api_key = value_of(env, "CHATGPT2API_API_KEY")
        if base_url is None or api_key is None:
            return None
        return cls(
            base_url=base_url,
            api_key=SecretStr(api_key),
            image_model=value_of(env, "CHATGPT2API_IMAGE_MODEL"),
            prompt_model=value_of(env, "CHATGPT2API_PROMPT_MODEL") or DEFAULT_PROMPT_MODEL,
        )

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"}


# ---------------------------------------------------------------- requests


def build_submit(order: UpstreamOrder, *, dedupe_key: str, image_model: str | None = None) -> WireRequest:
    """The one request that makes an image (sections 2.1, 2.2). The task API makes one per task.

    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself.
    """
    model = _wire_model(order.model.path, image_model)
    body: dict[str, Any] = {
        **extra_fields(order),
        **own_params(order),
        "client_task_id": _checked_id(dedupe_key),
        "prompt": order.prompt or "",
        "model": model,
    }
    size = _size_hint(order, model)
    if size is not None:
        body["size"] = size
    if not order.images:
        return WireRequest("POST", "/api/image-tasks/generations", json=body)
    files = image_parts(order.images, order.mask)
    return WireRequest("POST", "/api/image-tasks/edits", form=form_fields(body), files=files)


def _wire_model(path: str, image_model: str | None) -> str:
    return image_model if image_model and path == DEFAULT_IMAGE_MODEL else path


def _size_hint(order: UpstreamOrder, model: str) -> str | None:
    """Ratio or WxH, which the gateway writes into the prompt; codex models take WxH alone (section 6)."""
    size = size_text(order.size)
    if size in {None, "auto"} or ("codex" in model and not _PIXELS.fullmatch(size or "")):
        return None
    return size


def _checked_id(task_id: str) -> str:
    """Ids travel comma-joined in a query."""
    if not re.fullmatch(r"[\w.:-]{1,128}", task_id):
        raise ValueError("a dedupe key has letters, digits and _ . : - alone")
    return task_id


def build_check(task_ids: Sequence[str]) -> WireRequest:
    """One look at many tasks (section 2.3). Never without ids: that would list every task there is."""
    if not task_ids:
        raise ValueError("no ids")
    return WireRequest("GET", f"/api/image-tasks?ids={_joined(task_ids)}")


def _joined(task_ids: Iterable[str]) -> str:
    return ",".join(quote(task_id, safe=":") for task_id in task_ids)


def batches(calls: Sequence[CallRef]) -> Iterator[list[CallRef]]:
    """Calls in groups whose ids fit one query."""
    batch: list[CallRef] = []
    chars = 0
    for call in calls:
        more = len(_joined([_task_id(call)])) + 1  # and its comma
        if batch and (len(batch) == MAX_IDS_PER_CHECK or chars + more - 1 > MAX_IDS_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(call)
        chars += more
    if batch:
        yield batch


def _task_id(call: CallRef) -> str:
    return call.upstream_id or call.dedupe_key


# ---------------------------------------------------------------- answers


def read_task(task: Mapping[str, Any], base_url: str) -> Finished | Running:
    """What a task object says (section 3). Raises ProviderError for a task that ended badly.

    Builds that use other words for the same states are understood; an unknown word counts as queued.
    """
    match task.get("status"):
        case "success" | "completed":
            return _finished(task, base_url)
        case "error" | "failed":
            raise classify_task_error(str(task.get("error") or ""))
        case "canceled" | "cancelled":
            raise Failed("upstream_cancelled", retryable=True)
        case "running":
            step = task.get("progress")
            return Running(step=step if isinstance(step, str) else None)
        case _:
            return Running(step="queued")


def _finished(task: Mapping[str, Any], base_url: str) -> Finished:
    images = results.read_images(task.get("data"), base_url)
    if not images:
        raise Failed("upstream_empty_result", "success without an image", retryable=True)
    return Finished(images)


# ---------------------------------------------------------------- errors


@dataclass(frozen=True, slots=True)
class _Rule:
    """``pattern`` is searched in the lower-cased text; the first rule that fits decides."""

    pattern: str
    error: Callable[[str], ProviderError]


def _retryable(code: str, wait_s: float | None = None) -> Callable[[str], ProviderError]:
    return lambda detail: Failed(code, detail, retryable=True, retry_after_s=wait_s)


_TASK_ERRORS: Final = (  # section 5.3; the order matters
    _Rule("超时", _retryable("upstream_timeout")),  # first: such a text also speaks of rate limits
    _Rule(
        r"no available.*quota|号池中没有可用账号|no account in the pool",
        _retryable("upstream_pool_empty", _POOL_EMPTY_WAIT_S),
    ),
    _Rule("服务已重启", _retryable("upstream_restarted")),
    _Rule(
        r"upstream connection timed out|upstream image connection failed|completed without generating images"
        r"|no image result found|returned a text description|please try again later"
        r"|^image generation failed$",
        _retryable("upstream_failed"),
    ),
    _Rule("unsupported image model", lambda detail: UnknownModel("upstream_model_unknown", detail)),
    _Rule(r"status=429\b", _retryable("upstream_rate_limited", _RATE_LIMIT_WAIT_S)),
    _Rule(r"status=5\d\d\b", _retryable("upstream_failed")),
    _Rule(r"status=40[13]\b", _retryable("upstream_account_trouble")),
    _Rule(
        r"policy|moderation|blocked|内容政策|防护限制|违反|敏感词|审核未通过",
        lambda detail: ContentRefused(detail=detail),
    ),
    # Any plain text of the model ends here: a refusal as likely as a question. Asking again is no help.
    _Rule("", lambda detail: Failed("upstream_said_no", detail, retryable=False)),
)


def classify_task_error(text: str) -> ProviderError:
    """The error of a task, which is free text without a code."""
    lowered = text[:4000].strip().lower()
    rule = next(rule for rule in _TASK_ERRORS if re.search(rule.pattern, lowered, re.DOTALL))
    return rule.error(redact(text))


_REFUSALS: Final = (  # 400 of section 5.2; no task was made
    _Rule(r"敏感词|审核未通过", lambda detail: ContentRefused(detail=detail, stage="input")),
    _Rule("ai review config is incomplete", lambda detail: Misconfigured("upstream_misconfigured", detail)),
    _Rule("unsupported image model", lambda detail: UnknownModel("upstream_model_unknown", detail)),
    _Rule("", lambda detail: RequestRefused("upstream_rejected", detail)),
)
# 503 texts that the gateway itself sends before it makes a task.
_NOT_STARTED: Final = re.compile(r"审核服务暂时不可用|image_queue_unavailable")


def classify_answer(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 200 of the task API means (section 5.2)."""
    text = detail_text(json_object(body), "detail", "error")
    detail = redact(f"HTTP {status} {text}")
    wait_s = retry_after_s(headers, text)
    if status == 400:
        rule = next(rule for rule in _REFUSALS if re.search(rule.pattern, text.lower()))
        return rule.error(detail)
    if status == 503 and _NOT_STARTED.search(text):
        return NotRun("upstream_overloaded", detail, retry_after_s=wait_s)
    return by_status(status, detail, wait_s=wait_s)


# ---------------------------------------------------------------- the provider


class ChatGpt2Api(Account[Config], Unsearchable):
    """One gateway with one key. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = SUBMIT_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:
        """Store the task. Sending the same key again is safe: the stored task is the answer."""
        request = build_submit(order, dedupe_key=dedupe_key, image_model=self._config.image_model)
        answer = self._session.send(request, total_s=SUBMIT_TOTAL_S, max_bytes=MAX_SUBMIT_ANSWER_BYTES)
        if not 200 <= answer.status < 300:
            raise classify_answer(answer.status, answer.headers, answer.body)
        task = json_object(answer.body)
        if task is None or task.get("id") != dedupe_key:
            raise Uncertain("upstream_broken_answer", "not the task that was asked for")
        state = read_task(task, self.base_url)
        return state if isinstance(state, Finished) else Accepted(dedupe_key)

    def check(self, call: CallRef) -> Finished | Running | Missing:
        result = self.check_many([call])[call.id]
        if isinstance(result, ProviderError):
            raise result
        return result

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        """Up to a hundred tasks per request. A failed look is the result of all calls not yet seen."""
        found: dict[str, CheckResult] = {}
        for batch in batches(calls):
            try:
                found |= self._look(batch)
            except (NotRun, Uncertain) as error:
                # The rest would wait for the same dead gateway, one time-out after the other.
                return found | {call.id: error for call in calls if call.id not in found}
        return found

    def _look(self, batch: Sequence[CallRef]) -> dict[str, CheckResult]:
        request = build_check([_task_id(call) for call in batch])
        answer = self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=MAX_CHECK_ANSWER_BYTES)
        return read_tasks(answer, batch, self.base_url)

    def stream_text(self, messages: Sequence[Mapping[str, str]], *, temperature: float) -> Iterator[str]:
        path = "/v1/chat/completions"
        return stream_chat(self._session, path, self._config.prompt_model, messages, temperature)


def read_tasks(answer: Answer, batch: Sequence[CallRef], base_url: str) -> dict[str, CheckResult]:
    """The state of each call in the answer to one look.

    Only what the gateway says about a task may end its call. So any other answer, a refused key
    included, is a failed look (NotRun): the task may be well, and the call has its own deadline.
    Raises: NotRun, Uncertain.
    """
    if answer.status != 200:
        error = classify_answer(answer.status, answer.headers, answer.body)
        raise NotRun(error.code, error.detail, retry_after_s=error.retry_after_s)
    body = json_object(answer.body)
    items = body.get("items") if body else None
    if body is None or not isinstance(items, list):
        raise Uncertain("upstream_broken_answer", "no list of tasks")
    tasks = {item["id"]: item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)}
    missing = body.get("missing_ids")
    missing_ids = frozenset(filter(_is_text, missing)) if isinstance(missing, list) else frozenset()
    return {call.id: _state(_task_id(call), tasks, missing_ids, base_url) for call in batch}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _state(
    task_id: str, tasks: Mapping[str, Mapping[str, Any]], missing_ids: frozenset[str], base_url: str
) -> CheckResult:
    if task_id in tasks:
        try:
            return read_task(tasks[task_id], base_url)
        except ProviderError as error:
            return error
    if task_id in missing_ids:
        return Missing()
    # Silence about an id is no proof that the task is gone, and "gone" may lead to a second purchase.
    return NotRun("upstream_broken_answer", "the answer leaves the task out")
