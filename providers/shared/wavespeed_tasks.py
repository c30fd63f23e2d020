"""WaveSpeed's tasks: the envelope, a prediction's state, its outputs, its errors. Pure functions.

WaveSpeed itself answers this way, and Hugging Face's router passes such answers on.

Source: providers/upstreams/wavespeed/CONTRACT.md sections 1 (envelope), 2 (outputs), 3 (states) and 6 (errors);
package wavespeed 2.0.5, docs read 2026-11-20.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urljoin

from providers.base import Finished, ResultImage, Running
from providers.errors import (
    ContentRefused,
    Failed,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.client import HttpResponse
from providers.reported_cost import ReportedCost
from providers.shared import usage
from providers.shared.reading import image_bytes, json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

_SUCCEEDED = frozenset({"completed", "succeeded", "success", "done"})  # partner models use synonyms
_ENDED_BADLY = frozenset({"failed", "cancelled", "timeout", "deleted"})
_LINK_FIELDS = ("url", "image_url", "output")
MAX_NESTING = 4
# Shorter than any image, longer than any word of a caption.
MIN_BASE64_CHARS = 40
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")  # it becomes part of a path

_CONTENT = re.compile(r"nsfw|sensitive|moderation|policy", re.IGNORECASE)
_CREDIT = re.compile(r"\binsufficient\b|\bbalance\b|\bcredits?\b|\btop[ -]?up\b", re.IGNORECASE)


# ---------------------------------------------------------------- envelope


def read_data(answer: HttpResponse) -> Any:
    """The ``data`` of the envelope, or the whole body where a prediction comes without one.

    Raises: the ProviderError of an answer other than 2xx, or of a 2xx whose envelope has another code than
        200, as if the answered call were the paid one; Uncertain for a body of no known shape.
    """
    body = json_object(answer.body)
    if not 200 <= answer.status < 300:
        raise classify(answer.status, body, answer.headers)
    if body is None:
        raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} without an envelope")
    if "id" in body and not isinstance(body.get("data"), dict):
        return body  # here ``code`` is the task's own
    code = body.get("code", 200)
    if isinstance(code, int) and code != 200:
        raise classify(code, body, answer.headers)
    if code != 200 or "data" not in body:
        raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} without an envelope")
    return body["data"]


def task_id_of(prediction: object) -> str:
    """The id of the task that a submit made. Raises: Uncertain where there is none."""
    found = prediction.get("id") if isinstance(prediction, dict) else None
    if not isinstance(found, str) or not _TASK_ID.fullmatch(found):
        raise Uncertain("upstream_broken_answer", "a task without an id")
    return found


# ---------------------------------------------------------------- predictions


def read_prediction(prediction: Mapping[str, Any], base_url: str) -> Finished | Running:
    """The state of a task. An unknown status, or none, counts as running: the call has its own deadline.

    A sync answer that ran out of time (code 5004 while processing) is a task that goes on.

    Raises: ProviderError for a task that ended badly.
    """
    status = _text(prediction.get("status")).lower()
    if status in _SUCCEEDED:
        return _finished(prediction, base_url)
    if status in _ENDED_BADLY:
        raise classify_task(status, prediction.get("code"), _text(prediction.get("error")))
    return Running(step=status or None)


def _finished(prediction: Mapping[str, Any], base_url: str) -> Finished:
    found = prediction.get("outputs")
    images = list(read_outputs(prediction.get("output") if found is None else found, base_url))
    if images:
        return Finished(images, cost_in(prediction))
    flags = prediction.get("has_nsfw_contents")
    if isinstance(flags, list) and True in flags:
        raise ContentRefused(detail="every output was flagged", stage="output", charged=True, cost=cost_in(prediction))
    detail = "completed without an output"
    raise Failed("upstream_empty_result", detail, retryable=True, billed=True, cost=cost_in(prediction))


def cost_in(prediction: Mapping[str, Any]) -> ReportedCost | None:
    """How long it ran, in milliseconds. Prices depend on model and input, and no answer names one."""
    return usage.reported(usage.counts({name: prediction.get(name) for name in ("executionTime", "timings")}))


def read_outputs(output: object, base_url: str, depth: int = 0) -> Iterator[ResultImage]:
    """The results in ``outputs`` or ``output``, in their order; anything else is skipped.

    An entry is a link, bare base64, an object that contains one of them, or a caption: any other text.
    """
    if depth > MAX_NESTING:
        return
    match output:
        case str() if output.strip():
            yield _from_text(output.strip(), base_url)
        case list():
            for entry in output:
                yield from read_outputs(entry, base_url, depth + 1)
        case dict():
            held = next((output[name] for name in _LINK_FIELDS if output.get(name)), output.get("text"))
            yield from read_outputs(held, base_url, depth + 1)


def _from_text(text: str, base_url: str) -> ResultImage:
    if re.match(r"https?://\S+$", text):
        return ResultImage(url=text)
    encoded = text.startswith("data:") or len(text) >= MIN_BASE64_CHARS
    data = image_bytes(text) if encoded else None
    if data is not None:
        return ResultImage(data=data)
    if re.fullmatch(r"/\S+", text):  # last, because base64 of a JPEG begins with a slash too
        return ResultImage(url=urljoin(f"{base_url}/", text))
    return ResultImage(data=text.encode())


# ---------------------------------------------------------------- errors of a task


def _retryable(code: str) -> Callable[[str], ProviderError]:
    return lambda detail: Failed(code, detail, retryable=True)


def _rejected(detail: str) -> ProviderError:
    return RequestRefused("upstream_rejected", detail)


_BY_TASK_CODE: Final[Mapping[int, Callable[[str], ProviderError]]] = MappingProxyType(
    {  # data.code
        1200: lambda detail: ContentRefused(detail=detail),
        1400: _rejected,
        1401: _rejected,
        1402: _retryable("upstream_failed"),  # an image's link could not be read; a new call uploads it again
        1403: _retryable("upstream_failed"),
        1405: _retryable("upstream_failed"),
        5000: _retryable("upstream_failed"),
        5003: _retryable("upstream_failed"),
        5004: _retryable("upstream_timeout"),
    }
)
_SAYS_LITTLE = frozenset({0, 1403, 1405})  # "failed": the message may say more
_BY_ENDING: Final = MappingProxyType(
    {"cancelled": "upstream_cancelled", "timeout": "upstream_timeout", "deleted": "upstream_lost"}
)


def classify_task(status: str, code: object, text: str) -> ProviderError:
    """The error of a task that ended without a result: by its code, its message, or how it ended."""
    number = _number(code)
    detail = redact(f"{status} {number}: {text}")
    if number in _SAYS_LITTLE and _CONTENT.search(text):
        return ContentRefused(detail=detail)
    if number in _BY_TASK_CODE:
        return _BY_TASK_CODE[number](detail)
    return Failed(_BY_ENDING.get(status, "upstream_failed"), detail, retryable=True)


def _number(code: object) -> int:
    """A code as a number; 0 where there is none."""
    return int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()) else 0


# ---------------------------------------------------------------- errors of a call


def classify(status: int, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> ProviderError:
    """What an answer says about the call it answers; ``status`` is HTTP's or the envelope's.

    A 5xx is ambiguous for a submit, with or without an envelope: :class:`Uncertain`.
    """
    text = _text((body or {}).get("message"))
    detail = redact(f"HTTP {status}: {text}")
    if status in _BY_TASK_CODE:
        error = classify_task("refused", status, text)
        return error if status < 5000 else Uncertain("upstream_error", detail)
    if status in {400, 403} and _CREDIT.search(text):
        return OutOfCredit("upstream_out_of_credit", detail)
    if status == 400 and _CONTENT.search(text):
        return ContentRefused(detail=detail, stage="input")
    if status == 404 and body is not None and "code" in body:
        return UnknownModel("upstream_model_unknown", detail)
    return by_status(status, detail, wait_s=retry_after_s(headers, text))


def is_unknown_task(answer: HttpResponse) -> bool:
    """Whether WaveSpeed itself says, by HTTP or within a 200, that it does not know a task.

    A 404 without the envelope may be a proxy's, and one about a product is about the model's path.
    """
    body = json_object(answer.body) or {}
    told = body.get("code") == 404 and answer.status in {200, 404}
    return told and "product" not in _text(body.get("message")).lower()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
