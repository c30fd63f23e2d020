"""WaveSpeed: hundreds of models behind one asynchronous task API.

Recovery "search": there is no idempotency key, so a submit with an unknown outcome is never sent again
(section 4). It is searched for in the account's history by the token in its webhook URL, or by model and
identical input; see :func:`is_same_order` for what counts as identical.

Source: providers/upstreams/wavespeed/CONTRACT.md (package wavespeed 2.0.5, docs read 2026-11-20); sections are named
where used. What the answers mean stands in :mod:`providers.upstreams.wavespeed.answers`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

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
from providers.errors import Failed, Misconfigured, NotRun, ProviderError, RequestRefused, Uncertain, UnknownModel
from providers.http.client import UnsafeUrlError, WireRequest, origin_of, put
from providers.shared import results
from providers.shared.account import Account, AccountConfig
from providers.shared.behaviour import Wordless, check_each, failed_look
from providers.shared.building import Placed, data_uri, path_of, placed_images, reference_fields, wire_fields
from providers.upstreams.wavespeed import answers

NAME: Final = "wavespeed"
DEFAULT_BASE_URL: Final = "https://api.wavespeed.ai"
API: Final = "/api/v3"

SUBMIT_TOTAL_S = 60.0  # the SDK's read time-outs (section 4), here for the whole exchange
CHECK_TOTAL_S = 30.0
UPLOADS_TOTAL_S = 120.0  # for all images of one call
MAX_SUBMIT_ANSWER_BYTES = 4 * 1024 * 1024
MAX_CHECK_ANSWER_BYTES = 64 * 1024 * 1024
MAX_HISTORY_ANSWER_BYTES = 64 * 1024 * 1024  # a hundred orders, which may hold images
# Above this the images of a call are uploaded: no source says how large a body may be.
MAX_INLINE_BYTES = 1024 * 1024
MAX_UPLOAD_BYTES = 20 * 1024 * 1024  # section 2: the caps disagree, this is the lowest for images
HISTORY_PAGE_SIZE = 100
MAX_HISTORY_PAGES = 10

# Decide how many are bought, or how we get to know of them. Sync mode is not for workers (section 3).
_OURS: Final = frozenset({"enable_sync_mode", "enable_base64_output", "max_images", "num_images", "mask_image"})
_OWN_LINK: Final = re.compile(rf"{API}/predictions/(?P<task>[A-Za-z0-9_-]+)/result#(?P<place>\d{{1,3}})")
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


class Config(AccountConfig):
    """One account: key, where to send it, and the name it sends along (section 1, ``X-Client-Name``)."""

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


# ---------------------------------------------------------------- requests

Spelled = Callable[[InputImage], str]  # how an image is written into a body


def build_submit(order: UpstreamOrder, spelled: Spelled = data_uri) -> WireRequest:
    """The one paid request: the model's input, flat, and the webhook as a query parameter (section 2).

    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself.
    """
    webhook = f"?webhook={quote(order.callback_url, safe='')}" if order.callback_url else ""
    return WireRequest("POST", f"{API}/{path_of(order)}{webhook}", json=build_input(order, spelled))


def build_input(order: UpstreamOrder, spelled: Spelled) -> dict[str, Any]:
    """Raises: RequestRefused."""
    clash = sorted(_OURS & order.extra.keys())
    if clash:
        raise RequestRefused("extra_not_allowed", f"set by Darkroom itself: {', '.join(clash)}")
    return {**wire_fields(order), **reference_fields(order, spelled)}


def images_of(order: UpstreamOrder) -> list[InputImage]:
    """Every image that goes along, in the order of its fields."""
    return [image for placed in placed_images(order) for image in placed.images]


def must_upload(order: UpstreamOrder) -> bool:
    """Whether the images go by upload: the model takes no data URI, or they are too large for a body."""
    images = images_of(order)
    inline_bytes = sum(len(image.data) for image in images)
    takes_inline = "data_uri" in order.model.inputs.image_encoding and inline_bytes <= MAX_INLINE_BYTES
    return bool(images) and not takes_inline


def file_name(image: InputImage) -> str:
    """Named by its content, so that an upload can be recognised in the history, and after nobody's file."""
    return f"{hashlib.sha256(image.data).hexdigest()[:32]}.{_EXTENSIONS.get(image.mime, 'bin')}"


def build_ticket(image: InputImage) -> WireRequest:
    """Ask where to upload (section 2, two-step upload). Raises: RequestRefused for an image above the cap."""
    if len(image.data) > MAX_UPLOAD_BYTES:
        raise RequestRefused("upstream_too_large", f"an image of {len(image.data)} bytes")
    asked = {"filename": file_name(image), "size": len(image.data), "content_type": image.mime}
    return WireRequest("POST", f"{API}/media/uploads", json=asked)


def build_check(task_id: str) -> WireRequest:
    """Built from the id, as the SDK does: a link in an answer is never followed with the key (section 2)."""
    return WireRequest("GET", f"{API}/predictions/{quote(task_id, safe='')}/result")


def build_history(order: UpstreamOrder, since: datetime, page: int) -> WireRequest:
    """One page of the account's tasks of this model (section 2, history list)."""
    asked = {
        "page": page,
        "page_size": HISTORY_PAGE_SIZE,
        "model": path_of(order),
        "created_after": since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    return WireRequest("POST", f"{API}/predictions", json=asked)


# ---------------------------------------------------------------- uploads


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where to put an image, with which headers, and the link under which models find it."""

    put_url: str
    headers: Mapping[str, str]
    download_url: str


def read_ticket(data: object) -> Ticket:
    """Raises: Uncertain for a ticket that cannot be used; the SDKs refuse any method but PUT (section 2)."""
    match data:
        case {"download_url": str(link), "upload": {"method": "PUT" | "put", "url": str(url), **rest}} if link:
            return Ticket(url, _texts(rest.get("headers") or {}), link)
    raise Uncertain("upstream_broken_answer", "no upload ticket")


def _texts(headers: object) -> dict[str, str]:
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Uncertain("upstream_broken_answer", "an upload ticket with strange headers")
    return dict(headers)


def _upload_failed(error: UnsafeUrlError) -> ProviderError:
    detail = f"upload: {error.code} {error.detail}"
    if error.status == 413:
        return RequestRefused("upstream_too_large", detail)
    if error.code == "url_not_allowed":
        return Misconfigured("upstream_misconfigured", detail)
    return NotRun("upstream_unreachable", detail)


# ---------------------------------------------------------------- history


def is_same_order(item: Mapping[str, Any], order: UpstreamOrder) -> bool:
    """Whether a task of the history was made by this very input.

    Everything we sent has to be there unchanged, each image as the same data URI or as a link that ends
    in its :func:`file_name`; what the upstream added may only be a default. An item that does not tell its
    input is no candidate: delivering somebody else's image is worse than delivering none.
    """
    told = item.get("input")
    if item.get("model") != path_of(order) or not isinstance(told, dict):
        return False
    references = placed_images(order)
    sent = build_input(order, file_name)
    added = {name: value for name, value in told.items() if name not in sent}
    plain = sent.keys() - {placed.field for placed in references}
    return (
        all(told.get(name) == sent[name] for name in plain)
        and all(_shows(told.get(placed.field), placed) for placed in references)
        and all(_is_default(order, name, value) for name, value in added.items())
    )


def _shows(told: object, placed: Placed) -> bool:
    links = told if isinstance(told, list) else [told]
    if len(links) != len(placed.images):
        return False
    return all(
        isinstance(link, str) and _leads_to(link, image) for link, image in zip(links, placed.images, strict=True)
    )


def _leads_to(link: str, image: InputImage) -> bool:
    if link.startswith("data:"):
        return link == data_uri(image)
    return link.partition("?")[0].endswith(file_name(image))


def _is_default(order: UpstreamOrder, field: str, value: object) -> bool:
    """Whether an added field changes nothing: unset, random, or what the catalogue gives as the default."""
    if value in (None, "", [], {}) or value is False or value == -1:
        return True
    params = order.model.params
    defaults = [spec.default for name, spec in params.items() if (spec.field or name) == field]
    rules = {} if isinstance(order.model.size, str) else order.model.size
    sizes = [getattr(rule, "default", None) for rule in rules.values()]
    spelled = str(value).replace("*", "x") if field == "size" else value
    return spelled in [*defaults, *sizes]


def has_token(item: Mapping[str, Any], order: UpstreamOrder) -> bool:
    """Whether the item shows the callback URL of this very call, under whatever name."""
    return order.callback_url is not None and order.callback_url in item.values()


# ---------------------------------------------------------------- the provider


class WaveSpeed(Account[Config], Wordless):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = UPLOADS_TOTAL_S + SUBMIT_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Upload what has to be, then start the task. Nothing is bought before the last request."""
        spelled = self._upload(order) if must_upload(order) else data_uri
        request = build_submit(order, spelled)
        answer = self._paid.send(request, total_s=SUBMIT_TOTAL_S, max_bytes=MAX_SUBMIT_ANSWER_BYTES)
        prediction = answers.read_data(answer)
        task_id = answers.task_id_of(prediction)
        state = answers.read_prediction(prediction, self.base_url)
        return state if isinstance(state, Finished) else Accepted(task_id)

    def check(self, call: CallRef) -> Finished | Running | Missing:
        if call.upstream_id is None:
            raise Uncertain("upstream_cannot_look", "the task's id is not known")
        request = build_check(call.upstream_id)
        answer = self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=MAX_CHECK_ANSWER_BYTES)
        if answers.is_unknown_task(answer):
            return Missing()
        try:
            prediction = answers.read_data(answer)
        except ProviderError as error:
            raise failed_look(error) from error
        if answers.task_id_of(prediction) != call.upstream_id:
            raise Uncertain("upstream_broken_answer", "not the task that was asked for")
        state = answers.read_prediction(prediction, self.base_url)
        return self._with_links(state, call.upstream_id) if isinstance(state, Finished) else state

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return check_each(self.check, calls)  # section 4: no status call for several

    def cancel(self, call: CallRef) -> CancelOutcome:  # noqa: ARG002
        """Section 2: no client and no page of the docs knows how."""
        return CancelOutcome.UNSUPPORTED

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:  # noqa: ARG002
        """Tasks of the history that may be this call.

        With a callback URL that alone decides, though no source says that the history shows it: whoever asks
        takes such a find for certain, and the webhook itself brings the id.
        """
        is_ours = is_same_order if order.callback_url is None else has_token
        found = [item for item in self._history(order, since) if is_ours(item, order)]
        return [Accepted(answers.task_id_of(item)) for item in found]

    def download(self, url: str) -> bytes:
        """The bytes at a result link; a link of :meth:`_with_links` is read with the key, and it alone."""
        found = _OWN_LINK.fullmatch(url.removeprefix(self.base_url))
        if not url.startswith(f"{self.base_url}{API}/") or found is None:
            return results.download(url, self._links)
        return self._read_again(found["task"], int(found["place"]))

    def _with_links(self, done: Finished, task_id: str) -> Finished:
        """Captions and base64 with a link to where they can be read again: between a look and the keeping of
        what it found a worker may die, and only links outlive it.
        """
        link = f"{self.base_url}{build_check(task_id).path}#"
        images = [
            replace(image, url=f"{link}{place}") if image.url is None else image
            for place, image in enumerate(done.images)
        ]
        return replace(done, images=images)

    def _read_again(self, task_id: str, place: int) -> bytes:
        """Raises: NotRun, Uncertain, to try again; Failed when the task is no longer known."""
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
        """Every task of the order's model since then, as far as the pages go. Raises: NotRun, Uncertain."""
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
        """The data of an answer to a question that buys nothing. Raises: NotRun, Uncertain."""
        answer = self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=max_bytes)
        try:
            return answers.read_data(answer)
        except ProviderError as error:
            raise failed_look(error) from error

    def _upload(self, order: UpstreamOrder) -> Spelled:
        """Every image of the order uploaded, and how to write each of them.

        Raises: RequestRefused, Misconfigured; NotRun for all that may be better later, since nothing was
            bought yet.
        """
        ends_at = monotonic() + UPLOADS_TOTAL_S
        links = {}
        for image in images_of(order):
            if image.data not in links:
                links[image.data] = self._upload_one(image, ends_at)
        return lambda image: links[image.data]

    def _upload_one(self, image: InputImage, ends_at: float) -> str:
        left_s = ends_at - monotonic()
        if left_s <= 0:
            raise NotRun("upstream_unreachable", "the uploads take too long")
        try:
            answer = self._session.send(
                build_ticket(image), total_s=min(left_s, CHECK_TOTAL_S), max_bytes=MAX_SUBMIT_ANSWER_BYTES
            )
            ticket = read_ticket(answers.read_data(answer))
            policy = replace(self._links, total_s=max(ends_at - monotonic(), 1.0))
            put(ticket.put_url, image.data, policy, headers=ticket.headers)
        except Uncertain as error:
            raise NotRun(error.code, error.detail) from error
        except UnknownModel as error:  # no model was named
            raise Misconfigured("upstream_not_found", error.detail) from error
        except UnsafeUrlError as error:
            raise _upload_failed(error) from error
        return ticket.download_url
