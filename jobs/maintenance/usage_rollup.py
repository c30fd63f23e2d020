"""The roll-up of usage: hours that have ended are added up once, and the hours of a whole day become one step.

An hour is added up when nothing can be added to it any more: five minutes have passed since its end, and every
transaction that was writing then has ended (docs/decisions/0087-usage-is-rolled-up-by-closed-hours.md). A call that is
changed afterwards takes its step away, by a trigger, and it is added up again. The audit compares both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import structlog
from sqlalchemy import Connection, text

from core.db import Database, Hot, Statement
from core.errors import DatabaseBusyError

log = structlog.get_logger(__name__)

# The trigger usage_reopen takes the same one, shared.
ROLLUP_LOCK = 7_216_050_018
EVERY_S = 60.0
WORK_S = 0.5

HORIZON = Statement("""
SELECT date_trunc('hour', statement_timestamp() - interval '5 minutes', 'UTC') AS ended_at,
    CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest_xid
""")

# A transaction id of its own: every transaction that was writing before has a lower one. Those of other databases on
# the server come from the same counter, and only make it wait longer.
BARRIER = Statement("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid")

# The hour: the first that no step covers, after a step or before the first one.
ADD_UP = Statement("""
WITH hour AS (
    SELECT free.at AS from_at FROM (
        SELECT date_trunc('hour', least(
            (SELECT t.created_at FROM transfers AS t WHERE t.kind IN ('capture', 'release')
                ORDER BY t.created_at LIMIT 1),
            (SELECT j.finished_at FROM jobs AS j WHERE j.captured = 0 ORDER BY j.finished_at LIMIT 1)
        ), 'UTC') AS at
        UNION ALL
        SELECT to_at FROM usage_steps
    ) AS free
    WHERE free.at < CAST(:closed_at AS timestamptz) AND coalesce((
        SELECT s.to_at FROM usage_steps AS s WHERE s.from_at <= free.at ORDER BY s.from_at DESC LIMIT 1
    ), '-infinity') <= free.at
    ORDER BY free.at LIMIT 1
),
step AS (
    INSERT INTO usage_steps (from_at, to_at) SELECT from_at, from_at + interval '1 hour' FROM hour
    RETURNING from_at, to_at
),
sums AS (
    INSERT INTO usage_sums (from_at, account_id, key_id, operation, model, provider, outcome, jobs, images, captured,
        released, calls, reported_cost, computed_cost, uncosted_calls)
    SELECT step.from_at, f.account_id, f.key_id, f.operation, f.model, f.provider, f.outcome, sum(f.jobs),
        sum(f.images), sum(f.captured), sum(f.released), sum(f.calls), sum(f.reported_cost), sum(f.computed_cost),
        sum(f.uncosted_calls)
    FROM step CROSS JOIN LATERAL usage_facts(step.from_at, step.to_at) AS f
    GROUP BY step.from_at, f.account_id, f.key_id, f.operation, f.model, f.provider, f.outcome
)
SELECT from_at FROM step
""")

# The day of this hour, if its 24 hours are there. What a statement has deleted is not in the way of what it inserts.
MERGE_DAY = Statement("""
WITH day AS (
    SELECT date_trunc('day', CAST(:from_at AS timestamptz), 'UTC') AS from_at,
        date_trunc('day', CAST(:from_at AS timestamptz), 'UTC') + interval '24 hours' AS to_at
),
whole AS (
    SELECT day.from_at, day.to_at FROM day JOIN usage_steps AS s ON s.from_at >= day.from_at AND s.to_at <= day.to_at
    GROUP BY day.from_at, day.to_at
    HAVING sum(s.to_at - s.from_at) = interval '24 hours' AND count(*) > 1
),
hour AS (
    DELETE FROM usage_steps AS s USING whole WHERE s.from_at >= whole.from_at AND s.from_at < whole.to_at RETURNING 1
),
step AS (
    INSERT INTO usage_steps (from_at, to_at)
    SELECT whole.from_at, whole.to_at FROM whole WHERE (SELECT count(*) FROM hour) > 0
),
part AS (
    DELETE FROM usage_sums AS u USING whole WHERE u.from_at >= whole.from_at AND u.from_at < whole.to_at
    RETURNING whole.from_at AS day_at, u.*
)
INSERT INTO usage_sums (from_at, account_id, key_id, operation, model, provider, outcome, jobs, images, captured,
    released, calls, reported_cost, computed_cost, uncosted_calls)
SELECT day_at, account_id, key_id, operation, model, provider, outcome, sum(jobs), sum(images), sum(captured),
    sum(released), sum(calls), sum(reported_cost), sum(computed_cost), sum(uncosted_calls)
FROM part GROUP BY day_at, account_id, key_id, operation, model, provider, outcome
""")

DROP_STEP = Statement("""
WITH step AS (DELETE FROM usage_steps WHERE from_at = CAST(:from_at AS timestamptz) RETURNING 1),
sums AS (DELETE FROM usage_sums WHERE from_at = CAST(:from_at AS timestamptz) RETURNING 1)
SELECT (SELECT count(*) FROM step) + (SELECT count(*) FROM sums) AS rows
""")


class UsageRollup:
    """Rolls usage up for one worker's sweep: looks once a minute, and goes on at once while hours are left."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._next_at = float("-inf")
        self._horizon: tuple[datetime, int] | None = None  # the end of the last whole hour, and the barrier behind it

    def work(self, *, seconds: float = WORK_S) -> int:
        """Add up hours that are closed, for about so many seconds and at least one. Returns how many.

        Raises DatabaseAwayError. Without the lock, or with a writer from before still under way, it is zero.
        """
        now = self._clock()
        if now < self._next_at:
            return 0
        closed_at = self._closed_at()
        if closed_at is None:
            return 0
        hours = 0
        while self._add_up_one(closed_at):
            hours += 1
            if self._clock() - now >= seconds:
                break
        else:
            self._next_at = now + EVERY_S
        if hours:
            log.debug("usage_rolled_up", hours=hours)
        return hours

    def _closed_at(self) -> datetime | None:
        """The end of the last hour to which nothing can be added; None while a transaction that could is open."""
        with self._database.hot() as hot:
            row = hot.one_or_none(HORIZON, {})
            if self._horizon is None or self._horizon[0] != row.ended_at:
                self._horizon = (row.ended_at, hot.scalar(BARRIER, {}))
                row = hot.one_or_none(HORIZON, {})
        ended_at, barrier = self._horizon
        return ended_at if row.oldest_xid >= barrier else None

    def _add_up_one(self, closed_at: datetime) -> bool:
        with suppress(DatabaseBusyError), self._database.transaction() as connection:
            return add_up_next(connection, closed_at)
        return False


def add_up_next(connection: Connection, closed_at: datetime) -> bool:
    """Add up the first hour before ``closed_at`` that is not yet; False where there is none.

    Must come first in its transaction: later statements see what was committed before the lock was had.
    """
    take_lock(connection)
    hot = Hot.of(connection)
    from_at = hot.scalar(ADD_UP, {"closed_at": closed_at})
    if from_at is None:
        return False
    hot.run(MERGE_DAY, {"from_at": from_at})
    return True


def drop_step(connection: Connection, from_at: datetime) -> bool:
    """Forget the sums of a step, which is then read from the ledger until it is added up again. True: there was one."""
    take_lock(connection)
    return bool(Hot.of(connection).scalar(DROP_STEP, {"from_at": from_at}))


def take_lock(connection: Connection) -> None:
    """Be the only one to change steps until the transaction ends. Raises DatabaseBusyError."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ROLLUP_LOCK})
