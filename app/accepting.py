"""The one way from an order to an accepted job, for the native routes and every dialect: submit, then publish."""

from __future__ import annotations

from contextlib import suppress

from accounts.keys import Caller
from app.services import Services
from core.errors import DatabaseAwayError, UnavailableError
from jobs.dispatch import publishing
from jobs.lifecycle import Submitted
from jobs.reads.tasks import Task
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
    """Accept an order and publish it. Raises what SubmissionService.submit raises; nothing is kept when it raises."""
    submitted = service.submission.submit(caller, order, key=key, request_id=request_id)
    if not service.publish(submitted.nudges):
        # Marked unpublished, the next sweep sends it; else it would count as sent until it is overdue.
        with suppress(DatabaseAwayError):
            service.connections.autocommit(publishing.mark_unpublished, [submitted.task.id])
    return submitted


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
