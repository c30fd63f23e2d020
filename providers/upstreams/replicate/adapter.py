"""Replicate: predictions of hosted models, made by one call and looked up by their id.

Recovery "search" (section 4): a repeated POST makes a second, billed prediction and there is no key
against it, but the list of predictions can be read. So a submit whose answer was lost is searched for
(:meth:`Replicate.lookup`) and never sent again. ``Cancel-After`` bounds what a lost prediction may cost.

Source: providers/upstreams/replicate/CONTRACT.md (spec of 2026-04-09, clients read 2026-11-20); sections are named
where used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Final

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import (
    Accepted,
    CallRef,
    CheckResult,
    Finished,
    InputImage,
    Missing,
    Running,
    UpstreamCancel,
    UpstreamOrder,
)
from providers.configured import value_of
from providers.errors import Failed, NotRun, Uncertain
from providers.http.client import Outgoing, UpstreamSession
from providers.shared import results
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.looks import check_each
from providers.shared.reading import json_object
from providers.shared.unsupported import WithoutText
from providers.upstreams.replicate.answers import (
    classify,
    classify_create,
    id_of,
    prediction_in,
    problem_words,
    read_prediction,
    unpaid,
)
from providers.upstreams.replicate.history import Predictions
from providers.upstreams.replicate.requests import (
    build_cancel,
    build_check,
    build_submit,
    build_upload,
    inputs_to_upload,
)

NAME: Final = "replicate"
DEFAULT_BASE_URL: Final = "https://api.replicate.com/v1"
RESULT_HOST: Final = "replicate.delivery"  # and its subdomains (section 3, Expiry)

UPLOADS_TOTAL_S = 60.0  # for all images of an order
CREATE_TOTAL_S = 60.0
LOOK_TOTAL_S = 15.0
CANCEL_AFTER: Final = "30m"  # the catalogue's deadline_s, and the longest the server runs anything (section 3)
VISIBLE_WITHIN_S = 60.0  # a prediction just made may be answered with 404 for some seconds (section 4)
MAX_SMALL_ANSWER_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # may contain inputs and outputs as data URLs


class Config(AccountConfig):
    """One account. ``base_url`` with or without ``/v1``: the vendor's own clients differ (section 1)."""

    api_token: SecretStr
    base_url: str = DEFAULT_BASE_URL

    @field_validator("base_url")
    @classmethod
    def _with_version(cls, value: str) -> str:
        origin_of(value)
        trimmed = value.rstrip("/")
        return trimmed if trimmed.endswith("/v1") else f"{trimmed}/v1"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the token is not set. Raises pydantic's ValidationError."""
        token = value_of(env, "REPLICATE_API_TOKEN")
        if token is None:
            return None
        return cls(api_token=SecretStr(token), base_url=value_of(env, "REPLICATE_BASE_URL") or DEFAULT_BASE_URL)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_token.get_secret_value()}"}


class Replicate(UpstreamAccount[Config], WithoutText):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = UPLOADS_TOTAL_S + CREATE_TOTAL_S

    def __init__(self, config: Config, outgoing: Outgoing | None = None, *, label: str = "default") -> None:
        outgoing = outgoing or Outgoing()
        super().__init__(config, outgoing, label=label)
        create_headers = {**config.headers(), "Cancel-After": CANCEL_AFTER}
        self._paid = UpstreamSession(self.base_url, create_headers, outgoing, fresh=True)

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Upload what is large, then make the prediction. Only the last request buys. Raises: ProviderError."""
        request = build_submit(order, self._uploaded(inputs_to_upload(order)))
        answer = self._paid.send(request, total_s=CREATE_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if not 200 <= answer.status < 300:  # 201, or 202 where it has not begun
            raise classify_create(answer.status, answer.headers, answer.body)
        prediction = json_object(answer.body)
        upstream_id = id_of(prediction)
        if prediction is None or upstream_id is None:
            raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} without a prediction")
        state = read_prediction(prediction)
        return state if isinstance(state, Finished) else Accepted(upstream_id)

    def _uploaded(self, images: Sequence[InputImage]) -> dict[InputImage, str]:
        """The links of the uploaded images. Raises: NotRun, RequestRefused, Misconfigured."""
        ends_at = monotonic() + UPLOADS_TOTAL_S
        links = {}
        for image in images:
            left_s = ends_at - monotonic()
            if left_s <= 0:
                raise NotRun("upstream_no_answer", "uploading took too long")
            links[image] = self._upload(image, total_s=left_s)
        return links

    def _upload(self, image: InputImage, *, total_s: float) -> str:
        try:
            answer = self._session.send(build_upload(image), total_s=total_s, max_bytes=MAX_SMALL_ANSWER_BYTES)
        except Uncertain as error:
            raise unpaid(error) from error
        if not 200 <= answer.status < 300:
            raise unpaid(classify(answer.status, answer.headers, answer.body))
        urls = (json_object(answer.body) or {}).get("urls")
        link = urls.get("get") if isinstance(urls, dict) else None
        if not isinstance(link, str) or not link:
            raise NotRun("upstream_broken_answer", "an upload without a link")
        return link

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look at the prediction by its id; ``urls.get`` is never followed, so the token goes nowhere else.

        Raises: ProviderError.
        """
        upstream_id = _known_id(call)
        answer = self._session.send(build_check(upstream_id), total_s=LOOK_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if answer.status == 404 and problem_words(json_object(answer.body)) and call.is_older_than(VISIBLE_WITHIN_S):
            return Missing()
        return read_prediction(prediction_in(answer, upstream_id))

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return check_each(self.check, calls)

    def cancel(self, call: CallRef) -> UpstreamCancel:
        """Cancel (section 5). Only a prediction that says so itself counts as stopped. Raises: NotRun, Uncertain."""
        request = build_cancel(_known_id(call))
        answer = self._session.send(request, total_s=LOOK_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if answer.status in {400, 409, 422}:
            return UpstreamCancel.TOO_LATE  # the answer to a cancel of an ended prediction is not documented
        match prediction_in(answer, _known_id(call)).get("status"):
            case "canceled" | "aborted":
                return UpstreamCancel.STOPPED
            case "succeeded" | "failed":
                return UpstreamCancel.TOO_LATE
        raise NotRun("upstream_broken_answer", "the cancel is not confirmed")

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:  # noqa: ARG002
        """Predictions since then with our callback URL, or else those of this model with the same input.

        Raises: NotRun, Uncertain.
        """
        candidates = Predictions(self._session).like(order, since)
        return [Accepted(upstream_id) for upstream_id in map(id_of, candidates) if upstream_id]

    def download(self, url: str) -> bytes:
        """The bytes of an output, read without the token, only from Replicate's file host or a trusted origin.

        Raises: NotRun, Failed.
        """
        if not self._is_result_origin(url):
            raise Failed("result_url_refused", "not a host of Replicate's files", retryable=False, billed=True)
        return results.download(url, self._links)

    def _is_result_origin(self, url: str) -> bool:
        try:
            origin = origin_of(url)
        except ValueError:
            return False
        return origin in self._links.trusted_origins or f".{origin.host}".endswith(f".{RESULT_HOST}")


def _known_id(call: CallRef) -> str:
    if call.upstream_id is None:
        raise Uncertain("upstream_cannot_look", "the prediction's id never came; see lookup")
    return call.upstream_id
