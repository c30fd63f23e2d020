"""What Replicate's answers mean: a prediction's state, its images in every form, its errors and those of calls.

Source: providers/upstreams/replicate/CONTRACT.md (spec of 2026-04-09, clients read 2026-11-20); sections are named
where used.
Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from providers.base import Finished, ResultImage, Running
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
from providers.http.client import HttpResponse
from providers.reported_cost import ReportedCost
from providers.shared import usage
from providers.shared.looks import as_not_run
from providers.shared.reading import image_bytes, json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import MAX_RETRY_AFTER_S, retry_after_s
from providers.shared.statuses import by_status

MAX_LINKS = 64
MAX_DEPTH = 8
MAX_LOG_CHARS = 4000  # of the end of a log
_LINKS = ("https:", "http:", "data:")  # of http: only trusted origins are fetched (providers/shared/results.py)
_PROGRESS = re.compile(r"^\s*(\d{1,3})%\s*\|.*\|\s*\d+/\d+")  # a line of tqdm (section 3)
_SEED = re.compile(r"Using seed: (\d{1,18})\b")
_ROUGHLY = re.compile(r"~\s*(\d{1,6})\s*s")  # "resets in ~30s" (section 7)
MAX_SEED = 2**63 - 1


# ---------------------------------------------------------------- predictions


def id_of(prediction: Mapping[str, Any] | None) -> str | None:
    """The id of a prediction, or None where there is no usable one."""
    found = (prediction or {}).get("id")
    return found if isinstance(found, str) and 0 < len(found) <= 128 else None


def object_in(answer: HttpResponse) -> dict[str, Any]:
    """The JSON object in the answer to a look.

    Raises: NotRun for an answer other than 2xx; Uncertain for one without an object.
    """
    if not 200 <= answer.status < 300:
        raise as_not_run(classify(answer.status, answer.headers, answer.body))
    found = json_object(answer.body)
    if found is None:
        raise Uncertain("upstream_broken_answer", "not a JSON object")
    return found


def prediction_in(answer: HttpResponse, upstream_id: str) -> dict[str, Any]:
    """The prediction of this id in the answer to a look. Raises: NotRun, Uncertain."""
    prediction = object_in(answer)
    if prediction.get("id") != upstream_id:
        raise Uncertain("upstream_broken_answer", "not the prediction that was asked for")
    return prediction


def read_prediction(prediction: Mapping[str, Any]) -> Finished | Running:
    """The state of a prediction (section 3). Raises: ProviderError for one that ended without an image.

    Fields may be absent as well as null. An unknown status counts as running: the call has its own deadline.
    """
    match prediction.get("status"):
        case "succeeded":
            return _finished(prediction)
        case "failed":
            raise classify_failure(_text(prediction.get("error")), cost_in(prediction))
        case "canceled":
            detail = "cancelled, or past its deadline while running"
            raise Failed("upstream_cancelled", detail, retryable=True, cost=cost_in(prediction))
        case "aborted":
            raise Failed("upstream_timeout", "past its deadline before it began", retryable=True)
        case status:
            return Running(_progress(prediction.get("logs")), step=status if isinstance(status, str) else None)


def _finished(prediction: Mapping[str, Any]) -> Finished:
    output = prediction.get("output")
    images, cost = read_output(output, seed=_seed(prediction)), cost_in(prediction)
    if images:
        return Finished(images, cost)
    if prediction.get("data_removed") is True:
        # One hour after the end (section 3, Expiry). It was billed: a new order would buy it twice.
        raise Failed("result_gone", "succeeded, and the data are removed", retryable=False, billed=True, cost=cost)
    if output == []:
        # The filter of the open models drops what it flags (section 3, Output forms).
        raise ContentRefused(detail="succeeded with an empty list", stage="output", charged=True, cost=cost)
    raise Failed("upstream_empty_result", "succeeded without an image", retryable=False, billed=True, cost=cost)


def cost_in(prediction: Mapping[str, Any]) -> ReportedCost | None:
    """The seconds and images that are billed. No answer names money, and the price of a second is not known."""
    return usage.reported(usage.counts(prediction.get("metrics")))


def read_output(output: object, *, seed: int | None = None) -> list[ResultImage]:
    """The images of an output in any form of section 3, in its order: link, data URL, list or object of them."""
    images = []
    for text in _links(output, MAX_DEPTH):
        if not text.startswith("data:"):
            images.append(ResultImage(url=text, seed=seed))
        elif (data := image_bytes(text)) is not None:
            images.append(ResultImage(data=data, seed=seed))
        if len(images) == MAX_LINKS:
            break
    return images


def _links(output: object, depth: int) -> Iterator[str]:
    if isinstance(output, str):
        if output.startswith(_LINKS):
            yield output
    elif depth and isinstance(output, list | dict):
        for each in output.values() if isinstance(output, dict) else output:
            yield from _links(each, depth - 1)


def _seed(prediction: Mapping[str, Any]) -> int | None:
    """The seed of the run from its log, else the requested one."""
    logs, given = prediction.get("logs"), prediction.get("input")
    told = _SEED.search(logs[:MAX_LOG_CHARS]) if isinstance(logs, str) else None
    if told:
        return int(told[1])
    asked = given.get("seed") if isinstance(given, dict) else None
    return asked if isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked <= MAX_SEED else None


def _progress(logs: object) -> float | None:
    """The share in the last of tqdm's lines; nothing else reports progress."""
    if not isinstance(logs, str):
        return None
    lines = re.split(r"[\r\n]", logs[-MAX_LOG_CHARS:])
    found = next(filter(None, map(_PROGRESS.match, reversed(lines))), None)
    return min(int(found[1]) / 100, 1.0) if found else None


def _text(value: object) -> str:
    """``error`` as a text: its type is not documented, so anything but a text becomes JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------- a prediction that failed


_Judge = Callable[[str, ReportedCost | None], ProviderError]


def _failed(code: str, *, retryable: bool) -> _Judge:
    return lambda detail, cost: Failed(code, detail, retryable=retryable, cost=cost)


_FAILURES: Final[tuple[tuple[str, _Judge], ...]] = (  # section 7; the first that fits
    (
        r"nsfw|flagged as sensitive|\(e005\)|content policy",
        lambda detail, cost: ContentRefused(detail=detail, cost=cost),
    ),
    # The model did not run. No NotRun: of a look at a prediction that would say that the look itself failed.
    (r"\be003\b|high demand", _failed("upstream_overloaded", retryable=True)),
    (
        r"\be1001\b",
        _failed("upstream_failed", retryable=False),
    ),  # out of memory: the same order would fail again
    (r"\be6716\b", _failed("upstream_timeout", retryable=True)),
    (r"\be4875\b", lambda detail, _cost: Misconfigured("upstream_misconfigured", detail)),  # our webhook was empty
    (r"\(code: pa\)", _failed("upstream_restarted", retryable=True)),
    (r"\be(1000|8367|8765|9243|9825)\b", _failed("upstream_failed", retryable=True)),
    (r"", _failed("upstream_failed", retryable=False)),
)


def classify_failure(text: str, cost: ReportedCost | None = None) -> ProviderError:
    """The error of a prediction, from free text; the time it ran may be billed."""
    lowered = text[:4000].lower()
    error = next(error for pattern, error in _FAILURES if re.search(pattern, lowered))
    return error(redact(text), cost)


# ---------------------------------------------------------------- answers other than 2xx


def classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 2xx means (section 7). A 5xx may come from a proxy and proves nothing."""
    words = problem_words(json_object(body))
    title = words[0] if words else ""
    message = " ".join(words)
    detail = redact(f"HTTP {status} {message}")
    if status == 422 and "invalid version" in title.lower():
        # Also the answer where billing is not set up, or the token may not use the model.
        return UnknownModel("upstream_model_unknown", detail)
    return by_status(status, detail, wait_s=_throttled_s(headers, message) if status == 429 else None)


def classify_create(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """Like :func:`classify`, for the answer to a submit: there a 404 in Replicate's own form is about the model."""
    error = classify(status, headers, body)
    if status == 404 and problem_words(json_object(body)):
        return UnknownModel("upstream_model_unknown", error.detail)
    return error


def unpaid(error: ProviderError) -> ProviderError:
    """The error of a step that buys nothing, such as an upload: where it is uncertain, nothing was bought."""
    if isinstance(error, RequestRefused | Misconfigured | NotRun):
        return error
    return as_not_run(error)


def problem_words(problem: Mapping[str, Any] | None) -> list[str]:
    """The texts of a problem document, the title first; empty if it is not one."""
    found = ((problem or {}).get(name) for name in ("title", "detail", "error"))
    return [text for text in found if isinstance(text, str) and text]


def _throttled_s(headers: Mapping[str, str], message: str) -> float | None:
    """``Retry-After``, else the number in ``~30s``, else ``ratelimit-reset`` (section 7), which all answers have."""
    told = retry_after_s(headers, message)
    if told is not None:
        return told
    roughly = _ROUGHLY.search(message)
    reset = roughly[1] if roughly else headers.get("ratelimit-reset", "")
    return min(float(reset), MAX_RETRY_AFTER_S) if reset.isdecimal() and float(reset) > 0 else None
