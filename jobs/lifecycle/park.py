"""RUNNING or WAITING -> WAITING: a step's outcomes are recorded, and the upstream works on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs.call import KeptImage
from jobs.errors import StaleJobError
from jobs.lifecycle.calls import CallRow, image_rows

PARK = Statement("""
WITH seen AS (
    SELECT id, status FROM jobs
    WHERE id = :id AND version = :version AND status IN ('running', 'waiting')
    FOR UPDATE
),
said AS (
    SELECT c.id, c.outcome, c.frees, c.closes, c.upstream_id, c.poll_url, c.result, c.error_code, c.error_detail,
        c.retryable, c.retry_after_s, c.kept, c.written_off, c.deadline_s, c.reported_cost, c.usage, c.raw
    FROM seen, jsonb_to_recordset(CAST(:calls AS jsonb)) AS c(id text, outcome text, frees boolean, closes boolean,
        upstream_id text, poll_url text, result jsonb, error_code text, error_detail text, retryable boolean,
        retry_after_s float, kept smallint, written_off boolean, deadline_s float, reported_cost bigint, usage jsonb,
        raw jsonb)
),
call AS (
    UPDATE upstream_calls AS c
    SET outcome = said.outcome, answered_at = coalesce(c.answered_at, clock_timestamp()),
        closed_at = CASE WHEN said.closes THEN clock_timestamp() END,
        upstream_id = coalesce(said.upstream_id, c.upstream_id), poll_url = coalesce(said.poll_url, c.poll_url),
        result = said.result, missing_since = NULL, error_code = said.error_code, error_detail = said.error_detail,
        retryable = said.retryable, retry_after_s = said.retry_after_s, pictures_kept = said.kept,
        written_off = c.written_off OR said.written_off,
        give_up_at = greatest(c.give_up_at, c.intended_at + make_interval(secs => said.deadline_s)),
        reported_cost = coalesce(said.reported_cost, c.reported_cost), usage = coalesce(said.usage, c.usage)
    FROM said WHERE c.id = said.id
    RETURNING c.id, c.provider
),
answer AS (
    INSERT INTO call_answers (call_id, answer)
    SELECT said.id, said.raw FROM said JOIN call ON call.id = said.id WHERE said.raw IS NOT NULL
    ON CONFLICT (call_id) DO UPDATE SET answer = excluded.answer, answered_at = clock_timestamp()
),
image AS (
    INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256, seed,
        revised_prompt, text)
    SELECT seen.id, i.index, i.call_id, i.key, i.mime, i.width_px, i.height_px, i.size_bytes, i.sha256, i.seed,
        i.revised_prompt, i.text
    FROM seen, jsonb_to_recordset(CAST(:images AS jsonb)) AS i(index smallint, call_id text, key text, mime text,
        width_px int, height_px int, size_bytes bigint, sha256 text, seed bigint, revised_prompt text, text text)
    ON CONFLICT (job_id, index) DO NOTHING
    RETURNING index, call_id
),
freed AS (
    UPDATE permits SET call_id = NULL, taken_at = NULL FROM said WHERE said.frees AND permits.call_id = said.id
),
job AS (
    UPDATE jobs
    SET status = 'waiting', version = jobs.version + 1, owner = NULL, step_deadline_at = NULL,
        due_at = CASE WHEN cancel_requested_at IS NULL
            THEN clock_timestamp() + make_interval(secs => CAST(:check_after_s AS float)) ELSE clock_timestamp() END
    FROM seen WHERE jobs.id = seen.id
    RETURNING jobs.id, jobs.version, jobs.attempt, jobs.provider
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT job.id, 'waiting', jsonb_build_object('attempt', job.attempt, 'provider', job.provider)
    FROM job JOIN seen ON seen.status = 'running'
    UNION ALL
    SELECT job.id, 'image', jsonb_build_object('index', image.index, 'provider', job.provider) FROM job, image
)
SELECT job.version, EXISTS (
    SELECT 1 FROM providers AS p WHERE p.name = job.provider AND (p.failures > 0 OR p.trips > 0)
) AS troubled
FROM job
""")


def park(
    connection: Hot | Connection,
    job_id: str,
    version: int,
    *,
    check_after_s: float,
    calls: Sequence[CallRow] = (),
    images: Sequence[tuple[str, KeptImage]] = (),
) -> bool:
    """Record outcomes and leave the job WAITING; its next status check is in ``check_after_s`` seconds.

    ``calls``: the outcomes of the step. ``images``: the images kept, each with the id of its call. Returns whether
    the provider's circuit counts failures, so that good answers must be counted, too. Raises StaleJobError.
    """
    hot = Hot.of(connection)
    row = hot.one_or_none(
        PARK,
        {"id": job_id, "version": version, "check_after_s": check_after_s, **outcome_params(calls, images)},
    )
    if row is None:
        raise StaleJobError(f"{job_id} has moved on")
    return bool(row.troubled)


def outcome_params(calls: Sequence[CallRow], images: Sequence[tuple[str, KeptImage]]) -> Mapping[str, Any]:
    """Return the outcomes and images of a step as parameters of the statements."""
    return {"calls": json.dumps(calls), "images": json.dumps(image_rows(images))}
