"""How long a queued job will wait for its start, from how long the provider's jobs have waited and run lately.

A job waits for its turn, which comes as quickly as jobs were started while others waited; for a free permit, where the
provider's credentials have limits, which comes as quickly as jobs end; and for a provider that takes no calls at the
moment (an open circuit, an upstream that asked for patience).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sqlalchemy import Row, text

from core.db import Database
from core.errors import DatabaseAwayError
from jobs.dispatch.heartbeats import DEAD_AFTER_S
from jobs.dispatch.put_off import PUT_OFF_MAX_S
from jobs.submission.wait_model import MINUTE_S, SAMPLE_LEAST, Life, Measured, Wait, calibrated, share_of, wait
from providers.catalog.catalog import Model

FRESH_S = 5.0
KEPT_AT_MOST = 1000
# Newest jobs of a model that are looked at, within the hour, and newest events of the whole fleet, within minutes.
SAMPLE, EVENTS = 200, 2000
# A circuit that opened again after its probe may do so any number of times: the wait is unknown.
TRIPS_KNOWN = 1


class InQueue(Protocol):
    """What an estimate needs of a job: a jobs.reads.tasks.Task, for example."""

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def queue_position(self) -> int | None: ...


# Newest events by primary key, and from them jobs by theirs: nothing here reads more when there are more jobs. The
# permits taken are counted up to where there are none left. Jobs that an earlier one has answered never waited.
_MEASURE = text("""
WITH lately AS MATERIALIZED (
    SELECT job_id, type, at FROM job_events ORDER BY id DESC LIMIT :events
), lives AS MATERIALIZED (
    SELECT id, created_at, started_at, finished_at FROM jobs
    WHERE id = ANY(ARRAY(SELECT job_id FROM lately
                         WHERE type = 'started' AND at > statement_timestamp() - interval '10 minutes'))
      AND provider = :provider AND started_at > statement_timestamp() - interval '10 minutes'
    UNION
    SELECT id, created_at, started_at, finished_at FROM (
        SELECT id, created_at, started_at, finished_at, cached_from FROM jobs
        WHERE provider = :provider AND model = :model AND status = 'succeeded'
          AND finished_at > statement_timestamp() - interval '1 hour'
        ORDER BY finished_at DESC LIMIT :sample
    ) AS newest WHERE cached_from IS NULL
), served AS MATERIALIZED (
    SELECT took_s FROM (
        SELECT CAST(extract(epoch FROM finished_at - started_at) AS float) AS took_s, cached_from FROM jobs
        WHERE provider = :provider AND model = :model AND status = 'succeeded'
          AND finished_at > statement_timestamp() - interval '1 hour'
        ORDER BY finished_at DESC LIMIT :sample
    ) AS newest WHERE cached_from IS NULL
), usable AS MATERIALIZED (
    SELECT id, max_active, max_per_minute, not_before FROM credentials
    WHERE provider = :provider AND account_id IS NULL AND paused_at IS NULL
), limits AS (
    SELECT count(*) AS credentials,
        CASE WHEN bool_and(max_active IS NOT NULL) THEN sum(max_active) END AS permits,
        CASE WHEN bool_and(max_per_minute IS NOT NULL) THEN sum(max_per_minute) END AS max_per_minute,
        CAST(min(greatest(0, extract(epoch FROM not_before - clock_timestamp()))) AS float) AS shut_for_s
    FROM usable
)
SELECT CAST(extract(epoch FROM clock_timestamp()) AS float) AS now_s,
    (SELECT array_agg(ARRAY[CAST(extract(epoch FROM created_at) AS float),
                            CAST(extract(epoch FROM started_at) AS float),
                            CAST(extract(epoch FROM finished_at) AS float)]) FROM lives) AS lives,
    (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took_s) FROM served) AS p50_s,
    (SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY took_s) FROM served) AS p90_s,
    l.credentials, l.permits, l.max_per_minute, coalesce(l.shut_for_s, 0) AS shut_for_s,
    (SELECT count(*) FROM (
        SELECT 1 FROM upstream_calls
        WHERE credential_id = ANY(ARRAY(SELECT id FROM usable))
          AND (outcome IS NULL OR outcome IN ('accepted', 'uncertain'))
        LIMIT coalesce(l.permits, 0)) AS taken) AS active,
    (SELECT CAST(extract(epoch FROM min(greatest(created_at, due_at))) AS float) FROM (
        SELECT created_at, due_at, attempt FROM jobs WHERE provider = :provider AND status = 'queued'
        ORDER BY id LIMIT 20) AS head
     WHERE attempt = 0 AND due_at <= clock_timestamp()) AS head_since_s,
    coalesce(p.paused_at IS NOT NULL, false) AS paused, coalesce(p.trips, 0) AS trips,
    CAST(greatest(0, extract(epoch FROM p.open_until - clock_timestamp())) AS float) AS open_for_s,
    (SELECT count(*) FROM workers
     WHERE heartbeat_at > statement_timestamp() - make_interval(secs => :dead_s)) AS workers
FROM limits AS l LEFT JOIN providers AS p ON p.name = :provider
""")


_SERVICE = text("""
SELECT m.model, t.p50_s FROM unnest(CAST(:providers AS text[]), CAST(:models AS text[])) AS m (provider, model)
CROSS JOIN LATERAL (
    SELECT count(*) AS sample, percentile_cont(0.5) WITHIN GROUP (ORDER BY took_s) AS p50_s FROM (
        SELECT CAST(extract(epoch FROM finished_at - started_at) AS float) AS took_s, cached_from FROM jobs
        WHERE provider = m.provider AND model = m.model AND status = 'succeeded'
          AND finished_at > statement_timestamp() - interval '1 hour'
        ORDER BY finished_at DESC LIMIT :sample) AS j WHERE cached_from IS NULL) AS t
WHERE t.sample >= :least
""")


@dataclass(frozen=True, slots=True)
class _Known:
    """What was measured when, and the jobs whose wait was estimated from it since."""

    asked_at: float
    measured: Measured | None
    asked_for: set[str] = field(default_factory=set)


class Estimates:
    """Measures a model at most once in five seconds, and estimates from the last measurement in between."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._known: dict[tuple[str, str], _Known] = {}
        self._lock = threading.Lock()

    def of(self, task: InQueue) -> Wait | None:
        """None: not queued, too far back to have a place, or the wait cannot be known.

        It cannot where the provider is paused or no worker lives, where a circuit opened again after its probe, and
        where too little was measured lately.
        """
        if task.status != "queued" or task.queue_position is None:
            return None
        known = self._measured(task.provider, task.model)
        if known.measured is None:
            return None
        with self._lock:
            known.asked_for.add(task.id)
            # Jobs asked for since the measurement that no longer wait have been started.
            started = max(0, len(known.asked_for) - 1 - task.queue_position)
        measured = known.measured
        return wait(
            replace(measured, active=measured.active + started, submits_lately=measured.submits_lately + started),
            task.queue_position,
        )

    def service_s(self, models: Sequence[Model]) -> Mapping[str, float]:
        """How many seconds half of the last hour's jobs took at most, by model id, where enough ended.

        Empty while the database is away: a recommendation does not need it.
        """
        asked = {"providers": [model.provider for model in models], "models": [model.id for model in models]}
        try:
            with self._database.autocommit() as connection:
                rows = connection.execute(_SERVICE, {**asked, "sample": SAMPLE, "least": SAMPLE_LEAST}).all()
        except DatabaseAwayError:
            return {}
        return {row.model: row.p50_s for row in rows}

    def _measured(self, provider: str, model: str) -> _Known:
        key, now = (provider, model), self._now()
        with self._lock:
            known = self._known.get(key)
            if known is not None and now - known.asked_at < FRESH_S:
                return known
            if len(self._known) >= KEPT_AT_MOST:
                self._known.clear()
            # Stored before asking: other requests use what is known while this one asks.
            known = _Known(now, known.measured if known else None)
            self._known[key] = known
        try:
            found = self._ask(provider, model)
        except DatabaseAwayError:
            return known
        with self._lock:
            self._known[key] = known = _Known(now, found)
        return known

    def _ask(self, provider: str, model: str) -> Measured | None:
        asked = {"provider": provider, "model": model, "sample": SAMPLE, "events": EVENTS, "dead_s": DEAD_AFTER_S}
        with self._database.autocommit() as connection:
            return _measured(connection.execute(_MEASURE, asked).one())


def _measured(row: Row[Any]) -> Measured | None:
    """None where the wait cannot be known."""
    lives = [Life(*life) for life in row.lives or ()]
    if row.paused or not row.credentials or not row.workers or row.trips > TRIPS_KNOWN or len(lives) < SAMPLE_LEAST:
        return None
    permits = None if row.permits is None else int(row.permits)
    took = sorted(life.finished_s - life.started_s for life in lives if life.finished_s is not None)
    if permits is not None and not took:
        return None
    gap_s, gap_p90_s, freed_s = calibrated(lives, permits, head_since_s=row.head_since_s, now_s=row.now_s)
    return Measured(
        p50_s=row.p50_s if row.p50_s is not None else share_of(took, 0.5) if took else 0.0,
        p90_s=row.p90_s if row.p90_s is not None else share_of(took, 0.9) if took else 0.0,
        permits=permits,
        active=int(row.active),
        max_per_minute=None if row.max_per_minute is None else int(row.max_per_minute),
        submits_lately=sum(1 for life in lives if life.started_s > row.now_s - MINUTE_S),
        gap_s=gap_s,
        gap_p90_s=gap_p90_s,
        freed_s=freed_s,
        shut_for_s=max(row.shut_for_s, row.open_for_s or 0.0),
        reopens_within_s=PUT_OFF_MAX_S if row.trips else 0.0,
    )
