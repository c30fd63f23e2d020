"""The one way to order, and to cancel, for the native routes and every dialect: the transaction, then publishing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from flask import Response, after_this_request, request

from accounts.keys import Caller
from app.http import limit_headers
from app.http.held import on_end
from app.http.task_headers import CACHE, CACHE_HIT
from app.services import Services
from core.errors import DatabaseAwayError, UnavailableError
from jobs import lifecycle
from jobs.dispatch import publishing
from jobs.lifecycle import Cancellation, Submitted
from jobs.reads.tasks import Task
from jobs.submission import sdk_attempts
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order
from jobs.submission.sdk_attempts import SdkAttempt


def accept(
    service: Services,
    caller: Caller,
    order: Order,
    *,
    key: IdempotencyKey | SdkAttempt | None = None,
    request_id: str = "",
) -> Submitted:
    """Accept an order and publish it; an answer that an earlier job has given says so by a header.

    ``Cache-Control`` of the request says whether an earlier job may answer. Raises what SubmissionService.submit
    raises; nothing is kept when it raises.
    """
    if directives := request.headers.get("Cache-Control"):
        order = replace(order, cache_control=frozenset(each.strip().lower() for each in directives.split(",")))
    submitted = service.submission.submit(caller, order, key=key, request_id=request_id)
    limit_headers.note(submitted.standings)
    if not service.publish(submitted.nudges):
        # Marked unpublished, the next sweep sends it; else it would count as sent until it is overdue.
        with suppress(DatabaseAwayError):
            service.connections.autocommit(publishing.mark_unpublished, [submitted.task.id])
    if submitted.task.cached_from is not None:
        after_this_request(_marked)
    return submitted


def _marked(response: Response) -> Response:
    response.headers[CACHE] = CACHE_HIT
    return response


def cancel_job(service: Services, account_id: str, job_id: str) -> Cancellation:
    """Cancel a job and have it known. Raises JobNotFoundError, DatabaseAwayError."""
    done = service.connections.transaction(lifecycle.cancel, account_id, job_id, charge=service.cancel_charge)
    service.publish(done.signals)
    return done


def note_answer(service: Services, response: Response, key: IdempotencyKey | SdkAttempt | None, task_id: str) -> None:
    """Have it noted that an SDK's attempt was answered, once the answer has gone out to its last byte: no retry joins
    the task then. Best effort: a retry that joins for nothing is answered with what is there."""
    if not isinstance(key, SdkAttempt):
        return

    def tell(whole: bool) -> None:
        if whole:
            with suppress(UnavailableError):
                service.connections.autocommit(sdk_attempts.answered, task_id)

    on_end(response, tell)


def ended_or_latest(service: Services, task: Task, wait_s: float) -> Task:
    """The task once it has ended, or as it is after ``wait_s`` seconds, or as it was last read."""
    if wait_s <= 0 or task.ended:
        return task
    account_id = task.account_id
    try:
        return service.waits.until(
            lambda: service.task_reads.task(account_id, task.id),
            lambda found: found.ended,
            account_id=account_id,
            timeout_s=wait_s,
        )
    except UnavailableError:
        return task  # the order is accepted, although its state cannot be read at the moment
