"""WaveSpeed: hundreds of models behind one asynchronous task API.

Recovery "search": there is no idempotency key, so a submit with an unknown outcome is never sent again
(section 4). It is searched for in the account's history by the token in its webhook URL, or by model and
identical input; see :func:`is_same_order` for what counts as identical. The documented history shows no input:
then nothing can be told from it, and a lost call without a webhook is given up at the first search.

Source: providers/upstreams/wavespeed/CONTRACT.md (package wavespeed 2.0.5, docs read 2026-11-20); sections are named
where used. What the answers mean stands in :mod:`providers.shared.wavespeed_tasks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.configured import value_of
from providers.errors import Failed, NotRun, ProviderError, Uncertain, Unidentifiable
from providers.http.client import WireRequest
from providers.shared import results, wavespeed_tasks
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.encoding import data_uri
from providers.shared.looks import check_each, failed_look
from providers.shared.unsupported import WithoutText
from providers.upstreams.wavespeed.history import (
    HISTORY_PAGE_SIZE,
    build_history,
    has_token,
    is_same_order,
    shows_input,
)
from providers.upstreams.wavespeed.requests import API, build_check, build_submit, images_of, must_upload
from providers.upstreams.wavespeed.uploads import UPLOADS_TOTAL_S, upload

NAME: Final = "wavespeed"
DEFAULT_BASE_URL: Final = "https://api.wavespeed.ai"

SUBMIT_TOTAL_S = 60.0  # the SDK's read time-outs (section 4), here for the whole exchange
CHECK_TOTAL_S = 30.0
MAX_SUBMIT_ANSWER_BYTES = 4 * 1024 * 1024
MAX_CHECK_ANSWER_BYTES = 64 * 1024 * 1024
MAX_HISTORY_ANSWER_BYTES = 64 * 1024 * 1024  # a hundred orders, which may contain images
MAX_HISTORY_PAGES = 10

_OWN_LINK: Final = re.compile(rf"{API}/predictions/(?P<task>[A-Za-z0-9_-]+)/result#(?P<place>\d{{1,3}})")


class Config(AccountConfig):
    """One account: key, where to send it, and a name of the client (section 1, ``X-Client-Name``)."""

    api_key: SecretStr
    base_url: str = DEFAULT_BASE_URL
    client_name: str | None = None

    @field_validator("base_url")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/").removesuffix(API)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the key is not set. Raises pydantic's ValidationError."""
        api_key = value_of(env, "WAVESPEED_API_KEY")
        if api_key is None:
            return None
        return cls(
            api_key=SecretStr(api_key),
            base_url=value_of(env, "WAVESPEED_BASE_URL") or DEFAULT_BASE_URL,
            client_name=value_of(env, "WAVESPEED_CLIENT_NAME"),
        )

    def headers(self) -> dict[str, str]:
        named = {"X-Client-Name": self.client_name} if self.client_name else {}
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}", **named}


# ---------------------------------------------------------------- the provider


class WaveSpeed(UpstreamAccount[Config], WithoutText):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = UPLOADS_TOTAL_S + SUBMIT_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Upload images where needed, then start the task. Only the last request buys. Raises: ProviderError."""
        links = upload(self._session, self._links, images_of(order)) if must_upload(order) else {}
        request = build_submit(order, lambda image: links.get(image.data) or data_uri(image))
        answer = self._paid.send(request, total_s=SUBMIT_TOTAL_S, max_bytes=MAX_SUBMIT_ANSWER_BYTES)
        prediction = wavespeed_tasks.read_data(answer)
        task_id = wavespeed_tasks.task_id_of(prediction)
        state = wavespeed_tasks.read_prediction(prediction, self.base_url)
        return state if isinstance(state, Finished) else Accepted(task_id)

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look once at a task. Raises: ProviderError."""
        if call.upstream_id is None:
            raise Uncertain("upstream_cannot_look", "the task's id is not known")
        request = build_check(call.upstream_id)
        answer = self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=MAX_CHECK_ANSWER_BYTES)
        if wavespeed_tasks.is_unknown_task(answer):
            return Missing()
        try:
            prediction = wavespeed_tasks.read_data(answer)
        except ProviderError as error:
            raise failed_look(error) from error
        if wavespeed_tasks.task_id_of(prediction) != call.upstream_id:
            raise Uncertain("upstream_broken_answer", "not the task that was asked for")
        state = wavespeed_tasks.read_prediction(prediction, self.base_url)
        return self._with_links(state, call.upstream_id) if isinstance(state, Finished) else state

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return check_each(self.check, calls)  # section 4: no status call for several

    def cancel(self, call: CallRef) -> UpstreamCancel:  # noqa: ARG002
        """Never: no client and no page of the docs has a way (section 2)."""
        return UpstreamCancel.UNSUPPORTED

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:  # noqa: ARG002
        """Tasks of the history that may be this call.

        With a callback URL only that decides, because the caller takes such a candidate as certain. No source
        says that the history shows it, but the webhook itself brings the id, so the search goes on for a while.

        Raises: Unidentifiable where nothing else decides and the history does not show inputs; NotRun, Uncertain.
        """
        is_ours = is_same_order if order.callback_url is None else has_token
        items = self._history(order, since)
        found = [item for item in items if is_ours(item, order)]
        if not found and order.callback_url is None and not all(shows_input(item) for item in items):
            raise Unidentifiable("upstream_cannot_look", "the history does not show what was asked for")
        return [Accepted(wavespeed_tasks.task_id_of(item)) for item in found]

    def download(self, url: str) -> bytes:
        """The bytes at a result link; the key goes only to links of :meth:`_with_links`. Raises: NotRun, Failed."""
        found = _OWN_LINK.fullmatch(url.removeprefix(self.base_url))
        if not url.startswith(f"{self.base_url}{API}/") or found is None:
            return results.download(url, self._links)
        return self._read_again(found["task"], int(found["place"]))

    def _with_links(self, done: Finished, task_id: str) -> Finished:
        """The results with links to captions and base64 too: a worker may die between a look and the storing of what
        it found, and only links are in the row.
        """
        link = f"{self.base_url}{build_check(task_id).path}#"
        images = [
            replace(image, url=f"{link}{place}") if image.url is None else image
            for place, image in enumerate(done.images)
        ]
        return replace(done, images=images)

    def _read_again(self, task_id: str, place: int) -> bytes:
        """The bytes of one result of a task. Raises: NotRun, Uncertain (try again); Failed for an unknown task."""
        try:
            state = self.check(CallRef("", "", "", upstream_id=task_id))
        except ProviderError as error:
            raise failed_look(error) from error
        if isinstance(state, Missing):
            raise Failed("result_gone", "the task is no longer known", retryable=False, billed=True)
        data = state.images[place].data if isinstance(state, Finished) and place < len(state.images) else None
        if data is None:
            raise NotRun("result_unreachable", "the task no longer shows the result")
        return data

    def _history(self, order: UpstreamOrder, since: datetime) -> list[Mapping[str, Any]]:
        """The tasks of the order's model since then, at most ``MAX_HISTORY_PAGES`` pages. Raises: NotRun, Uncertain."""
        items: list[Mapping[str, Any]] = []
        for page in range(1, MAX_HISTORY_PAGES + 1):
            data = self._ask(build_history(order, since, page), MAX_HISTORY_ANSWER_BYTES)
            listed = data.get("items") if isinstance(data, dict) else None
            if not isinstance(listed, list):
                raise Uncertain("upstream_broken_answer", "no list of tasks")
            items += [item for item in listed if isinstance(item, dict)]
            if len(listed) < HISTORY_PAGE_SIZE:
                break
        return items

    def _ask(self, request: WireRequest, max_bytes: int = MAX_SUBMIT_ANSWER_BYTES) -> Any:
        """The data of the answer to a request that buys nothing. Raises: NotRun, Uncertain."""
        answer = self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=max_bytes)
        try:
            return wavespeed_tasks.read_data(answer)
        except ProviderError as error:
            raise failed_look(error) from error
