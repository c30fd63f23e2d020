"""What llama-swap and sd-server answer without an error: images, or a job and its states. Pure functions.

Source: providers/upstreams/llamaswap/CONTRACT.md (stable-diffusion.cpp 97d29908, read 2026-11-20); sections are named
where used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from providers.base import Accepted, Finished, ResultImage, Running, UpstreamCancel
from providers.errors import Failed, NotRun, ProviderError, Uncertain
from providers.http.client import HttpResponse
from providers.shared import results
from providers.shared.looks import as_not_run
from providers.shared.reading import image_bytes, json_object
from providers.shared.redaction import redact
from providers.upstreams.llamaswap.errors import classify

JOB_ROUTES: Final = "/sdcpp/v1"
_JOB_ID = re.compile(r"[\w-]{1,128}")


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seeds of one call's images: ``first``, and one more for each further image."""

    first: int
    count: int


def read_open_ai(body: bytes, base_url: str, n: int, seed: int) -> Finished:
    """The images of the OpenAI routes; those of one batch have ``seed``, ``seed + 1``, ... (section 3).

    Raises: Uncertain.
    """
    images = results.read_images((json_object(body) or {}).get("data"), base_url)[:n]
    if not images:
        raise Uncertain("upstream_broken_answer", "no image")
    if len(images) < n:
        return Finished(images)  # one could not be encoded, and no answer says which
    return Finished([replace(image, seed=seed + place) for place, image in enumerate(images)])


def read_web_ui(body: bytes, n: int) -> Finished:
    """The images of the WebUI routes, each with its seed from the ``info`` text (section 4). Raises: Uncertain."""
    answer = json_object(body) or {}
    listed = answer.get("images")
    found = [image_bytes(text) for text in listed] if isinstance(listed, list) else []
    images = [ResultImage(data=data) for data in found if data is not None][:n]
    if not images:
        raise Uncertain("upstream_broken_answer", "no image")
    info = answer.get("info")
    seeds = (json_object(info.encode()) or {}).get("all_seeds") if isinstance(info, str) else None
    if not isinstance(seeds, list) or len(seeds) < len(images):
        return Finished(images)
    return Finished([replace(image, seed=_seed(seed)) for image, seed in zip(images, seeds, strict=False)])


def _seed(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


# ---------------------------------------------------------------- jobs


def read_accepted(body: bytes, path: str, seeds: Seeds) -> Accepted:
    """The job that a submit to ``path`` made. Its own ``poll_url`` lacks the proxy's path (section 5).

    ``seeds``, which no look tells, go behind the address as a fragment, which is never sent. Raises: Uncertain.
    """
    job_id = (json_object(body) or {}).get("id")
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise Uncertain("upstream_broken_answer", "a job without an id")
    return Accepted(job_id, poll_url=f"{path.removesuffix('/img_gen')}/jobs/{job_id}#{seeds.first}+{seeds.count}")


def split_poll_url(poll_url: str) -> tuple[str, Seeds | None]:
    """The path of a job, and its seeds; None for a job of an older version."""
    path, _, fragment = poll_url.partition("#")
    first, _, count = fragment.partition("+")
    return path, Seeds(int(first), int(count)) if first.isdecimal() and count.isdecimal() else None


def read_look(answer: HttpResponse, url: str, seeds: Seeds | None) -> Finished | Running:
    """The state of the job at ``url``.

    Raises: ProviderError; only sd-server's own word ends the job.
    """
    body = json_object(answer.body) or {}
    if answer.status != 200:
        raise _gone(answer, body) or as_not_run(classify(answer))
    if body.get("id") != url.rpartition("/")[2]:
        raise Uncertain("upstream_broken_answer", "not the job that was asked for")
    match body.get("status"):
        case "completed":
            return _finished(body, url, seeds)
        case "failed":
            raise Failed("upstream_failed", redact(_message(body)), retryable=True)
        case "cancelled":
            raise Failed("upstream_cancelled", redact(_message(body)), retryable=True)
        case status:
            return Running(step=status if isinstance(status, str) else None)


def _finished(job: Mapping[str, Any], url: str, seeds: Seeds | None) -> Finished:
    """Bytes, and links for a later download: results are kept for ten minutes."""
    found = _images(job)
    # Of fewer images than asked for no answer says which one is missing.
    first = seeds.first if seeds is not None and len(found) == seeds.count else None
    images = [
        ResultImage(data=data, url=f"{url}#{place}", seed=None if first is None else first + place)
        for place, data in found.items()
    ]
    if not images:
        raise Failed("upstream_empty_result", "completed without an image", retryable=True)
    return Finished(images)


def _images(job: Mapping[str, Any]) -> dict[int, bytes]:
    """The job's images by their place in the list."""
    result = job.get("result")
    listed = result.get("images") if isinstance(result, dict) else None
    items = enumerate(listed) if isinstance(listed, list) else ()
    read = {place: image_bytes(item.get("b64_json")) for place, item in items if isinstance(item, dict)}
    return {place: data for place, data in read.items() if data is not None}


def _gone(answer: HttpResponse, body: Mapping[str, Any]) -> ProviderError | None:
    """The error if sd-server itself says that the job is gone: by age, or with the process that ran it."""
    if answer.status == 404 and body.get("error") == "job not found":
        return Failed("upstream_restarted", "the model was unloaded, its jobs are lost", retryable=True)
    if answer.status == 410:
        return Failed("result_gone", "older than ten minutes", retryable=False, billed=True)
    return None


def _message(job: Mapping[str, Any]) -> str:
    error = job.get("error")
    return f"{error.get('code')}: {error.get('message')}" if isinstance(error, dict) else ""


def read_image(answer: HttpResponse, place: int) -> bytes:
    """One image of a finished job. Raises: NotRun when another try may succeed; Failed when it is gone."""
    body = json_object(answer.body) or {}
    if _gone(answer, body):
        raise Failed("result_gone", f"HTTP {answer.status}", retryable=False, billed=True)
    found = _images(body).get(place)
    if answer.status != 200 or found is None:
        raise NotRun("result_unreachable", f"HTTP {answer.status} without the image")
    return found


def unreachable(error: ProviderError) -> NotRun:
    """The error of a download that got no answer."""
    return NotRun("result_unreachable", error.detail)


def read_cancel(answer: HttpResponse) -> UpstreamCancel:
    """What a cancel achieved (section 5). Raises: NotRun when the request failed."""
    body = json_object(answer.body) or {}
    if answer.status == 200 and body.get("status") == "cancelled":
        return UpstreamCancel.STOPPED
    if answer.status == 409 and "src" not in body:
        return UpstreamCancel.UNSUPPORTED
    if answer.status == 200 or _gone(answer, body):
        return UpstreamCancel.TOO_LATE
    raise as_not_run(classify(answer))
