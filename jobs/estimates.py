"""How long a queued task will wait for its start, from what its model's jobs took in the last hour."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from core.db import Database
from core.errors import DatabaseAwayError
from jobs.heartbeats import DEAD_AFTER_S
from jobs.repository import Task
from providers.catalog import Model

FRESH_S = 5.0
KEPT_AT_MOST = 1000
# Newest jobs that are looked at, within the hour.
SAMPLE = 200
# Fewer measurements than this are an anecdote.
SAMPLE_LEAST = 3
# Calls a worker makes at a provider that has no limit of its own (DESIGN section 3, "Bulkheads").
SEATS_PER_WORKER = 200


@dataclass(frozen=True, slots=True)
class Measured:
    """Service times in seconds, and what the provider has room for."""

    p50_s: float
    p90_s: float
    seats: int
    active: int
    max_per_minute: int | None = None
    shut_for_s: float = 0.0  # told to come back later, or an open circuit


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds until the start: half of the tasks in such a place start sooner; nine of ten do."""

    p50_s: float
    p90_s: float


def wait(measured: Measured, ahead: int) -> Wait:
    """The wait behind ``ahead`` others: for seats to come free, or for the minute's submits."""
    must_end = max(0, ahead + 1 - max(0, measured.seats - measured.active))
    paced_s = ahead * 60 / measured.max_per_minute if measured.max_per_minute else 0.0

    def after(service_s: float) -> float:
        return round(measured.shut_for_s + max(paced_s, must_end * service_s / measured.seats), 1)

    return Wait(after(measured.p50_s), after(measured.p90_s))


_MEASURE = text(
    "SELECT t.sample, t.p50_s, t.p90_s, c.seats, coalesce(c.active, 0) AS active, c.max_per_minute,"
    " coalesce(p.paused_at IS NOT NULL, false) AS paused, CAST(greatest(0, c.shut_for_s,"
    " extract(epoch FROM p.open_until - clock_timestamp())) AS float) AS shut_for_s,"
    " (SELECT count(*) FROM workers"
    " WHERE heartbeat_at > statement_timestamp() - make_interval(secs => :dead_s)) AS workers"
    " FROM (SELECT count(*) AS sample, percentile_cont(0.5) WITHIN GROUP (ORDER BY took_s) AS p50_s,"
    " percentile_cont(0.9) WITHIN GROUP (ORDER BY took_s) AS p90_s"
    " FROM (SELECT CAST(extract(epoch FROM finished_at - started_at) AS float) AS took_s FROM jobs"
    " WHERE provider = :provider AND model = :model AND status = 'succeeded'"
    " AND finished_at > statement_timestamp() - interval '1 hour' ORDER BY finished_at DESC LIMIT :sample) AS j) AS t"
    " CROSS JOIN (SELECT CASE WHEN bool_and(max_active IS NOT NULL) THEN sum(max_active) END AS seats,"
    " sum(active) AS active, CASE WHEN bool_and(max_per_minute IS NOT NULL) THEN sum(max_per_minute) END"
    " AS max_per_minute, min(greatest(0, extract(epoch FROM not_before - clock_timestamp()))) AS shut_for_s"
    " FROM credentials WHERE provider = :provider AND paused_at IS NULL) AS c"
    " LEFT JOIN providers AS p ON p.name = :provider"
)


_SERVICE = text(
    "SELECT m.model, t.p50_s FROM unnest(CAST(:providers AS text[]), CAST(:models AS text[])) AS m(provider, model)"
    " CROSS JOIN LATERAL (SELECT count(*) AS sample, percentile_cont(0.5) WITHIN GROUP (ORDER BY took_s) AS p50_s"
    " FROM (SELECT CAST(extract(epoch FROM finished_at - started_at) AS float) AS took_s FROM jobs"
    " WHERE provider = m.provider AND model = m.model AND status = 'succeeded'"
    " AND finished_at > statement_timestamp() - interval '1 hour' ORDER BY finished_at DESC LIMIT :sample) AS j) AS t"
    " WHERE t.sample >= :least"
)


class Estimates:
    """Asks the database about a model at most once in five seconds; in between, remembers."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._known: dict[tuple[str, str], tuple[float, Measured | None]] = {}
        self._lock = threading.Lock()

    def of(self, task: Task) -> Wait | None:
        """None: not queued, too far back to have a place, paused, or nothing measured lately."""
        if task.status != "queued" or task.queue_position is None:
            return None
        measured = self._measured(task.provider, task.model)
        return wait(measured, task.queue_position) if measured else None

    def service_s(self, models: Sequence[Model]) -> Mapping[str, float]:
        """How many seconds half of the last hour's jobs took at most, by model id, where enough ended.

        Empty while the database is away: a recommendation can do without.
        """
        asked = {"providers": [model.provider for model in models], "models": [model.id for model in models]}
        try:
            with self._database.autocommit() as connection:
                rows = connection.execute(_SERVICE, {**asked, "sample": SAMPLE, "least": SAMPLE_LEAST}).all()
        except DatabaseAwayError:
            return {}
        return {row.model: row.p50_s for row in rows}

    def _measured(self, provider: str, model: str) -> Measured | None:
        key, now = (provider, model), self._now()
        with self._lock:
            asked_at, known = self._known.get(key, (None, None))
            if asked_at is not None and now - asked_at < FRESH_S:
                return known
            if len(self._known) >= KEPT_AT_MOST:
                self._known.clear()
            # Before asking: the others go on with what is known while one asks.
            self._known[key] = (now, known)
        try:
            found = self._ask(provider, model)
        except DatabaseAwayError:
            return known
        with self._lock:
            self._known[key] = (now, found)
        return found

    def _ask(self, provider: str, model: str) -> Measured | None:
        with self._database.autocommit() as connection:
            row = connection.execute(
                _MEASURE, {"provider": provider, "model": model, "sample": SAMPLE, "dead_s": DEAD_AFTER_S}
            ).one()
        if row.paused or row.sample < SAMPLE_LEAST:
            return None
        return Measured(
            p50_s=row.p50_s,
            p90_s=row.p90_s,
            seats=int(row.seats or SEATS_PER_WORKER * max(1, row.workers)),
            active=int(row.active),
            max_per_minute=None if row.max_per_minute is None else int(row.max_per_minute),
            shut_for_s=row.shut_for_s,
        )
