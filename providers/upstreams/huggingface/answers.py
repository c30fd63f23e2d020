"""What the router and the providers behind it answer: images, tasks, and errors in five forms. Pure functions.

Source: providers/upstreams/huggingface/CONTRACT.md (package huggingface_hub 2.4.0, read 2026-11-20); sections are named
where used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from providers.base import Accepted, Finished, ResultImage, Running
from providers.errors import ContentRefused, Failed, NotRun, ProviderError, Uncertain, UnknownModel
from providers.http.client import HttpResponse
from providers.shared import results, usage, wavespeed_tasks
from providers.shared.looks import failed_look
from providers.shared.reading import json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import MAX_RETRY_AFTER_S, retry_after_s
from providers.shared.statuses import by_status

MAX_LOADING_WAIT_S = 60.0
_PATH: Final = re.compile(r"(/(?!\.{1,2}(/|$))[\w.:-]+)+")
_RATE_LIMIT: Final = re.compile(r"\br=0\b.*\bt=(\d{1,6})\b")
_IMAGES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8")


# ---------------------------------------------------------------- images


def read_raw(answer: HttpResponse, base_url: str) -> Finished:
    """hf-inference: the image itself, or one of the JSON forms seen instead (section 3). Raises: Uncertain."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return read_listed(answer, base_url)
    if answer.body and (kind.startswith("image/") or answer.body.startswith(_IMAGES)):
        return Finished([ResultImage(data=answer.body)])
    raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} of {len(answer.body)} bytes, type {kind[:40]!r}")


def read_listed(answer: HttpResponse, base_url: str) -> Finished:
    """``data`` with base64, or ``output`` with links (sections 2 and 3). Raises: Uncertain."""
    body = json_object(answer.body) or {}
    links = body.get("output")
    listed = [{"url": link} for link in links] if isinstance(links, list) else body.get("data")
    images = results.read_images(listed, base_url)
    if not images:
        raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} without an image")
    return Finished(images)


# ---------------------------------------------------------------- tasks


def read_fal_task(answer: HttpResponse) -> Accepted:
    """A task of fal's queue, found again by the path of its ``response_url`` (section 4).

    The link leads to another host and perhaps to another path than the request did; with the token only its
    path is used, through the router.
    """
    body = json_object(answer.body) or {}
    return _accepted(body.get("request_id"), body.get("response_url"), "/fal-ai")


def read_wavespeed_task(task: Mapping[str, Any]) -> Accepted:
    """A task of WaveSpeed, found again by the path of ``urls.get`` (section 4)."""
    urls = task.get("urls")
    return _accepted(task.get("id"), urls.get("get") if isinstance(urls, dict) else None, "/wavespeed")


def _accepted(task_id: object, link: object, prefix: str) -> Accepted:
    """The task, to be found at the link's path below the router's own address, so it leads nowhere else."""
    if not isinstance(task_id, str) or not task_id or not isinstance(link, str):
        raise Uncertain("upstream_broken_answer", "a task without an id or a link")
    try:
        path = urlsplit(link).path.rstrip("/")
    except ValueError as error:
        raise Uncertain("upstream_broken_answer", "a task with a broken link") from error
    if not _PATH.fullmatch(path):
        raise Uncertain("upstream_broken_answer", "a task with a strange link")
    return Accepted(task_id[:128], poll_url=f"{prefix}{path}")


def read_fal_status(answer: HttpResponse) -> Running | None:
    """None once the task is over: its result says how. Raises: NotRun, Uncertain for a failed look."""
    if not 200 <= answer.status < 300:
        raise failed_look(classify(answer))
    status = (json_object(answer.body) or {}).get("status")
    if not isinstance(status, str):
        raise Uncertain("upstream_broken_answer", "a task without a status")
    return None if status == "COMPLETED" else Running(step=status.lower())


def read_fal_result(answer: HttpResponse, base_url: str) -> Finished:
    """The result of a task that is over. Its error appears here, as an HTTP error (section 4).

    fal's own ``detail`` with a status about the task ends the call; anything else, such as a refused key,
    is a failed look. Raises: ProviderError.
    """
    body = json_object(answer.body)
    if not 200 <= answer.status < 300:
        raise _fal_failure(answer, body) or failed_look(classify(answer))
    if body is None:
        raise Uncertain("upstream_broken_answer", "a result that is not JSON")
    listed = body.get("images")
    items = listed if isinstance(listed, list) else []
    # Seconds, which have no known price; the router itself names none (section 7).
    cost = usage.reported(usage.counts({"timings": body.get("timings")}))
    kept = _unflagged(items, body.get("has_nsfw_concepts"))
    if items and not kept:
        raise ContentRefused(detail="every image was flagged", stage="output", charged=True, cost=cost)
    images = results.read_images(kept, base_url)
    if not images:
        raise Failed("upstream_empty_result", "completed without an image", retryable=True, billed=True, cost=cost)
    seed = body.get("seed")
    if len(items) > 1 or not isinstance(seed, int) or isinstance(seed, bool):
        return Finished(images, cost)
    return Finished([replace(image, seed=seed) for image in images], cost)


def _unflagged(items: list[Any], flags: object) -> list[Any]:
    """The items that are not flagged: a flagged image is black (section 4)."""
    marks = flags if isinstance(flags, list) else []
    return [item for place, item in enumerate(items) if marks[place : place + 1] != [True]]


def _fal_failure(answer: HttpResponse, body: Mapping[str, Any] | None) -> ProviderError | None:
    if body is None or "detail" not in body:
        return None
    if answer.status in {400, 422}:
        return classify(answer)
    if answer.status in {500, 504}:
        return Failed("upstream_failed", _detail(answer), retryable=True)
    return None


# ---------------------------------------------------------------- errors


def classify(answer: HttpResponse) -> ProviderError:
    """What an answer other than 2xx means for the call it answers (section 5).

    503 with ``estimated_time`` is a model that is loading, so nothing ran (section 6); any other 5xx may come
    from any server on the way.
    """
    words, detail = _words(answer), _detail(answer)
    body = json_object(answer.body) or {}
    loads_s = body.get("estimated_time")
    if answer.status == 503 and isinstance(loads_s, int | float) and not isinstance(loads_s, bool):
        wait_s = min(max(float(loads_s), 1.0), MAX_LOADING_WAIT_S)
        return NotRun("upstream_overloaded", detail, retry_after_s=wait_s)
    if answer.status != 503 and {"code", "message"} <= body.keys():
        return wavespeed_tasks.classify(answer.status, body, answer.headers)
    if answer.status in {404, 410} or (answer.status == 400 and "not supported by provider" in words):
        return UnknownModel("upstream_model_unknown", detail)
    if answer.status in {400, 422} and "content_policy_violation" in words:
        # fal's public error page (fal.ai/docs, "Model Errors"): the type of a detail.
        return ContentRefused(detail=detail)
    return by_status(answer.status, detail, wait_s=wait_of(answer.headers))


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: ``t`` of ``RateLimit: "api";r=0;t=55`` and one more, else ``Retry-After``; None without."""
    found = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return min(int(found[1]) + 1.0, MAX_RETRY_AFTER_S) if found else retry_after_s(headers)


def _detail(answer: HttpResponse) -> str:
    request_id = answer.headers.get("x-request-id", "")
    return redact(f"HTTP {answer.status} {_words(answer)}") + (f" ({request_id[:80]})" if request_id else "")


def _words(answer: HttpResponse) -> str:
    """``error``, else ``detail``, else ``message``, as a text; the body where it is plain text (section 5)."""
    body = json_object(answer.body)
    if body is None:
        is_text = answer.headers.get("Content-Type", "").startswith("text/plain")
        return answer.body[:500].decode("utf-8", "replace") if is_text else ""
    found = body.get("error") or body.get("detail") or body.get("message") or body.get("title") or ""
    if isinstance(found, list):
        return "; ".join(_fault(each) for each in found)
    return _fault(found)


def _fault(fault: object) -> str:
    """One fault, from fal's details and most envelopes, without the input that it repeats."""
    if not isinstance(fault, dict):
        return fault if isinstance(fault, str) else ""
    told = (fault.get(name) for name in ("type", "loc", "msg", "message"))
    return " ".join(str(each) for each in told if isinstance(each, str | list))
