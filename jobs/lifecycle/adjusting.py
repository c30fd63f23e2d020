"""A prompt that was refused free of charge gets another wording, once in the life of its job.

``adjust`` puts the job back into the queue; no claim takes it there until ``adjusted`` has stored the new wording. The
state is in the job's row before the language model is asked and before the next paid call, so a crash anywhere
repeats the rewriting at most, and never a call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.errors import StaleJobError
from jobs.states import Ended, Signal

ADJUST = Statement("""
WITH job AS (
    UPDATE jobs
    SET status = 'queued', version = version + 1, owner = NULL, step_deadline_at = NULL, lost_messages = 0,
        progress = NULL, safe_prompt = 'adjusting', due_at = clock_timestamp(), published_at = clock_timestamp(),
        deadline_at = greatest(deadline_at, clock_timestamp() + make_interval(
            secs => coalesce(CAST(CAST(:deadline_s AS jsonb) ->> provider AS float), 3600)))
    WHERE id = :id AND version = :version AND status IN ('running', 'waiting') AND cancel_requested_at IS NULL
        AND safe_prompt = 'wanted'
    RETURNING id, attempt, provider, node,
        CAST(extract(epoch FROM clock_timestamp() - started_at) AS float) AS runtime_s
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'adjusting', jsonb_build_object('code', CAST(:code AS text), 'attempt', attempt, 'provider', provider)
    FROM job
)
SELECT provider, node, runtime_s FROM job
""")


def adjust(
    connection: Connection, job_id: str, version: int, *, code: str, deadline_s: Mapping[str, float]
) -> list[Signal]:
    """RUNNING or WAITING -> QUEUED, to have its prompt adjusted. The hold stays.

    ``deadline_s``: after how many seconds, by provider, the job must have moved on. Returns the signals to publish.
    Raises StaleJobError, also for a job that may not have its prompt adjusted, or had it adjusted before.
    """
    row = Hot.of(connection).one_or_none(
        ADJUST, {"id": job_id, "version": version, "code": code, "deadline_s": json.dumps(dict(deadline_s))}
    )
    if row is None:
        raise StaleJobError(f"{job_id} cannot have its prompt adjusted")
    return [Ended(job_id, "retried", code, row.runtime_s, row.node), states.run(row.provider, job_id)]


@dataclass(frozen=True, slots=True)
class Adjusting:
    """A job that waits for another wording of its ``prompt``, as it was taken."""

    version: int
    prompt: str
    model: str
    traceparent: str | None


TAKE_ADJUSTING = Statement("""
WITH job AS (
    UPDATE jobs
    SET due_at = clock_timestamp() + make_interval(secs => CAST(:lease_s AS float)), published_at = NULL,
        lost_messages = 0
    WHERE id = :id AND status = 'queued' AND safe_prompt = 'adjusting' AND due_at <= clock_timestamp()
    RETURNING id, version, model
)
SELECT job.version, job.model, o.request ->> 'prompt' AS prompt, o.traceparent
FROM job JOIN orders AS o ON o.job_id = job.id
""")


def take_adjusting(hot: Hot, job_id: str, *, lease_s: float) -> Adjusting | None:
    """Take a job whose prompt is to be adjusted; None if there is no such job or someone else is at it.

    Should the taker die, the job is due again after ``lease_s`` seconds.
    """
    row = hot.one_or_none(TAKE_ADJUSTING, {"id": job_id, "lease_s": lease_s})
    return Adjusting(row.version, row.prompt or "", row.model, row.traceparent) if row else None


# Every model of the order is asked with the new wording from here on.
ADJUSTED = Statement("""
WITH job AS (
    UPDATE jobs
    SET version = version + 1, safe_prompt = 'adjusted', prompt_adjusted_at = clock_timestamp(),
        due_at = clock_timestamp(), published_at = clock_timestamp(), lost_messages = 0,
        notes = coalesce(notes, '[]') || jsonb_build_array(CAST(:note AS text))
    WHERE id = :id AND version = :version AND status = 'queued' AND safe_prompt = 'adjusting'
    RETURNING id, provider, attempt
),
reworded AS (
    UPDATE orders AS o
    SET request = o.request || jsonb_build_object(
            'prompt', CAST(:prompt AS text), 'original_prompt', o.request -> 'prompt'),
        fallbacks = (
            SELECT jsonb_agg(CASE WHEN jsonb_typeof(f.model #> '{request,prompt}') = 'string'
                THEN jsonb_set(f.model, '{request}', (f.model -> 'request') || jsonb_build_object(
                    'prompt', CAST(:prompt AS text), 'original_prompt', f.model #> '{request,prompt}'))
                ELSE f.model END ORDER BY f.at)
            FROM jsonb_array_elements(o.fallbacks) WITH ORDINALITY AS f (model, at)
        )
    FROM job WHERE o.job_id = job.id
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'adjusted', jsonb_build_object('attempt', attempt, 'provider', provider)
    FROM job
)
SELECT provider FROM job
""")

NOTE = "the prompt was refused and has been adjusted once; request.original_prompt has the first wording"


def adjusted(hot: Hot, job_id: str, version: int, *, prompt: str) -> list[Signal]:
    """Store the new wording, with which the job may be claimed again. Returns the signals to publish.

    Raises StaleJobError for a job that has ended or has a new wording already; then nothing has changed.
    """
    row = hot.one_or_none(ADJUSTED, {"id": job_id, "version": version, "prompt": prompt, "note": NOTE})
    if row is None:
        raise StaleJobError(f"{job_id} has moved on")
    return [states.wake(job_id), states.run(row.provider, job_id)]
