"""What chatgpt2api answers about its tasks: the state of one, and of many in one look. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from providers.base import CallRef, CheckResult, Finished, Missing, Running
from providers.errors import Failed, NotRun, ProviderError, Uncertain
from providers.http.client import HttpResponse
from providers.shared import results
from providers.shared.looks import as_not_run, with_part
from providers.shared.reading import json_object
from providers.upstreams.chatgpt2api.errors import classify_answer, classify_task_error
from providers.upstreams.chatgpt2api.requests import task_id


def read_task(task: Mapping[str, Any], base_url: str) -> Finished | Running:
    """The state of a task (section 3). Raises: ProviderError for a task that failed.

    Other words that some builds use for the same states are known; an unknown word counts as queued.
    """
    match task.get("status"):
        case "success" | "completed":
            return _finished(task, base_url)
        case "error" | "failed":
            raise classify_task_error(str(task.get("error") or ""))
        case "canceled" | "cancelled":
            raise Failed("upstream_cancelled", retryable=True)
        case "running":
            step = task.get("progress")
            return Running(step=step if isinstance(step, str) else None)
        case _:
            return Running(step="queued")


def _finished(task: Mapping[str, Any], base_url: str) -> Finished:
    images = results.read_images(task.get("data"), base_url)
    if not images:
        raise Failed("upstream_empty_result", "success without an image", retryable=True)
    return Finished(images)


def at_own_address(link: str, base_url: str) -> str | None:
    """The file behind a result link as ``base_url`` serves it, or None for a link that is there or names no file.

    A server with a ``base_url`` of its own names its files by another host (section 3, "Result files"). Only path
    and query of the link are taken; the rest is the operator's configuration.
    """
    own, other = urlsplit(base_url), urlsplit(link)
    if (own.scheme, own.netloc) == (other.scheme, other.netloc) or "/images/" not in other.path:
        return None
    path = other.path if other.path.startswith(f"{own.path}/") else own.path + other.path
    return urlunsplit((own.scheme, own.netloc, path, other.query, ""))


def read_tasks(answer: HttpResponse, batch: Sequence[CallRef], base_url: str) -> dict[str, CheckResult]:
    """The state of each call in the answer to one look.

    Only what the gateway says about a task may end its call. Any other answer, a refused key
    included, is a failed look (NotRun): the task may go on, and the call has its own deadline.
    Raises: NotRun, Uncertain.
    """
    if answer.status != 200:
        raise as_not_run(classify_answer(answer.status, answer.headers, answer.body))
    body = json_object(answer.body)
    items = body.get("items") if body else None
    if body is None or not isinstance(items, list):
        raise Uncertain("upstream_broken_answer", "no list of tasks")
    tasks = {item["id"]: item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)}
    missing = body.get("missing_ids")
    missing_ids = frozenset(filter(_is_text, missing)) if isinstance(missing, list) else frozenset()
    states = {call.id: _state(task_id(call), tasks, missing_ids, base_url) for call in batch}
    return {call.id: with_part(states[call.id], tasks.get(task_id(call)), status=answer.status) for call in batch}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _state(
    task_id: str, tasks: Mapping[str, Mapping[str, Any]], missing_ids: frozenset[str], base_url: str
) -> CheckResult:
    if task_id in tasks:
        try:
            return read_task(tasks[task_id], base_url)
        except ProviderError as error:
            return error
    if task_id in missing_ids:
        return Missing()
    # That an id is left out does not prove that the task is gone, and Missing may lead to a second purchase.
    return NotRun("upstream_broken_answer", "the answer leaves the task out")
