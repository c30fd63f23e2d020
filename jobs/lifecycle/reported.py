"""WAITING stays WAITING: an upstream has reported on a call, so its job is due now."""

from __future__ import annotations

import re

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.states import Nudge

_UPSTREAM_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)

REPORTED = Statement("""
WITH seen AS (
    -- The job is locked before its call, as everywhere: a step that writes the call's answer holds the job's lock.
    SELECT id, due_at > clock_timestamp() AS early FROM jobs
    WHERE status = 'waiting'
        AND id = (SELECT job_id FROM upstream_calls WHERE id = :id AND outcome IN ('accepted', 'uncertain'))
    FOR UPDATE
),
named AS (
    UPDATE upstream_calls SET upstream_id = CAST(:upstream_id AS text)
    FROM seen
    WHERE upstream_calls.id = :id AND upstream_calls.job_id = seen.id AND outcome = 'uncertain'
        AND upstream_calls.upstream_id IS NULL AND CAST(:upstream_id AS text) IS NOT NULL
    RETURNING upstream_calls.job_id
)
UPDATE jobs
SET due_at = least(jobs.due_at, clock_timestamp()),
    version = jobs.version + CASE WHEN EXISTS (SELECT 1 FROM named) THEN 1 ELSE 0 END
FROM seen WHERE jobs.id = seen.id AND (seen.early OR EXISTS (SELECT 1 FROM named))
RETURNING jobs.provider
""")


def reported(connection: Connection, call_id: str, upstream_id: object) -> list[Nudge]:
    """Make a call's job due now, because its upstream has reported on the call. Returns the poll to publish.

    If the answer to the call was lost, the upstream's id is stored so that the next status check can use it. A
    repeated or late report, or one about an ended job, changes nothing.
    """
    valid_id = upstream_id if isinstance(upstream_id, str) and _UPSTREAM_ID.fullmatch(upstream_id) else None
    row = Hot.of(connection).one_or_none(REPORTED, {"id": call_id, "upstream_id": valid_id})
    return [states.poll(row.provider)] if row else []
