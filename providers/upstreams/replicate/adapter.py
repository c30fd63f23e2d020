"""Replicate: predictions of hosted models, made by one call and looked up by their id.

Recovery "search" (section 4): a repeated POST makes a second, billed prediction and there is no key
against it, but the list of predictions can be read. So a submit whose answer was lost is searched for
(:meth:`Replicate.lookup`) and never sent again. ``Cancel-After`` bounds what a lost prediction may cost.

Source: providers/upstreams/replicate/CONTRACT.md (spec of 2026-04-09, clients read 2026-11-20); sections are named
where used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pydantic import SecretStr, field_validator

from providers.base import (
    Accepted,
    CallRef,
    CancelOutcome,
    CheckResult,
    Finished,
    InputImage,
    Missing,
    Running,
    UpstreamOrder,
)
from providers.configured import value_of
from providers.errors import Failed, NotRun, RequestRefused, Uncertain
from providers.http.client import Answer, FilePart, Outgoing, UpstreamSession, WireRequest, origin_of
from providers.shared import results
from providers.shared.account import Account, AccountConfig
from providers.shared.behaviour import Wordless, check_each
from providers.shared.building import Placed, data_uri, path_of, placed_images, reference_fields, wire_fields
from providers.shared.payload import json_object
from providers.upstreams.replicate.answers import (
    classify,
    classify_create,
    failed_look,
    problem_words,
    read_prediction,
    unpaid,
)

NAME: Final = "replicate"
DEFAULT_BASE_URL: Final = "https://api.replicate.com/v1"
RESULT_HOST: Final = "replicate.delivery"  # and below it (section 3, Expiry)

UPLOADS_TOTAL_S = 60.0  # for all images of an order
CREATE_TOTAL_S = 60.0
LOOK_TOTAL_S = 15.0
LIST_TOTAL_S = 30.0
CANCEL_AFTER: Final = "30m"  # the catalogue's deadline_s, and the longest the server runs anything (section 3)
VISIBLE_WITHIN_S = 60.0  # a prediction just made may be answered with 404 for some seconds (section 4)
INLINE_MAX_BYTES = 192 * 1024  # 256 KB as data URLs; above that files are uploaded (section 8)
MAX_SMALL_ANSWER_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # inputs and outputs may stand in it as data URLs
MAX_PAGES = 50  # of a hundred predictions

# What decides price or answer beside the catalogue's own fields (section 9); ``extra`` may not carry it.
_DECIDING = frozenset({"height", "megapixels", "num_outputs", "output_megapixels", "resolution", "version", "width"})


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


# ---------------------------------------------------------------- requests


def build_submit(order: UpstreamOrder, links: Mapping[InputImage, str] = MappingProxyType({})) -> WireRequest:
    """The one request that makes a prediction (section 2). ``links``: where uploaded images are.

    A path ``owner/name`` is an official model with a route of its own; of ``owner/name:<version>`` the
    part behind the colon goes along, as the vendor's clients do it. Raises: RequestRefused.
    """
    model, _, version = path_of(order).partition(":")
    body: dict[str, Any] = {"version": version} if version else {}
    body["input"] = _plain_fields(order) | reference_fields(order, lambda image: links.get(image) or data_uri(image))
    if order.callback_url is not None:
        body |= {"webhook": order.callback_url, "webhook_events_filter": ["completed"]}
    return WireRequest("POST", "/predictions" if version else f"/models/{model}/predictions", json=body)


def _plain_fields(order: UpstreamOrder) -> dict[str, Any]:
    clash = sorted(_DECIDING & order.extra.keys())
    if clash:
        raise RequestRefused("extra_not_allowed", f"set by Darkroom itself: {', '.join(clash)}")
    return wire_fields(order)


def inputs_to_upload(order: UpstreamOrder) -> list[InputImage]:
    """All images of the order, each once, if they are too large for data URLs; else none.

    Counted together, because every look, list and webhook repeats the whole input.
    """
    images = list(dict.fromkeys(image for placed in placed_images(order) for image in placed.images))
    return images if sum(len(image.data) for image in images) > INLINE_MAX_BYTES else []


def build_upload(image: InputImage) -> WireRequest:
    """A file that lives for a day and is named by its ``urls.get`` (section 8)."""
    name = f"input.{image.mime.partition('/')[2]}"
    return WireRequest("POST", "/files", files=[FilePart("content", name, image.mime, image.data)])


def build_check(upstream_id: str) -> WireRequest:
    return WireRequest("GET", f"/predictions/{quote(upstream_id, safe='')}")


def build_cancel(upstream_id: str) -> WireRequest:
    return WireRequest("POST", f"/predictions/{quote(upstream_id, safe='')}/cancel")


def build_list(since: datetime) -> WireRequest:
    """The first page of the predictions made since then, newest first."""
    moment = since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return WireRequest("GET", f"/predictions?created_after={quote(moment)}")


# ---------------------------------------------------------------- the provider


class Replicate(Account[Config], Wordless):
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
        """Upload what is large, then make the prediction. Nothing is bought before the last request."""
        request = build_submit(order, self._uploaded(inputs_to_upload(order)))
        answer = self._paid.send(request, total_s=CREATE_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if not 200 <= answer.status < 300:  # 201, or 202 where it has not begun
            raise classify_create(answer.status, answer.headers, answer.body)
        prediction = json_object(answer.body)
        upstream_id = _id_of(prediction)
        if prediction is None or upstream_id is None:
            raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} without a prediction")
        state = read_prediction(prediction)
        return state if isinstance(state, Finished) else Accepted(upstream_id)

    def _uploaded(self, images: Sequence[InputImage]) -> dict[InputImage, str]:
        """Where each image is now. Raises NotRun, RequestRefused, Misconfigured."""
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
        """Look at the prediction by its id; ``urls.get`` is never followed, so the token stays here."""
        upstream_id = _known_id(call)
        answer = self._session.send(build_check(upstream_id), total_s=LOOK_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if answer.status == 404 and problem_words(json_object(answer.body)) and call.is_older_than(VISIBLE_WITHIN_S):
            return Missing()
        return read_prediction(_prediction_in(answer, upstream_id))

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return check_each(self.check, calls)

    def cancel(self, call: CallRef) -> CancelOutcome:
        """Ask for the end (section 5). Only a prediction that says so itself counts as stopped."""
        request = build_cancel(_known_id(call))
        answer = self._session.send(request, total_s=LOOK_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if answer.status in {400, 409, 422}:
            return CancelOutcome.TOO_LATE  # what a cancel of an ended prediction is answered with is not known
        match _prediction_in(answer, _known_id(call)).get("status"):
            case "canceled" | "aborted":
                return CancelOutcome.STOPPED
            case "succeeded" | "failed":
                return CancelOutcome.TOO_LATE
        raise NotRun("upstream_broken_answer", "the cancel is not confirmed")

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:  # noqa: ARG002
        """Predictions since then with our callback URL, or else those of this model with the very same input."""
        candidates = (row for row in self._rows(since) if self._may_be(order, row))
        return [Accepted(upstream_id) for upstream_id in map(_id_of, candidates) if upstream_id]

    def _rows(self, since: datetime) -> Iterator[Mapping[str, Any]]:
        """The list of predictions down to ``since``, page by page. Raises NotRun, Uncertain."""
        request = build_list(since)
        for _ in range(MAX_PAGES):
            answer = self._session.send(request, total_s=LIST_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
            page = _object_in(answer)
            rows = page.get("results")
            if not isinstance(rows, list):
                raise Uncertain("upstream_broken_answer", "no list of predictions")
            for row in filter(_is_object, rows):
                if _made_before(row, since):
                    return  # newest first: the pages may lead further back than was asked
                yield row
            query = _query_of(page.get("next"))
            if not query:
                return
            request = WireRequest("GET", f"/predictions?{query}")
        raise Uncertain("upstream_cannot_look", f"more than {MAX_PAGES} pages of predictions")

    def _may_be(self, order: UpstreamOrder, row: Mapping[str, Any]) -> bool:
        if order.callback_url is not None:
            return row.get("webhook") == order.callback_url
        model, _, version = path_of(order).partition(":")
        same_model = row.get("model") == model and version in {"", row.get("version")}
        return same_model and self._same_input(order, row.get("input"))

    def _same_input(self, order: UpstreamOrder, given: object) -> bool:
        if not isinstance(given, dict):
            return False  # gone, an hour after the end
        places = {placed.field: placed for placed in placed_images(order)}
        plain = {name: value for name, value in given.items() if name not in places}
        same = self._same_upload if inputs_to_upload(order) else _same_data_url
        return plain == _plain_fields(order) and all(
            _same_images(placed, given.get(field), same) for field, placed in places.items()
        )

    def _same_upload(self, image: InputImage, value: object) -> bool:
        """Every upload gets a link of its own, so the checksum behind it decides."""
        return isinstance(value, str) and self._sha256_behind(value) == hashlib.sha256(image.data).hexdigest()

    def _sha256_behind(self, link: str) -> str | None:
        """The checksum of an uploaded file, None for anything else. Raises NotRun, Uncertain."""
        folder, _, file_id = link.rpartition("/")
        if folder != f"{self.base_url}/files" or not file_id:
            return None
        request = WireRequest("GET", f"/files/{quote(file_id, safe='')}")
        answer = self._session.send(request, total_s=LOOK_TOTAL_S, max_bytes=MAX_SMALL_ANSWER_BYTES)
        if answer.status == 404:
            return None  # a file lives for a day
        checksums = _object_in(answer).get("checksums")
        found = checksums.get("sha256") if isinstance(checksums, dict) else None
        return found if isinstance(found, str) else None

    def download(self, url: str) -> bytes:
        """Fetch an output without the token, from Replicate's own file host or a trusted origin alone."""
        if not self._is_result_origin(url):
            raise Failed("result_url_refused", "not a host of Replicate's files", retryable=False, billed=True)
        return results.download(url, self._links)

    def _is_result_origin(self, url: str) -> bool:
        try:
            origin = origin_of(url)
        except ValueError:
            return False
        return origin in self._links.trusted_origins or f".{origin.host}".endswith(f".{RESULT_HOST}")


# ---------------------------------------------------------------- comparing and reading answers


def _same_images(placed: Placed, value: object, same: Callable[[InputImage, object], bool]) -> bool:
    values = value if placed.is_list else [value]
    return isinstance(values, list) and len(values) == len(placed.images) and all(map(same, placed.images, values))


def _same_data_url(image: InputImage, value: object) -> bool:
    return value == data_uri(image)


def _id_of(prediction: Mapping[str, Any] | None) -> str | None:
    found = (prediction or {}).get("id")
    return found if isinstance(found, str) and 0 < len(found) <= 128 else None


def _known_id(call: CallRef) -> str:
    if call.upstream_id is None:
        raise Uncertain("upstream_cannot_look", "the prediction's id never came; see lookup")
    return call.upstream_id


def _object_in(answer: Answer) -> dict[str, Any]:
    """The JSON of a look. Raises NotRun for an answer other than 2xx, Uncertain for one without an object."""
    if not 200 <= answer.status < 300:
        raise failed_look(classify(answer.status, answer.headers, answer.body))
    found = json_object(answer.body)
    if found is None:
        raise Uncertain("upstream_broken_answer", "not a JSON object")
    return found


def _prediction_in(answer: Answer, upstream_id: str) -> dict[str, Any]:
    prediction = _object_in(answer)
    if prediction.get("id") != upstream_id:
        raise Uncertain("upstream_broken_answer", "not the prediction that was asked for")
    return prediction


def _is_object(row: object) -> bool:
    return isinstance(row, dict)


def _made_before(row: Mapping[str, Any], since: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(row.get("created_at"))) < since
    except (ValueError, TypeError):
        return False  # unreadable, or without a zone


def _query_of(link: object) -> str:
    """The query of the link to the next page: only that is used, so that it leads nowhere else."""
    try:
        return urlsplit(link).query if isinstance(link, str) else ""
    except ValueError:
        return ""
