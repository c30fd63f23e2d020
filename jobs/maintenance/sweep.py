"""The sweep, the guarantee behind every fast path: it moves what no message, no hook and no worker has moved.

Every worker runs it every few seconds; one at a time does the work (an advisory lock), in bounded pages, whether
Redis is there or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, text

from core import failpoints, key_values
from core.db import Hot, Statement
from core.errors import DatabaseAwayError, DatabaseBusyError
from jobs import counts, lifecycle
from jobs.dispatch import heartbeats, publishing, refill
from jobs.errors import StaleJobError
from jobs.execution import give_up, keyless
from jobs.execution.context import WorkerContext
from jobs.maintenance import growth, own_keys
from jobs.maintenance.usage_rollup import UsageRollup
from jobs.states import Nudge, Signal

log = structlog.get_logger(__name__)

PAGE = 500
# The broker's epoch as last seen, in the key-value table.
EPOCH = "epoch"
SWEEP_LOCK = 7_216_050_002
LOST_AFTER_S = 10.0
ABANDONED_AFTER_S = 900.0


LAPSED = Statement("""
SELECT j.id, j.account_id, j.fence,
    CASE WHEN w.boot_id IS NULL THEN 'owner_gone'
        WHEN j.step_deadline_at < statement_timestamp() THEN 'step_overdue'
        ELSE 'owner_silent' END AS code
FROM jobs AS j LEFT JOIN workers AS w ON w.boot_id = j.owner
WHERE j.status = 'running' AND (w.boot_id IS NULL OR (CAST(:steady AS boolean)
    AND (j.step_deadline_at < statement_timestamp()
        OR w.heartbeat_at < statement_timestamp() - make_interval(secs => CAST(:dead_s AS float)))))
LIMIT CAST(:page AS int)
""")

EXPIRED = Statement("""
-- The first condition is that of the index jobs_deadline, the second what is looked for.
SELECT id, account_id, version FROM jobs
WHERE status IN ('queued', 'waiting') AND coalesce(deadline_at, start_deadline_at) < statement_timestamp()
    AND status = 'queued'
ORDER BY coalesce(deadline_at, start_deadline_at) LIMIT CAST(:page AS int)
""")

CANCEL_AFTER = Statement("""
-- The first two conditions are those of the index jobs_cancel_after.
SELECT id, account_id FROM jobs
WHERE cancel_after_at IS NOT NULL AND status IN ('queued', 'running', 'waiting')
    AND cancel_after_at < statement_timestamp() AND cancel_requested_at IS NULL
ORDER BY cancel_after_at LIMIT CAST(:page AS int)
""")

ABANDONED = Statement("""
SELECT id, account_id FROM (
    SELECT id, account_id FROM jobs
    WHERE status IN ('queued', 'waiting') AND coalesce(deadline_at, start_deadline_at) < statement_timestamp()
        AND status = 'waiting'
    ORDER BY coalesce(deadline_at, start_deadline_at) LIMIT CAST(:page AS int)
) AS overdue
UNION
SELECT id, account_id FROM (
    SELECT id, account_id FROM jobs
    WHERE status = 'waiting' AND NOT provider = ANY(CAST(:configured AS text[]))
        AND due_at < statement_timestamp() - make_interval(secs => CAST(:abandoned_s AS float))
    LIMIT CAST(:page AS int)
) AS abandoned
""")


@dataclass
class Sweeper:
    """Runs rounds of the sweep for one worker.

    ``steady``: whether this worker's own heartbeats have lately gone through without a gap. Only then may it declare
    others dead: after an outage of the database every heartbeat is old, and workers must not take jobs from each
    other for that. ``epoch`` reads the broker's epoch key; None when the broker is away.
    """

    context: WorkerContext
    steady: Callable[[], bool]
    epoch: Callable[[], str | None]
    _claims: _ClaimRate = field(init=False)
    _usage: UsageRollup = field(init=False)
    _locked: set[str] = field(default_factory=set)  # accounts found locked in this round

    def __post_init__(self) -> None:
        self._claims = _ClaimRate()
        self._usage = UsageRollup(self.context.database)

    def sweep(self) -> list[Signal]:
        """One round. Returns what to publish; nothing when another worker is sweeping. Raises DatabaseAwayError.

        Each job has its own transaction: one whose account or row is locked is left for the next round, and so are
        the other jobs of that account.
        """
        with self._alone() as alone:
            if not alone:
                return []
            began = time.monotonic()
            self._locked.clear()
            signals = [*self._lapse(), *self._expire(), *self._cancel_overdue(), *self._end_abandoned()]
            signals += self._close_own_keys()
            self._notice_new_broker()
            self._unpublish_overdue()
            signals += self._fill_windows()
            self._analyse_grown()
            self._usage.work()
            if signals:
                failpoints.hit("sweep.unpublished")
            counts.SWEEP_ROUNDS.of().inc()
            counts.SWEEP_SECONDS.of().observe(time.monotonic() - began)
            return signals

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """At most one sweep in the fleet.

        The lock is a transaction's, so that a worker stopped in the middle (SIGSTOP) loses it with its
        session after ``idle_in_transaction_session_timeout`` instead of stopping every sweep.
        """
        with self.context.database.transaction() as connection:
            yield bool(
                connection.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": SWEEP_LOCK}).scalar_one()
            )

    def _lapse(self) -> list[Signal]:
        """Take jobs from owners that are gone, silent or overdue."""
        with self.context.database.autocommit() as connection:
            heartbeats.delete_dead_neighbours(connection)
            rows = Hot.of(connection).all(
                LAPSED, {"steady": self.steady(), "dead_s": heartbeats.DEAD_AFTER_S, "page": PAGE}
            )
        signals: list[Signal] = []
        for row in rows:
            log.warning("job_lapsed", job_id=row.id, code=row.code)
            signals += self._each(row, partial(self._lapse_one, row.id, row.fence, row.code), work="lapsed")
        return list(dict.fromkeys(signals))

    def _lapse_one(self, job_id: str, fence: int, code: str) -> list[Signal]:
        with self.context.database.transaction() as connection:
            nudges = lifecycle.lapse(connection, job_id, fence, code=code, give_up_s=self.context.give_up_s)
        return [*nudges]

    def _expire(self) -> list[Signal]:
        """QUEUED jobs past their deadline: not started in time, or not tried again in time."""
        with self.context.database.hot() as hot:
            rows = hot.all(EXPIRED, {"page": PAGE})
        return [
            signal
            for row in rows
            for signal in self._each(row, partial(give_up.expire, self.context, row.id, row.version), work="expired")
        ]

    def _cancel_overdue(self) -> list[Signal]:
        """Jobs past the time by which their callers wanted them, or nothing: cancelled as by the caller."""
        with self.context.database.hot() as hot:
            rows = hot.all(CANCEL_AFTER, {"page": PAGE})
        return [
            signal
            for row in rows
            for signal in self._each(row, partial(self._cancel_one, row.account_id, row.id), work="cancelled")
        ]

    def _cancel_one(self, account_id: str, job_id: str) -> list[Signal]:
        with self.context.database.transaction() as connection:
            done = lifecycle.cancel(connection, account_id, job_id, charge=self.context.cancel_charge)
        return [*done.signals]

    def _end_abandoned(self) -> list[Signal]:
        """WAITING jobs that no one polls any more: past their own deadline, or of a provider that is gone.

        Whose key was taken out of the configuration cannot be asked; calls past their deadline are given up.
        """
        with self.context.database.hot() as hot:
            rows = hot.all(
                ABANDONED,
                {"configured": self.context.registry.configured(), "abandoned_s": ABANDONED_AFTER_S, "page": PAGE},
            )
        return [
            signal
            for row in rows
            for signal in self._each(row, partial(give_up.abandon, self.context, row.id), work="abandoned")
        ]

    def _close_own_keys(self) -> list[Signal]:
        """Jobs that wait for a key that their account has deleted, and the keys themselves."""
        with self.context.database.autocommit() as connection:
            rows = own_keys.keyless(Hot.of(connection), page=PAGE)
            if forgotten := own_keys.close(connection):
                log.info("own_keys_forgotten", keys=forgotten)
        return [
            signal
            for row in rows
            for signal in self._each(row, partial(keyless.without_key, self.context, row.id), work="keyless")
        ]

    def _each(self, row: Any, verb: Callable[[], list[Signal]], *, work: str) -> list[Signal]:
        """Move one job in its own transaction; one that has moved on by itself needs nothing."""
        if row.account_id in self._locked:
            return []
        try:
            signals = verb()
        except StaleJobError:
            return []
        except DatabaseBusyError:
            log.warning("sweep_passes_by_a_locked_job", job_id=row.id)
            self._locked.add(row.account_id)
            return []
        except DatabaseAwayError:
            raise
        except Exception:
            log.exception("sweep_could_not_move", job_id=row.id)
            return []
        failpoints.hit("sweep.moved")
        counts.SWEEP_JOBS.of(work).inc()
        return signals

    def _notice_new_broker(self) -> None:
        """A new or emptied Redis has none of our messages: count every job as unpublished."""
        epoch = self.epoch()
        if epoch is None:
            return
        with self.context.database.transaction() as connection:
            seen = key_values.find(connection, EPOCH)
            if seen is not None and seen.value == epoch:
                return
            log.warning("broker_is_new", republishing=True)
            while publishing.mark_lost_unpublished(connection, older_than_s=0.0, limit=PAGE) == PAGE:
                pass
            key_values.put(connection, EPOCH, epoch)

    def _unpublish_overdue(self) -> None:
        """A message is overdue after twice the time its queue needs, and never before 10 s."""
        if self.epoch() is None:
            return
        with self.context.database.autocommit() as connection:
            rate = self._claims.per_s(connection)
            published = connection.execute(
                text("SELECT count(*) FROM jobs WHERE status = 'queued' AND published_at IS NOT NULL")
            ).scalar_one()
            age_s = max(LOST_AFTER_S, 2.0 * published / rate if rate else 0.0)
            # Without any claims a lost message cannot be told from one that waits: each of a job's messages counts
            # as lost after twice the time of the one before.
            if again := publishing.mark_lost_unpublished(
                connection, older_than_s=age_s, first_s=LOST_AFTER_S, limit=PAGE
            ):
                counts.SWEEP_JOBS.of("republished").inc(again)
                log.info("messages_overdue", jobs=again, older_than_s=round(age_s, 1))

    def _analyse_grown(self) -> None:
        # Autovacuum may be working on the same table, to the same effect.
        with suppress(DatabaseBusyError), self.context.database.autocommit() as connection:
            if names := growth.analyse_grown(connection):
                log.info("tables_analysed", tables=names)

    def _fill_windows(self) -> list[Nudge]:
        with self.context.database.transaction() as connection:
            nudges = refill.refill(
                connection, window=self.context.publish_window, most=PAGE, share_by=self.context.share_by
            )
        if nudges:
            counts.SWEEP_JOBS.of("published").inc(len(nudges))
        return nudges


class _ClaimRate:
    """Claims per second of the whole fleet, from the events since the last look."""

    def __init__(self) -> None:
        self._last_id: int | None = None
        self._at = 0.0

    def per_s(self, connection: Connection) -> float:
        now, last, since = time.monotonic(), self._last_id, self._at
        row = connection.execute(_CLAIMS, {"last": last}).one()
        self._last_id, self._at = max(row.newest, last or 0) or None, now
        return float(row.claims / (now - since)) if last is not None and now > since else 0.0


_CLAIMS = text("""
SELECT coalesce(max(id), 0) AS newest, count(*) FILTER (WHERE type = 'started') AS claims
FROM job_events
WHERE id > coalesce(CAST(:last AS bigint), (SELECT max(id) FROM job_events))
""")
