"""Stability AI, v2beta: images, edits, upscales, control and 3D, most of them in one answer.

Recovery "never" (section 4): no idempotency key and no search, so a submit whose answer is lost is
never sent again. There are two kinds of calls: most answer with the image itself; creative
upscale and replace background answer with an id, by which ``check`` looks. Their requests look alike, so
the answer decides, not the model.

Source: providers/upstreams/stability/CONTRACT.md (v2beta, checked 2026-11-20); sections are named where used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Final

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, ResultImage, Running, UpstreamOrder
from providers.catalog.entries import CostPerUnit
from providers.configured import value_of
from providers.errors import ContentRefused, Failed, NotRun, RequestRefused, Uncertain
from providers.http.client import FilePart, HttpResponse, WireRequest
from providers.reported_cost import ReportedCost
from providers.shared import results, usage
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.encoding import file_part, form_fields
from providers.shared.extra import refuse_extra
from providers.shared.looks import check_each
from providers.shared.order_fields import path_of, placed_images, wire_fields
from providers.shared.reading import image_bytes, json_object
from providers.shared.unsupported import OneAnswer, WithoutText
from providers.upstreams.stability.errors import classify, classify_look, is_unknown

NAME: Final = "stability"
DEFAULT_BASE_URL: Final = "https://api.stability.ai"

CALL_TOTAL_S = 300.0  # synchronous calls may take minutes (section 4)
LOOK_TOTAL_S = 60.0  # the look that finds the image also returns it
MAX_ANSWER_BYTES = 96 * 1024 * 1024  # the largest image we keep, in base64
MAX_REQUEST_BYTES = 10 * 1024 * 1024  # section 5, 413

CREDITS_PER_USD: Final = 100  # section 6

_RESULTS = "/v2beta/results/"
_SD3 = "/v2beta/stable-image/generate/sd3"
_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")  # 64 hex digits today; it becomes part of a path
_MADE = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"glTF")  # png, jpeg, webp, GLB
_FILTERED = "CONTENT_FILTERED"
_NOT_IN_EXTRA = frozenset({"mode"})  # follows from the images of the order


class Config(AccountConfig):
    """One account: key, and where to send it."""

    api_key: SecretStr
    base_url: str = DEFAULT_BASE_URL

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        """Absolute, and https unless it stays on this machine (section 9)."""
        origin = origin_of(value)
        if origin.scheme != "https" and not _is_loopback(origin.host):
            raise ValueError("must be https")
        return value.rstrip("/")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when no key is set. Raises pydantic's ValidationError."""
        api_key = value_of(env, "STABILITY_API_KEY") or value_of(env, "SAI_API_KEY")
        if api_key is None:
            return None
        return cls(api_key=SecretStr(api_key), base_url=value_of(env, "STABILITY_BASE_URL") or DEFAULT_BASE_URL)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------- requests


def build_submit(order: UpstreamOrder) -> WireRequest:
    """The one paid request: always multipart, even without a file (section 1).

    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself, or beyond 10 MiB.
    """
    refuse_extra(order.extra, _NOT_IN_EXTRA)
    form = form_fields(_by_mode(wire_fields(order), order))
    files = [file_part(placed.field, placed.field, image) for placed in placed_images(order) for image in placed.images]
    if _size_bytes(form, files) > MAX_REQUEST_BYTES:
        raise RequestRefused("upstream_too_large", "more than 10 MiB in one request")
    # A 3D model has only one form of answer (section 2).
    accept = {} if order.model.output == "model_3d" else {"Accept": "image/*"}
    return WireRequest("POST", path_of(order), form=form, files=files, multipart=True, headers=accept)


def _by_mode(fields: Mapping[str, Any], order: UpstreamOrder) -> dict[str, Any]:
    """The fields without those of the other mode: strength needs an image, and SD3 a ratio only without one
    (section 2).
    """
    if not order.images:
        return {name: value for name, value in fields.items() if name != "strength"}
    if path_of(order) != _SD3:
        return dict(fields)
    return {name: value for name, value in fields.items() if name != "aspect_ratio"} | {"mode": "image-to-image"}


def _size_bytes(form: Sequence[tuple[str, str]], files: Sequence[FilePart]) -> int:
    return sum(len(value.encode()) for _name, value in form) + sum(len(part.data) for part in files)


def build_look(upstream_id: str) -> WireRequest:
    """One look at an asynchronous call (section 4). Raises: ValueError for an invalid id."""
    if not _ID.fullmatch(upstream_id):
        raise ValueError("not an id of this upstream")
    return WireRequest("GET", f"{_RESULTS}{upstream_id}", headers={"Accept": "*/*"})


# ---------------------------------------------------------------- answers


def read_submit(answer: HttpResponse) -> Finished | Accepted:
    """A 2xx answer to a submit: bytes, JSON with the image, or JSON with an id (sections 3 and 4).

    Raises: ContentRefused, Uncertain.
    """
    made = read_result(answer)
    if made is not None:
        return Finished([made])
    upstream_id = (json_object(answer.body) or {}).get("id")
    if isinstance(upstream_id, str) and _ID.fullmatch(upstream_id):
        return Accepted(upstream_id)
    raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} with neither a result nor an id")


def documented_cost(order: UpstreamOrder) -> ReportedCost | None:
    """What a call costs unless it failed (section 6): no answer says it, but it is fixed for each operation.

    None where the catalogue knows a price for some orders only.
    """
    model = order.model
    if model.cost_tiers or model.cost_table is not None or model.cost_per_unit != CostPerUnit():
        return None
    count = usage.number(float(model.cost_usd * CREDITS_PER_USD))
    usd = usage.amount_usd(count, units_per_usd=CREDITS_PER_USD)
    return usage.reported({"credits": count, "source": "documented"}, usd=usd)


def read_look(answer: HttpResponse, upstream_id: str) -> ResultImage | Running:
    """A 2xx answer to a look. Raises: ContentRefused, Uncertain."""
    made = read_result(answer)
    if made is not None:
        return made
    state = json_object(answer.body) or {}
    if state.get("id") != upstream_id or "status" not in state:
        raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} that is not about this call")
    return Running(step=str(state["status"])[:64])


def read_result(answer: HttpResponse) -> ResultImage | None:
    """The image or 3D file in an answer, in either form; None where there is none (section 3).

    JSON is recognised by the beginning of its type, which continues ``; type=image/png``. A filtered image is
    blurred and still comes with 200.
    Raises: ContentRefused for a filtered image; Uncertain for an unknown finish reason.
    """
    if answer.headers.get("Content-Type", "").lower().startswith("application/json"):
        found: Mapping[str, Any] = json_object(answer.body) or {}
        reason, seed, data = found.get("finish_reason"), found.get("seed"), image_bytes(found.get("image"))
    else:
        reason, seed, data = answer.headers.get("finish-reason"), answer.headers.get("seed"), answer.body
    if reason == _FILTERED:
        # Whether it is billed is not documented; only failed calls are known to be free.
        raise ContentRefused(detail="finish reason CONTENT_FILTERED", stage="output", charged=True)
    if data is None or not data.startswith(_MADE):
        return None
    if reason not in {None, "SUCCESS"}:
        raise Uncertain("upstream_broken_answer", "an unknown finish reason")
    return ResultImage(data=data, seed=_whole(seed))


def _whole(seed: object) -> int | None:
    text = str(seed)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else None


# ---------------------------------------------------------------- the provider


class Stability(UpstreamAccount[Config], OneAnswer, WithoutText):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = CALL_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Make the result, or start the call and take its id. Raises: ProviderError."""
        answer = self._paid.send(build_submit(order), total_s=CALL_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if not 200 <= answer.status < 300:
            raise classify(answer.status, answer.headers, answer.body)
        taken = read_submit(answer)
        return replace(taken, cost=documented_cost(order))

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look once at an asynchronous call; the upstream wants 10 s between two looks (section 4).

        The interval is the caller's (catalogue, ``check_interval_s``). A finished result has its bytes and the
        link that :meth:`download` can read for 24 h: only a link can be stored in a row.
        Raises: ProviderError.
        """
        if call.upstream_id is None:
            return super().check(call)
        answer = self._look(call.upstream_id)
        if is_unknown(answer):
            return Missing()
        if not 200 <= answer.status < 300:
            raise classify_look(answer.status, answer.headers, answer.body)
        found = read_look(answer, call.upstream_id)
        if isinstance(found, Running):
            return found
        return Finished([replace(found, url=f"{self.base_url}{_RESULTS}{call.upstream_id}")])

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        """One request each: the API has no look at many."""
        return check_each(self.check, calls)

    def download(self, url: str) -> bytes:
        """The bytes of a call's result, read with the key that started it, or of any other link, without it.

        Raises: NotRun when another try may succeed; Failed for a result that is gone.
        """
        own = f"{self.base_url}{_RESULTS}"
        upstream_id = url.removeprefix(own)
        if not url.startswith(own) or not _ID.fullmatch(upstream_id):
            return results.download(url, self._links)
        return self._result(upstream_id)

    def _result(self, upstream_id: str) -> bytes:
        """The bytes of a result. Reading one buys nothing, so every failure may be tried again while it is there."""
        try:
            answer = self._look(upstream_id)
            made = read_result(answer) if answer.status == 200 else None
        except Uncertain as error:
            raise NotRun("result_unreachable", str(error)) from error
        except ContentRefused as error:
            raise Failed("result_gone", error.detail, retryable=False, billed=True) from error
        if is_unknown(answer):
            raise Failed("result_gone", "the upstream no longer knows it", retryable=False, billed=True)
        if made is None or made.data is None:
            raise NotRun("result_unreachable", f"HTTP {answer.status}")
        return made.data

    def _look(self, upstream_id: str) -> HttpResponse:
        return self._session.send(build_look(upstream_id), total_s=LOOK_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
