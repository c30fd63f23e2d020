"""What the sender reads and writes of the outbox: who may be next, taking one, and how its attempt ended.

A message is taken by a lease: its ``due_at`` moves behind the longest attempt, so that no other worker sends it
meanwhile, and a worker that dies leaves it due again. The id is the same at every attempt.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.db import Hot, Statement
from webhooks.secrets import signing

# Longer than an attempt with the reads around it; a message of a killed worker is sent again after it.
LEASE_S = 60.0
# An endpoint is disabled after the last attempt of a message if nothing has succeeded there for so long.
DISABLED_AFTER_S = 2 * 24 * 3600
# Attempts that a message's log keeps: those of three series.
LOG_KEPT = 30


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that may be sent now, and whose capacity it takes."""

    id: str
    account_id: str
    target: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that is this worker's to send.

    ``url`` None: its endpoint or its job is gone, or the endpoint is disabled. ``secrets`` are those of the endpoint,
    newest first; empty where the account's own sign.
    """

    id: str
    account_id: str
    job_id: str | None
    event: str
    at: datetime
    endpoint_id: str | None
    form: str
    attempts: int
    url: str | None = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    now: datetime
    traceparent: str | None = None  # of the job's trace
    target: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: ``error`` None where it was delivered. ``wait_s`` None: it was the last one.

    ``slow_down_s``: for how long the endpoint gets nothing. ``gone``: it wants nothing any more.
    """

    status: int | None
    error: str | None
    duration_ms: int
    wait_s: float | None = None
    slow_down_s: float = 0.0
    gone: bool = False


# Messages of a job to one receiver go in their order as long as each is at its first attempt.
DUE = Statement("""
SELECT m.id, m.account_id, m.target FROM webhook_messages AS m
WHERE m.state = 'pending' AND m.due_at <= statement_timestamp()
    AND m.target <> ALL(CAST(:full_targets AS text[])) AND m.account_id <> ALL(CAST(:full_accounts AS text[]))
    AND m.id <> ALL(CAST(:taken AS text[]))
    AND NOT EXISTS (
        SELECT 1 FROM webhook_endpoints AS e WHERE e.id = m.endpoint_id AND e.not_before > statement_timestamp()
    )
    AND NOT EXISTS (
        SELECT 1 FROM webhook_messages AS earlier
        WHERE earlier.job_id = m.job_id AND earlier.id < m.id AND earlier.target = m.target
            AND earlier.state = 'pending' AND earlier.attempts = 0
    )
ORDER BY m.due_at LIMIT CAST(:most AS int)
""")

DUE_OF_JOB = Statement("""
SELECT m.id, m.account_id, m.target FROM webhook_messages AS m
WHERE m.job_id = :job_id AND m.state = 'pending' AND m.due_at <= statement_timestamp()
    AND NOT EXISTS (
        SELECT 1 FROM webhook_endpoints AS e WHERE e.id = m.endpoint_id AND e.not_before > statement_timestamp()
    )
    AND NOT EXISTS (
        SELECT 1 FROM webhook_messages AS earlier
        WHERE earlier.job_id = m.job_id AND earlier.id < m.id AND earlier.target = m.target
            AND earlier.state = 'pending' AND earlier.attempts = 0
    )
ORDER BY m.id
""")

TAKE = Statement("""
WITH taken AS (
    UPDATE webhook_messages SET due_at = clock_timestamp() + make_interval(secs => CAST(:lease_s AS float))
    WHERE id = :id AND state = 'pending' AND due_at <= clock_timestamp()
    RETURNING id, account_id, job_id, event, at, endpoint_id, form, attempts, target
)
SELECT m.id, m.account_id, m.job_id, m.event, m.at, m.endpoint_id, m.form, m.attempts, m.target,
    CASE WHEN m.endpoint_id IS NULL THEN o.webhook ->> 'url' WHEN e.disabled_at IS NULL THEN e.url END AS url,
    e.secret, e.previous_secret, e.previous_until, clock_timestamp() AS now,
    (SELECT t.traceparent FROM orders AS t WHERE t.job_id = m.job_id) AS traceparent
FROM taken AS m
LEFT JOIN webhook_endpoints AS e ON e.id = m.endpoint_id
LEFT JOIN orders AS o ON o.job_id = m.job_id AND m.endpoint_id IS NULL
""")

RECORD = Statement("""
WITH message AS (
    UPDATE webhook_messages
    SET attempts = attempts + 1, status = CAST(:status AS smallint), error = :error, duration_ms = :duration_ms,
        state = CASE WHEN CAST(:error AS text) IS NULL THEN 'delivered'
            WHEN CAST(:wait_s AS float) IS NULL THEN 'failed' ELSE 'pending' END,
        ended_at = CASE WHEN CAST(:error AS text) IS NULL OR CAST(:wait_s AS float) IS NULL THEN clock_timestamp() END,
        due_at = CASE WHEN CAST(:wait_s AS float) IS NULL THEN due_at
            ELSE clock_timestamp() + make_interval(secs => CAST(:wait_s AS float)) END,
        log = CASE WHEN jsonb_array_length(log) < CAST(:log_kept AS int) THEN log ELSE log - 0 END
            || jsonb_build_array(CAST(:entry AS jsonb) || jsonb_build_object(
                'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))
    WHERE id = :id AND state = 'pending'
    RETURNING endpoint_id, state
)
UPDATE webhook_endpoints AS e
SET failing_since = CASE WHEN CAST(:error AS text) IS NULL THEN NULL
        ELSE coalesce(e.failing_since, clock_timestamp()) END,
    not_before = CASE WHEN CAST(:slow_down_s AS float) > 0
        THEN clock_timestamp() + make_interval(secs => CAST(:slow_down_s AS float))
        WHEN CAST(:error AS text) IS NULL THEN NULL ELSE e.not_before END,
    disabled_at = CASE WHEN bad.reason IS NOT NULL THEN coalesce(e.disabled_at, clock_timestamp())
        ELSE e.disabled_at END,
    disabled_reason = CASE WHEN bad.reason IS NOT NULL THEN coalesce(e.disabled_reason, bad.reason)
        ELSE e.disabled_reason END
FROM message JOIN webhook_endpoints AS seen ON seen.id = message.endpoint_id CROSS JOIN LATERAL (
    SELECT CASE WHEN CAST(:gone AS boolean) THEN 'gone'
        WHEN message.state = 'failed' AND seen.failing_since
            < clock_timestamp() - make_interval(secs => CAST(:disabled_after_s AS float)) THEN 'failing' END AS reason
) AS bad
WHERE e.id = seen.id AND (CAST(:error AS text) IS NOT NULL OR e.failing_since IS NOT NULL OR e.not_before IS NOT NULL)
RETURNING e.id, bad.reason AS disabled_as
""")

DROP = Statement("""
UPDATE webhook_messages SET state = 'dropped', error = :error, ended_at = clock_timestamp()
WHERE id = :id AND state = 'pending'
""")


def due(
    hot: Hot, *, full_targets: Collection[str], full_accounts: Collection[str], taken: Collection[str], most: int
) -> list[Waiting]:
    """Return at most ``most`` messages that may be sent now, the longest due first.

    Those of targets and accounts that are full here, and those that this worker has already, are left out.
    """
    rows = hot.all(
        DUE,
        {
            "full_targets": list(full_targets),
            "full_accounts": list(full_accounts),
            "taken": list(taken),
            "most": most,
        },
    )
    return [Waiting(row.id, row.account_id, row.target) for row in rows]


def due_of_job(hot: Hot, job_id: str) -> list[Waiting]:
    """Return the messages of a job that may be sent now, in the order of its events."""
    return [Waiting(row.id, row.account_id, row.target) for row in hot.all(DUE_OF_JOB, {"job_id": job_id})]


def take(hot: Hot, message_id: str) -> Taken | None:
    """Lease a message for one attempt; None if it is not due any more."""
    row = hot.one_or_none(TAKE, {"id": message_id, "lease_s": LEASE_S})
    return _taken(row) if row else None


def _taken(row: Any) -> Taken:
    secrets = signing(row.secret, row.previous_secret, row.previous_until, row.now) if row.secret else []
    return Taken(
        row.id,
        row.account_id,
        row.job_id,
        row.event,
        row.at,
        row.endpoint_id,
        row.form,
        row.attempts,
        row.url,
        secrets,
        row.now,
        row.traceparent,
        row.target,
    )


def record(hot: Hot, message_id: str, outcome: Outcome) -> str | None:
    """Record how an attempt ended, on the message and on its endpoint.

    Returns why the endpoint was disabled by it: ``gone``, ``failing``, or None.
    """
    entry = {"status": outcome.status, "error": outcome.error, "duration_ms": outcome.duration_ms}
    row = hot.one_or_none(
        RECORD,
        {
            "id": message_id,
            "status": outcome.status,
            "error": outcome.error,
            "duration_ms": outcome.duration_ms,
            "wait_s": outcome.wait_s,
            "slow_down_s": outcome.slow_down_s,
            "gone": outcome.gone,
            "entry": json.dumps(entry),
            "log_kept": LOG_KEPT,
            "disabled_after_s": float(DISABLED_AFTER_S),
        },
    )
    return row.disabled_as if row else None


def drop(hot: Hot, message_id: str, error: str) -> None:
    """End a message that can be sent to no one."""
    hot.run(DROP, {"id": message_id, "error": error})
