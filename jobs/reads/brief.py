"""How far jobs are, and nothing else: the cheapest read of a job, for clients that poll many times a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from core.db import Hot, Statement
from core.ids import is_id
from jobs.failures import CancelOutcome
from jobs.reads.tasks import QUEUE_COUNTED


class Event(TypedDict):
    """One row of a job's timeline, its time as RFC 3339."""

    at: str
    type: str


@dataclass(frozen=True, slots=True)
class Brief:
    """``ahead``: jobs before it at its provider, at most QUEUE_COUNTED; 0 unless it is queued. ``run_s``: from its
    first start to its end. ``events``: oldest first; None unless they were asked for."""

    id: str
    account_id: str
    status: str  # jobs.states.JobStatus
    version: int
    ahead: int
    run_s: float | None
    failure_code: str | None
    failure_detail: str | None
    cancel_outcome: str | None  # jobs.failures.CancelOutcome
    events: Sequence[Event] | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")

    @property
    def made(self) -> bool:
        """Whether it has ended with images: as ordered, or made before a cancel reached its upstream."""
        return self.status == "succeeded" or (self.ended and self.cancel_outcome == CancelOutcome.TOO_LATE)


BRIEFS = Statement("""
SELECT j.id, j.account_id, j.status, j.version, j.failure_code, j.failure_detail, j.cancel_outcome,
    wanted.with_events,
    CASE WHEN j.status = 'queued' THEN (
        SELECT count(*) FROM (
            SELECT 1 FROM jobs AS q
            WHERE q.provider = j.provider AND q.status = 'queued' AND q.id < j.id
            LIMIT CAST(:counted AS int)
        ) AS ahead
    ) ELSE 0 END AS ahead,
    CAST(extract(epoch FROM j.finished_at - j.started_at) AS float8) AS run_s,
    CASE WHEN wanted.with_events THEN (
        SELECT jsonb_agg(jsonb_build_object(
            'at', to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'type', e.type
        ) ORDER BY e.id)
        FROM job_events AS e WHERE e.job_id = j.id
    ) END AS events
FROM unnest(CAST(:account_ids AS text[]), CAST(:ids AS text[]), CAST(:with_events AS bool[]))
    AS wanted (account_id, id, with_events)
JOIN jobs AS j ON j.id = wanted.id AND j.account_id = wanted.account_id
""")


def find_briefs(hot: Hot, wanted: Sequence[tuple[str, str, bool]]) -> Mapping[tuple[str, str, bool], Brief]:
    """Return jobs by (account id, job id, whether with events), each only within that account; unknown ones are left
    out."""
    wanted = [each for each in wanted if is_id(each[1], "job")]
    if not wanted:
        return {}
    account_ids, ids, with_events = zip(*wanted, strict=True)
    rows = hot.all(
        BRIEFS,
        {
            "account_ids": list(account_ids),
            "ids": list(ids),
            "with_events": list(with_events),
            "counted": QUEUE_COUNTED,
        },
    )
    return {
        (row.account_id, row.id, row.with_events): Brief(
            row.id,
            row.account_id,
            row.status,
            row.version,
            row.ahead,
            row.run_s,
            row.failure_code,
            row.failure_detail,
            row.cancel_outcome,
            (row.events or []) if row.with_events else None,
        )
        for row in rows
    }
