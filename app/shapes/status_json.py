"""A task's JSON as PostgreSQL writes it: a plain status read builds no record and encodes nothing.

Its shape is app.shapes.schemas.tasks.TaskOut. app/shapes/render.py builds the same from a Task for every other route,
and tests/integration/test_status_json.py compares the two for every kind of task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.db import Hot, Statement
from core.ids import is_id
from jobs.reads.tasks import QUEUE_COUNTED, Image, Waiting, image_of, waiting_of


@dataclass(frozen=True, slots=True)
class StatusJson:
    """A task in pieces, each a JSON object; what only this process knows goes between them.

    ``queue_position`` is None unless ``status`` is queued, and for places too far back to be counted.
    """

    id: str
    account_id: str
    version: int
    status: str  # jobs.states.JobStatus
    provider: str
    model: str
    queue_position: int | None
    ended: bool
    keep_s: int | None
    head: str  # id to progress
    body: str  # created_at to request
    tail: str  # chosen to parent_id
    images: Sequence[Image]
    waiting: Waiting | None = None


# The members stand in the order of TaskOut. Micro-credits become credits without a division, which would round.
STATUS_JSON = Statement("""
SELECT j.id, j.account_id, j.version, j.status, j.provider, j.model,
    CASE WHEN j.status = 'queued' THEN (
        SELECT nullif(count(*), CAST(:counted AS int))
        FROM (
            SELECT 1 FROM jobs AS q
            WHERE q.provider = j.provider AND q.status = 'queued' AND q.id < j.id
            LIMIT CAST(:counted AS int)
        ) AS ahead
    ) END AS queue_position,
    CASE WHEN j.status = 'queued' AND j.attempt > 0 THEN jsonb_build_object(
        'waiting_code', (
            SELECT c.error_code FROM upstream_calls AS c
            WHERE c.job_id = j.id AND c.error_code IS NOT NULL ORDER BY c.intended_at DESC, c.id DESC LIMIT 1
        ),
        'due_at', j.due_at, 'started_at', j.started_at, 'deadline_at', j.deadline_at
    ) END AS waiting,
    j.finished_at IS NOT NULL AS ended, j.keep_s,
    CAST(json_build_object(
        'id', j.id,
        'object', 'image.task',
        'operation', CASE j.operation WHEN 'image_to_3d' THEN 'to-3d' ELSE replace(j.operation, '_', '-') END,
        'status', CASE j.status WHEN 'waiting' THEN 'running' ELSE j.status END,
        'model', j.model,
        'provider', j.provider,
        'n', j.n,
        'priority', CASE WHEN j.low_priority THEN 'low' ELSE 'normal' END,
        'fallback_models', coalesce(jsonb_path_query_array(o.fallbacks, '$[*].model'), '[]'),
        'attempts', j.attempt,
        'progress', CASE WHEN j.finished_at IS NULL THEN j.progress END
    ) AS text) AS head,
    CAST(json_build_object(
        'created_at', to_char(j.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'started_at', to_char(j.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'finished_at', to_char(j.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'deadline_at', to_char(j.start_deadline_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'price', json_build_object(
            'quoted_microcredits', j.quoted,
            'quoted', CAST(trim_scale(j.quoted * 0.000001) AS text),
            'captured_microcredits', j.captured,
            'captured', CAST(trim_scale(j.captured * 0.000001) AS text),
            'released_microcredits', j.released,
            'released', CAST(trim_scale(j.released * 0.000001) AS text)
        ),
        'request', (asked.request - '{size, params, normalised, chosen}'::text[])
            || (asked.request -> 'size') || (asked.request -> 'params')
            || jsonb_build_object('normalised', asked.request -> 'normalised')
    ) AS text) AS body,
    CAST(json_build_object(
        'chosen', asked.request -> 'chosen',
        'error', CASE WHEN j.failure_code IS NOT NULL THEN json_build_object(
            'code', j.failure_code, 'message', coalesce(nullif(j.failure_detail, ''), j.failure_code),
            -- As jobs.failures.stage_of.
            'stage', CASE
                WHEN j.failure_code IN (
                    'deadline_expired', 'insufficient_credits', 'model_unavailable', 'own_key_deleted',
                    'provider_closed'
                ) THEN 'queued'
                WHEN j.failure_code IN (
                    'bad_result', 'result_gone', 'result_too_large', 'result_unavailable', 'result_url_refused'
                ) THEN 'download'
                WHEN j.failure_code = 'storage_unavailable' THEN 'store'
                ELSE coalesce((
                    SELECT CASE WHEN c.upstream_id IS NULL THEN 'submit' ELSE 'running' END
                    FROM upstream_calls AS c WHERE c.job_id = j.id
                    ORDER BY c.error_code = j.failure_code DESC NULLS LAST, c.intended_at DESC, c.id DESC LIMIT 1
                ), 'queued')
            END,
            'provider', j.provider
        ) END,
        'cancel', CASE WHEN j.cancel_requested_at IS NOT NULL THEN json_build_object(
            'requested_at', to_char(j.cancel_requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            'outcome', j.cancel_outcome
        ) END,
        'warnings', o.warnings || coalesce(j.notes, '[]'),
        'metadata', o.metadata,
        'webhook', CASE WHEN o.webhook IS NOT NULL THEN json_build_object(
            'url', o.webhook -> 'url', 'events', o.webhook -> 'events'
        ) END,
        'cached_from', j.cached_from,
        'parent_id', o.parent_id
    ) AS text) AS tail,
    CASE WHEN j.finished_at IS NOT NULL THEN (
        SELECT jsonb_agg(to_jsonb(i) ORDER BY i.index) FROM images AS i WHERE i.job_id = j.id
    ) END AS images
FROM unnest(CAST(:account_ids AS text[]), CAST(:ids AS text[])) AS wanted (account_id, id)
JOIN jobs AS j ON j.id = wanted.id AND j.account_id = wanted.account_id
JOIN orders AS o ON o.job_id = j.id
-- What is asked of the model whose turn it is: sizes and settings differ from model to model.
CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT behind -> 'request' FROM jsonb_array_elements(o.fallbacks) AS behind
        WHERE behind ->> 'model' = j.model
        LIMIT 1
    ), o.request) AS request
    -- Keeps the planner from evaluating it at each mention.
    OFFSET 0
) AS asked
""")


def find_status_json(hot: Hot, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StatusJson]:
    """Tasks by (account, id), each only within the account it is asked for; unknown ones are left out."""
    wanted = [(account_id, job_id) for account_id, job_id in wanted if is_id(job_id, "job")]
    if not wanted:
        return {}
    account_ids, ids = zip(*wanted, strict=True)
    rows = hot.all(STATUS_JSON, {"account_ids": list(account_ids), "ids": list(ids), "counted": QUEUE_COUNTED})
    return {(row.account_id, row.id): _from_row(row) for row in rows}


def _from_row(row: Any) -> StatusJson:
    return StatusJson(
        row.id,
        row.account_id,
        row.version,
        row.status,
        row.provider,
        row.model,
        row.queue_position,
        row.ended,
        row.keep_s,
        row.head,
        row.body,
        row.tail,
        [image_of(image) for image in row.images or ()],
        waiting_of(row.waiting) if row.waiting else None,
    )
