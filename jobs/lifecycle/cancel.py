"""The caller's cancel: a queued job ends at once; a later one is only asked to stop, and a worker ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from core.db import Hot, Statement
from core.ids import is_id
from jobs import states
from jobs.errors import JobNotFoundError
from jobs.failures import CancelOutcome
from jobs.lifecycle.end import cancelled, end
from jobs.states import JobStatus, Signal


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What the caller is answered; ``stop_requested``: the outcome follows with the job's end."""

    outcome: CancelOutcome | Literal["stop_requested"]
    signals: Sequence[Signal]


LOCK = Statement("""
SELECT status, provider, version, attempt, (SELECT o.traceparent FROM orders AS o WHERE o.job_id = :id) AS traceparent
FROM jobs WHERE id = :id AND account_id = :account_id FOR UPDATE
""")

# A separate statement after the lock: in one statement with it, it would count the rows from before the lock.
IMAGES = Statement("SELECT count(*) FROM images WHERE job_id = :id")

REQUEST = Statement("""
UPDATE jobs
SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()), due_at = clock_timestamp(),
    -- A repeated cancel changes nothing, so that a step about to record its answer need not read the job again.
    version = version + CASE WHEN cancel_requested_at IS NULL THEN 1 ELSE 0 END
WHERE id = :id
""")


def cancel(
    connection: Connection, account_id: str, job_id: str, *, charge: Literal["full", "none"] = "full"
) -> Cancellation:
    """Cancel a job for its caller. Never calls an upstream.

    A queued job has no open call: it ends now and is free, except for images of earlier calls (``charge``, setting
    CANCEL_CHARGE). Otherwise this is a request: a worker asks the upstream, and the job's end has the outcome.
    Raises JobNotFoundError.
    """
    hot = Hot.of(connection)
    row = hot.one_or_none(LOCK, {"id": job_id, "account_id": account_id}) if is_id(job_id, "job") else None
    if row is None:
        raise JobNotFoundError("no such job")
    if row.status == JobStatus.QUEUED:
        made = bool(row.attempt and hot.scalar(IMAGES, {"id": job_id}))
        outcome = CancelOutcome.TOO_LATE if made else CancelOutcome.FREED_IN_QUEUE
        how = cancelled(outcome, charged=made and charge == "full")
        done = end(hot, job_id, row.version, how, traceparent=row.traceparent)
        return Cancellation(outcome, done.signals)
    if row.status in states.TERMINAL:
        return Cancellation(CancelOutcome.TOO_LATE, [])
    hot.run(REQUEST, {"id": job_id})
    return Cancellation("stop_requested", [states.poll(row.provider), states.wake(job_id)])
