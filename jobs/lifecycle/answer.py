"""- -> SUCCEEDED: an order that an earlier job of its account has answered is written as an ended job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.lifecycle.submit import NewJob, Submitted, order_values
from jobs.reads import tasks
from quota import ledger

log = structlog.get_logger(__name__)


class SourceGoneError(Exception):
    """The earlier job has lost an image since it was found."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The image of the earlier job with this index lies under ``key`` for the new one."""

    index: int
    key: str


# The images are read here again, under the account of the order: what was deleted meanwhile, and what is another
# account's, is not in ``made``. A price is held and captured at once, by the transfers of every job that was charged.
# The order gets no digest: only what was made answers orders, so that the age of an image is its own.
ANSWER = Statement("""
WITH source AS (
    SELECT id, notes, clock_timestamp() AS at FROM jobs
    WHERE id = :cached_from AND account_id = :account_id AND status = 'succeeded'
),
made AS (
    SELECT i.index, c.key, i.mime, i.width_px, i.height_px, i.size_bytes, i.sha256, i.seed, i.revised_prompt, i.text
    FROM source JOIN images AS i ON i.job_id = source.id
    JOIN jsonb_to_recordset(CAST(:copies AS jsonb)) AS c(index smallint, key text) ON c.index = i.index
    WHERE i.deleted_at IS NULL
),
whole AS (
    SELECT source.notes, source.at FROM source WHERE (SELECT count(*) FROM made) = CAST(:n AS int)
),
paid AS (
    UPDATE balances SET spendable = spendable - CAST(:price AS bigint)
    WHERE account_id = :account_id AND spendable >= CAST(:price AS bigint) AND CAST(:price AS bigint) > 0
        AND EXISTS (SELECT 1 FROM whole)
    RETURNING spendable
),
job AS (
    INSERT INTO jobs (id, account_id, weight, operation, model, provider, n, low_priority, status, money, unit_price,
        quoted, captured, released, start_deadline_at, keep_s, per_call, key_id, cached_from, notes, created_at,
        started_at, finished_at)
    SELECT :id, :account_id, CAST(:weight AS int), :operation, :model, :provider, CAST(:n AS int),
        CAST(:low_priority AS boolean), 'succeeded', 'settled', CAST(:unit_price AS bigint), CAST(:price AS bigint),
        CAST(:price AS bigint), 0, whole.at + make_interval(secs => :start_within_s), CAST(:keep_s AS int),
        CAST(:per_call AS int), CAST(:key_id AS text), :cached_from, whole.notes, whole.at, whole.at, whole.at
    FROM whole
    WHERE EXISTS (SELECT 1 FROM paid) OR CAST(:price AS bigint) = 0
    RETURNING id, account_id, provider, model, n, quoted, cached_from
),
written AS (
    INSERT INTO orders (job_id, request, warnings, metadata, price_version, request_id, fallbacks, client, webhook,
        parent_id, traceparent)
    SELECT id, CAST(:request AS jsonb), CAST(:warnings AS jsonb), CAST(:metadata AS jsonb), :price_version,
        :request_id, CAST(:fallbacks AS jsonb), CAST(:client AS jsonb), CAST(:webhook AS jsonb),
        CAST(:parent_id AS text), CAST(:traceparent AS text)
    FROM job
),
input AS (
    INSERT INTO inputs (job_id, role, position, key, mime, width_px, height_px, size_bytes, sha256)
    SELECT job.id, i.role, i.position, i.key, i.mime, i.width_px, i.height_px, i.size_bytes, i.sha256
    FROM job, jsonb_to_recordset(CAST(:inputs AS jsonb)) AS i(role text, position smallint, key text, mime text,
        width_px int, height_px int, size_bytes int, sha256 text)
),
image AS (
    INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256, seed,
        revised_prompt, text)
    SELECT job.id, made.index, '', made.key, made.mime, made.width_px, made.height_px, made.size_bytes, made.sha256,
        made.seed, made.revised_prompt, made.text
    FROM job, made
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'queued', jsonb_build_object('quoted_microcredits', quoted, 'model', model, 'provider', provider)
    FROM job
    UNION ALL
    SELECT id, 'succeeded', jsonb_build_object('cached_from', cached_from, 'pictures', n, 'attempt', 0,
        'provider', provider, 'captured_microcredits', quoted, 'released_microcredits', 0)
    FROM job
),
charged AS (
    INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
    SELECT job.account_id, job.id, part.kind, part.source, part.target, job.quoted
    FROM job CROSS JOIN (VALUES
        ('hold', 'acct:available', 'acct:held'), ('capture', 'acct:held', 'house:revenue')
    ) AS part(kind, source, target)
    WHERE job.quoted > 0
),
told AS (
    INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form)
    SELECT job.account_id, job.id, said.event, receiver.endpoint_id, receiver.target, receiver.form
    FROM job CROSS JOIN LATERAL (
        SELECT e.id AS endpoint_id, e.id AS target, 'standard' AS form, e.events
        FROM webhook_endpoints AS e WHERE e.account_id = job.account_id AND e.disabled_at IS NULL
        UNION ALL
        -- The order's own URL, from the parameter: this statement does not see the row that it writes.
        SELECT NULL, o.webhook ->> 'target', o.webhook ->> 'form', o.webhook -> 'events'
        FROM (SELECT CAST(:webhook AS jsonb) AS webhook) AS o WHERE o.webhook IS NOT NULL
    ) AS receiver
    CROSS JOIN (VALUES ('image.task.queued'), ('image.task.succeeded')) AS said(event)
    WHERE receiver.events @> to_jsonb(said.event)
    RETURNING id
)
SELECT EXISTS (SELECT 1 FROM whole) AS whole, EXISTS (SELECT 1 FROM job) AS born, (SELECT count(*) FROM told) AS told,
    coalesce((SELECT spendable FROM paid),
        (SELECT spendable FROM balances WHERE account_id = :account_id)) AS spendable
""")


def answer(connection: Connection, job: NewJob, *, cached_from: str, copies: Sequence[Copy]) -> Submitted:
    """Insert a job as SUCCEEDED with the images of an earlier one, and charge its price.

    ``copies``: where the earlier images lie for the new job, all of them. ``job.quoted_microcredits`` is what is
    charged. Raises SourceGoneError and InsufficientCreditsError; then nothing has changed.
    """
    hot = Hot.of(connection)
    values = {
        **order_values(job),
        "cached_from": cached_from,
        "copies": json.dumps([{"index": copy.index, "key": copy.key} for copy in copies]),
    }
    row = hot.one_or_none(ANSWER, values)
    if not row.whole:
        raise SourceGoneError(cached_from)
    if not row.born:
        ledger.refuse(hot, job.account_id, job.quoted_microcredits)
    told = [states.tell(job.id)] if row.told else []
    task = tasks.find_task(connection, job.account_id, job.id)
    return Submitted(task, [states.wake(job.id), *told], spendable_microcredits=row.spendable)
