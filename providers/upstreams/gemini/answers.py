"""What Gemini's answers mean: images, refusals under HTTP 200, and ``google.rpc`` errors.

Source: providers/upstreams/gemini/CONTRACT.md, sections 2 to 4 (answers) and 7 (errors), read 2026-11-20.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from providers.base import ResultImage
from providers.catalog.entries import TokenPrices
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.reported_cost import ReportedCost
from providers.shared import usage
from providers.shared.reading import image_bytes, json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import MAX_RETRY_AFTER_S, retry_after_s
from providers.shared.statuses import by_status

# Until the day's quota is renewed (section 7). The queue waits less and tries again; a fallback comes first.
DAILY_WAIT_S: Final = 3600.0

_BLOCKED = frozenset(
    {
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "IMAGE_PROHIBITED_CONTENT",
        "RECITATION",
        "IMAGE_RECITATION",
        "BLOCKLIST",
        "SPII",
        "ESCALATION",
    }
)
# Failures that may be temporary: one more try is reasonable (section 3).
_TEMPORARY = frozenset({"NO_IMAGE", "IMAGE_OTHER", "OTHER", "MAX_TOKENS", "LANGUAGE", "MALFORMED_RESPONSE"})
_OUT_OF_MONEY = re.compile(r"prepa(?:y|id).*\bcredits?\b|\bcredits?\b.*\b(?:depleted|exhausted|used up)", re.IGNORECASE)
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")

Json = Mapping[str, Any]


# ---------------------------------------------------------------- generateContent


def read_generated(body: bytes, prices: TokenPrices | None = None) -> list[ResultImage]:
    """The images of every candidate, at least one, without those of thoughts (section 2).

    ``prices`` give the cost of an answer without an image.

    Raises: ContentRefused, Failed, BadCredentials, RequestRefused for an answer that says why there is no
        image; Uncertain for one that does not.
    """
    answer = json_object(body) or {}
    candidates = list(_objects(answer.get("candidates")))
    parts = [part for candidate in candidates for part in _parts(candidate) if _is_image(part)]
    images = [ResultImage(data=data) for part in parts if (data := image_bytes(part["inlineData"].get("data")))]
    if images:
        return images
    if parts:
        raise Uncertain("upstream_broken_answer", "an image that cannot be read")
    raise _without_image(answer, candidates, _cost_in(answer, prices))


def read_cost(body: bytes, prices: TokenPrices | None) -> ReportedCost | None:
    """What the call cost, by the tokens of its answer (section 0, token prices).

    Money only where every kind is counted and has a price: cached tokens are cheaper.
    """
    return _cost_in(json_object(body) or {}, prices)


def _cost_in(answer: Json, prices: TokenPrices | None) -> ReportedCost | None:
    told = usage.counts(answer.get("usageMetadata"))
    return usage.reported(told, usd=usage.price_usd(_tokens(told), prices))


def _tokens(told: Json) -> usage.Tokens | None:
    """The tokens by kind: all input has one price; text output is words and thoughts."""
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    given, made, thought, total = (usage.whole(told.get(name, 0)) for name in names)
    drawn = sum(
        usage.whole(each.get("tokenCount")) or 0
        for each in _objects(told.get("candidatesTokensDetails"))
        if each.get("modality") == "IMAGE"
    )
    if given is None or made is None or thought is None or total != given + made + thought or drawn > made:
        return None
    if told.get("cachedContentTokenCount") or (made and "candidatesTokensDetails" not in told):
        return None
    return usage.Tokens(text_input=given, text_output=made - drawn + thought, image_output=drawn)


def _without_image(answer: Json, candidates: Sequence[Json], cost: ReportedCost | None) -> ProviderError:
    """Why a 200 has no image, as an error (section 3)."""
    feedback = answer.get("promptFeedback")
    reason = _text(feedback.get("blockReason")) if isinstance(feedback, dict) else ""
    if reason:
        return ContentRefused(detail=redact(f"the prompt was blocked: {reason}"), stage="input", cost=cost)
    ends = [(_text(candidate.get("finishReason")), candidate) for candidate in candidates]
    if not any(reason for reason, _candidate in ends):
        return Uncertain("upstream_broken_answer", "neither an image nor a reason")
    reason, candidate = next((end for end in ends if end[0] in _BLOCKED), ends[0])
    said = _text(candidate.get("finishMessage")) or " ".join(_texts(candidate))
    return _by_reason(reason, redact(f"{reason}: {said}"), billed=_wrote(answer), said=bool(said), cost=cost)


def _by_reason(reason: str, detail: str, *, billed: bool, said: bool, cost: ReportedCost | None) -> ProviderError:
    if reason in _BLOCKED:
        return ContentRefused(detail=detail, stage="output", charged=billed, cost=cost)
    if reason == "PUP_LIMITED_DISABLED":  # the account violated the terms of use
        return BadCredentials("upstream_forbidden", detail)
    if reason == "MISSING_THOUGHT_SIGNATURE":
        return RequestRefused("upstream_rejected", detail)
    if reason == "STOP" and said:  # a question, or a refusal in words: asking again does not help
        return Failed("upstream_said_no", detail, retryable=False, billed=billed, cost=cost)
    return Failed("upstream_empty_result", detail, retryable=reason in _TEMPORARY, billed=billed, cost=cost)


def _wrote(answer: Json) -> bool:
    """Whether there are output tokens, which are billed even without an image (section 3)."""
    told = answer.get("usageMetadata")
    if not isinstance(told, dict):
        return False
    counts = (told.get(name) for name in ("candidatesTokenCount", "thoughtsTokenCount"))
    return any(isinstance(count, int) and count > 0 for count in counts)


def _parts(candidate: Json) -> Iterator[Json]:
    content = candidate.get("content")
    return _objects(content.get("parts") if isinstance(content, dict) else None)


def _is_image(part: Json) -> bool:
    data = part.get("inlineData")
    is_image = isinstance(data, dict) and _text(data.get("mimeType")).startswith("image/")
    return is_image and part.get("thought") is not True


def _texts(candidate: Json) -> Iterator[str]:
    return (text for part in _parts(candidate) if part.get("thought") is not True and (text := _text(part.get("text"))))


# ---------------------------------------------------------------- predict


def read_predicted(body: bytes) -> list[ResultImage]:
    """The images of an Imagen answer, at least one; a filtered sample is missing, or has a reason (section 4).

    Raises: ContentRefused when all were filtered; Uncertain for an answer in another form.
    """
    answer = json_object(body)
    predictions = (answer or {}).get("predictions", [])
    if answer is None or not isinstance(predictions, list):
        raise Uncertain("upstream_broken_answer", "no list of predictions")
    found = list(_objects(predictions))
    images = [ResultImage(data=data) for each in found if (data := image_bytes(each.get("bytesBase64Encoded")))]
    if images:
        return images
    reasons = [reason for each in found if (reason := _text(each.get("raiFilteredReason")))]
    if len(reasons) < len(predictions):
        raise Uncertain("upstream_broken_answer", "neither an image nor a reason")
    raise ContentRefused(detail=redact(f"filtered: {'; '.join(reasons)}"), stage="output")


# ---------------------------------------------------------------- errors


@dataclass(frozen=True, slots=True)
class Fault:
    """The ``error`` object of an answer; empty where the upstream sent none."""

    status: str = ""
    message: str = ""
    details: Sequence[Json] = ()

    def of(self, kind: str) -> Iterator[Json]:
        """The details of one ``google.rpc`` type."""
        return (detail for detail in self.details if _text(detail.get("@type")).endswith(f"/google.rpc.{kind}"))

    @property
    def has_bad_key(self) -> bool:
        """Whether the key itself is invalid."""
        return any(info.get("reason") == "API_KEY_INVALID" for info in self.of("ErrorInfo"))

    @property
    def violations(self) -> list[Json]:
        """The exceeded quotas."""
        return [each for failure in self.of("QuotaFailure") for each in _objects(failure.get("violations"))]

    @property
    def retry_delay_s(self) -> float | None:
        """Seconds to wait by ``RetryInfo.retryDelay``, a duration such as ``32s``; None without it."""
        found = (_SECONDS.fullmatch(_text(info.get("retryDelay"))) for info in self.of("RetryInfo"))
        return next((float(match[1]) for match in found if match and float(match[1]) > 0), None)


def read_fault(body: bytes) -> Fault:
    """The fault in an error answer, which is sometimes the only element of a list."""
    text = body.strip()
    document = json_object(text[1:-1] if text.startswith(b"[") and text.endswith(b"]") else text)
    error = (document or {}).get("error")
    if not isinstance(error, dict):
        return Fault()
    return Fault(_text(error.get("status")), _text(error.get("message")), tuple(_objects(error.get("details"))))


def classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 2xx means for the one call it answers (section 7).

    A 5xx counts as the upstream's own only with the matching ``google.rpc`` status.
    """
    fault = read_fault(body)
    detail = redact(f"HTTP {status} {fault.status}: {fault.message}")
    wait_s = _wait_s(headers, fault)
    if status == 400 and fault.has_bad_key:
        return BadCredentials("upstream_bad_credentials", detail)
    if status == 429:
        return _limited(fault, detail, wait_s)
    known = _BY_GOOGLE.get((status, fault.status))
    return known(detail, wait_s) if known else by_status(status, detail, wait_s=wait_s)


_BY_GOOGLE: Final[Mapping[tuple[int, str], Callable[[str, float | None], ProviderError]]] = MappingProxyType(
    {
        # no free tier in this region, or billing is not set up
        (400, "FAILED_PRECONDITION"): lambda detail, _wait: OutOfCredit("upstream_out_of_credit", detail),
        (404, "NOT_FOUND"): lambda detail, _wait: UnknownModel("upstream_model_unknown", detail),
        (500, "INTERNAL"): lambda detail, wait_s: _failed("upstream_failed", detail, wait_s),
        (503, "UNAVAILABLE"): lambda detail, wait_s: NotRun("upstream_overloaded", detail, retry_after_s=wait_s),
        (504, "DEADLINE_EXCEEDED"): lambda detail, wait_s: _failed("upstream_timeout", detail, wait_s),
    }
)


def _failed(code: str, detail: str, wait_s: float | None) -> Failed:
    return Failed(code, detail, retryable=True, retry_after_s=wait_s)


def _limited(fault: Fault, detail: str, wait_s: float | None) -> ProviderError:
    """A 429 may mean: wait a moment, wait until tomorrow, or pay."""
    if _OUT_OF_MONEY.search(fault.message) or any(each.get("quotaValue") == "0" for each in fault.violations):
        return OutOfCredit("upstream_out_of_credit", detail)
    if any("PerDay" in _text(each.get("quotaId")) for each in fault.violations):
        wait_s = DAILY_WAIT_S  # its own retryDelay is useless
    return NotRun("upstream_rate_limited", detail, retry_after_s=wait_s)


def _wait_s(headers: Mapping[str, str], fault: Fault) -> float | None:
    found = retry_after_s(headers) or fault.retry_delay_s or retry_after_s({}, fault.message)
    return None if found is None else min(found, MAX_RETRY_AFTER_S)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _objects(value: object) -> Iterator[Json]:
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())
