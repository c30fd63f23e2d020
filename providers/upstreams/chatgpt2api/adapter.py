"""chatgpt2api: a self-hosted gateway to ChatGPT accounts, used by its asynchronous task API.

Recovery "resend": ``client_task_id`` is our dedupe key, and a repeated submit with a known id returns
the stored task and makes nothing new. So a submit with an unknown outcome may be sent again, after
:meth:`ChatGpt2Api.check` said ``Missing`` twice. An id whose task failed is burnt: a retry needs a
new key.

Source: providers/upstreams/chatgpt2api/CONTRACT.md (v1.7.0, read 2026-11-20); sections are named where used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, Running, UpstreamOrder
from providers.configured import value_of
from providers.errors import Failed, NotRun, ProviderError, Uncertain
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.chat import stream_chat
from providers.shared.reading import json_object
from providers.shared.unsupported import Unsearchable
from providers.upstreams.chatgpt2api.answers import at_own_address, read_task, read_tasks
from providers.upstreams.chatgpt2api.errors import classify_answer
from providers.upstreams.chatgpt2api.requests import batches, build_check, build_submit, task_id

# The link's host was not asked, or did not answer; a host that says the file is gone is believed.
_NOT_ASKED: Final = frozenset({"result_url_refused", "result_unreachable"})

NAME: Final = "chatgpt2api"
DEFAULT_PROMPT_MODEL: Final = "gpt-5.5"

SUBMIT_TOTAL_S = 60.0  # the task is stored and answered at once; only an upload takes longer
CHECK_TOTAL_S = 15.0
MAX_SUBMIT_ANSWER_BYTES = 4 * 1024 * 1024
MAX_CHECK_ANSWER_BYTES = 64 * 1024 * 1024


def task_api_root(base_url: str) -> str:
    """The root of the task routes, which are not below ``/v1``: one ``/v1`` at the end is removed (section 1)."""
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


class ChatGpt2Api(UpstreamAccount[Config], Unsearchable):
    """One gateway with one key. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = SUBMIT_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:
        """Store the task. Sending the same key again is safe: the answer is the stored task. Raises: ProviderError."""
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
        """Look once at a task. Raises: ProviderError."""
        result = self.check_many([call])[call.id]
        if isinstance(result, ProviderError):
            raise result
        return result

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        """Up to a hundred tasks per request. A failed look is the result of all calls that were not seen yet."""
        found: dict[str, CheckResult] = {}
        for batch in batches(calls):
            try:
                found |= self._look(batch)
            except (NotRun, Uncertain) as error:
                # The other batches would wait for the same dead gateway, one time-out after the other.
                return found | {call.id: error for call in calls if call.id not in found}
        return found

    def _look(self, batch: Sequence[CallRef]) -> dict[str, CheckResult]:
        request = build_check([task_id(call) for call in batch])
        answer = self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=MAX_CHECK_ANSWER_BYTES)
        return read_tasks(answer, batch, self.base_url)

    def download(self, url: str) -> bytes:
        """The bytes at a result link, without the key; at our own address where the link's host cannot be asked.

        Raises: NotRun, Failed; where no way leads to the file, what the link itself came to.
        """
        try:
            return super().download(url)
        except (NotRun, Failed) as refused:
            own = at_own_address(url, self.base_url)
            if own is None or refused.code not in _NOT_ASKED:
                raise
            try:
                return super().download(own)
            except Failed:
                raise refused from None

    def stream_text(self, messages: Sequence[Mapping[str, str]], *, temperature: float) -> Iterator[str]:
        path = "/v1/chat/completions"
        return stream_chat(self._session, path, self._config.prompt_model, messages, temperature)
