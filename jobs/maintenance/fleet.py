"""The state of the fleet for metrics, in one statement: queues, calls, permits, holds, callbacks, workers, checks.

Every part reads a partial index over live rows, so that a million finished jobs cost nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from prometheus_client.core import Metric
from sqlalchemy import text

from core.db import Database
from core.errors import DatabaseAwayError
from core.metrics.families import Reading
from jobs.dispatch.heartbeats import DEAD_AFTER_S
from jobs.reads.checks import AUDIT_RESULT, CATALOG_RESULT
from quota.prices import MICROCREDITS_PER_CREDIT

log = structlog.get_logger(__name__)

TIMEOUT_S = 4

ANSWERS = Reading("darkroom_fleet_query_success", "1 if the database answered the query of the fleet's gauges.")
JOBS = Reading("darkroom_jobs", "Live jobs by state: queued is the queue's depth.", ("provider", "state"))
OLDEST = Reading(
    "darkroom_job_oldest_age_seconds", "Age of the oldest live job in a state, since its order.", ("provider", "state")
)
OPEN_CALLS = Reading(
    "darkroom_upstream_calls_open", "Calls in flight: unanswered, accepted, uncertain.", ("provider", "outcome")
)
POLL_LAG = Reading(
    "darkroom_poll_lag_seconds", "How long the look at a waiting job is overdue, at the most.", ("provider",)
)
PERMITS_TAKEN = Reading(
    "darkroom_permits_taken", "Permits taken by open calls, of limited credentials.", ("credential",)
)
PERMITS_MOST = Reading("darkroom_permits_max", "Most open calls of a credential.", ("credential",))
HOLDS = Reading("darkroom_holds_open", "Jobs whose credits are held.")
HELD = Reading("darkroom_held_credits", "Credits held for jobs that have started.")
HOLD_OLDEST = Reading("darkroom_hold_oldest_age_seconds", "Age of the oldest hold, since its job's first start.")
WEBHOOKS = Reading("darkroom_webhooks_pending", "Callbacks that are to be sent, also later.")
WEBHOOK_LAG = Reading("darkroom_webhook_lag_seconds", "How long the most overdue callback is overdue.")
ENDPOINTS_OFF = Reading("darkroom_webhook_endpoints_disabled", "Endpoints that were disabled.")
WORKERS = Reading("darkroom_workers", "Workers by state: alive, or silent for more than 10 s.", ("state",))
PAUSED = Reading("darkroom_provider_paused", "1 while an operator has paused the provider.", ("provider",))
CREDENTIAL_PAUSED = Reading(
    "darkroom_credential_paused", "1 while an operator has paused the credential.", ("credential",)
)
CIRCUIT = Reading("darkroom_provider_circuit_open", "1 while the provider's circuit is open.", ("provider",))
BLOBS_LEFT = Reading("darkroom_blobs_to_delete", "Blobs that are still to be deleted, counted up to 10,000.")
AUDIT_FINDINGS = Reading(
    "darkroom_audit_findings", "Broken invariants that the last audit found: drift.", ("invariant",)
)
AUDIT_AGE = Reading("darkroom_audit_age_seconds", "Time since the last audit.")
ABUSE_OPEN = Reading(
    "darkroom_abuse_events_open",
    "Rules on abuse that tripped and that no one has acknowledged, but for those that only log; of the newest 10,000.",
    ("rule",),
)
CATALOG_DIFFERENCES = Reading(
    "darkroom_catalog_differences",
    "Models of the catalogue that differ from the upstream's list, by the last comparison.",
    ("provider", "kind"),
)
CATALOG_NEW = Reading("darkroom_catalog_new_models", "Models of an upstream that are not offered here.", ("provider",))
CATALOG_AGE = Reading("darkroom_catalog_check_age_seconds", "Time since the last comparison of the catalogue.")

# A row: the name of the family, two labels, the value, and a document where there is one. The ids of jobs are in the
# order of their creation, so that the oldest is the least id of an index.
FLEET = text("""
WITH live AS (
    SELECT provider, 'queued' AS state, count(*) AS jobs, min(id) AS first FROM jobs
    WHERE status = 'queued' GROUP BY provider
    UNION ALL
    SELECT provider, 'running', count(*), min(id) FROM jobs WHERE status = 'running' GROUP BY provider
    UNION ALL
    SELECT provider, 'waiting', count(*), min(id) FROM jobs WHERE status = 'waiting' GROUP BY provider
),
held AS (
    SELECT count(*) AS jobs, coalesce(sum(quoted), 0) AS credits, min(started_at) AS first FROM jobs
    WHERE money = 'held'
)
SELECT 'jobs' AS name, provider AS a, state AS b, CAST(jobs AS float) AS value, CAST(NULL AS text) AS document FROM live
UNION ALL
-- A subquery, which is a look by the primary key; a join may read the whole table.
SELECT 'oldest', live.provider, live.state,
    extract(epoch FROM statement_timestamp() - (SELECT j.created_at FROM jobs AS j WHERE j.id = live.first)), NULL
FROM live
UNION ALL
SELECT 'poll_lag', provider, NULL, greatest(0, extract(epoch FROM statement_timestamp() - min(due_at))), NULL
FROM jobs WHERE status = 'waiting' GROUP BY provider
UNION ALL
SELECT 'open_calls', provider, coalesce(outcome, 'unanswered'), count(*), NULL FROM upstream_calls
WHERE outcome IS NULL OR outcome IN ('accepted', 'uncertain') GROUP BY 2, 3
UNION ALL
SELECT 'permits_taken', c.id, NULL, (
    SELECT count(*) FROM permits AS p WHERE p.credential_id = c.id AND p.call_id IS NOT NULL
), NULL FROM credentials AS c WHERE c.max_active IS NOT NULL AND c.account_id IS NULL
UNION ALL
SELECT 'permits_max', id, NULL, max_active, NULL FROM credentials WHERE max_active IS NOT NULL AND account_id IS NULL
UNION ALL
SELECT 'credential_paused', id, NULL, CASE WHEN paused_at IS NULL THEN 0 ELSE 1 END, NULL FROM credentials
WHERE account_id IS NULL
UNION ALL
SELECT 'paused', name, NULL, CASE WHEN paused_at IS NULL THEN 0 ELSE 1 END, NULL FROM providers
UNION ALL
SELECT 'circuit', name, NULL, CASE WHEN open_until IS NULL THEN 0 ELSE 1 END, NULL FROM providers
UNION ALL
SELECT 'holds', NULL, NULL, jobs, NULL FROM held
UNION ALL
SELECT 'held', NULL, NULL, credits, NULL FROM held
UNION ALL
SELECT 'hold_oldest', NULL, NULL, coalesce(extract(epoch FROM statement_timestamp() - first), 0), NULL FROM held
UNION ALL
SELECT 'webhooks', NULL, NULL, count(*), NULL FROM webhook_messages WHERE state = 'pending'
UNION ALL
SELECT 'webhook_lag', NULL, NULL,
    coalesce(greatest(0, extract(epoch FROM statement_timestamp() - min(due_at))), 0), NULL
FROM webhook_messages WHERE state = 'pending'
UNION ALL
SELECT 'endpoints_off', NULL, NULL, count(*), NULL FROM webhook_endpoints WHERE disabled_at IS NOT NULL
UNION ALL
SELECT 'workers', state.name, NULL, count(w.boot_id), NULL
FROM (VALUES ('alive'), ('silent')) AS state(name) LEFT JOIN workers AS w
    ON (w.heartbeat_at > statement_timestamp() - make_interval(secs => :dead_s)) = (state.name = 'alive')
GROUP BY state.name
UNION ALL
SELECT 'blobs_left', NULL, NULL, count(*), NULL FROM (SELECT 1 FROM doomed_blobs LIMIT 10000) AS left_over
UNION ALL
SELECT 'abuse_open', rule, NULL, count(*), NULL FROM (
    SELECT rule, action FROM abuse_events WHERE acknowledged_at IS NULL ORDER BY id DESC LIMIT 10000
) AS open_events WHERE action <> 'log' GROUP BY rule
UNION ALL
SELECT 'check', name, NULL, extract(epoch FROM statement_timestamp() - at), value FROM marks
WHERE name IN (:audit, :catalog)
""")

_BY_NAME = {
    "jobs": JOBS,
    "oldest": OLDEST,
    "poll_lag": POLL_LAG,
    "open_calls": OPEN_CALLS,
    "permits_taken": PERMITS_TAKEN,
    "permits_max": PERMITS_MOST,
    "credential_paused": CREDENTIAL_PAUSED,
    "paused": PAUSED,
    "circuit": CIRCUIT,
    "holds": HOLDS,
    "held": HELD,
    "hold_oldest": HOLD_OLDEST,
    "webhooks": WEBHOOKS,
    "webhook_lag": WEBHOOK_LAG,
    "endpoints_off": ENDPOINTS_OFF,
    "workers": WORKERS,
    "blobs_left": BLOBS_LEFT,
    "abuse_open": ABUSE_OPEN,
}


class Fleet:
    """Reads the fleet's gauges from a database, which nothing else should keep busy."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def metrics(self) -> list[Metric]:
        """The gauges as of now; while the database is away, only that it is. Never raises."""
        try:
            rows = self._rows()
        except DatabaseAwayError:
            return self.away()
        except Exception:
            log.exception("fleet_not_read")
            return self.away()
        return [ANSWERS.metric(((), 1.0)), *_metrics(rows)]

    def away(self) -> list[Metric]:
        """What is told while the database does not answer."""
        return [ANSWERS.metric(((), 0.0))]

    def _rows(self) -> Sequence[Any]:
        with self._database.transaction() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'"))
            asked = {"dead_s": DEAD_AFTER_S, "audit": AUDIT_RESULT, "catalog": CATALOG_RESULT}
            return connection.execute(FLEET, asked).all()


def _metrics(rows: Sequence[Any]) -> Iterable[Metric]:
    samples: dict[str, list[tuple[list[str], float]]] = defaultdict(list)
    for row in rows:
        if row.name == "check":
            yield from (_audit if row.a == AUDIT_RESULT else _catalog)(json.loads(row.document), float(row.value))
            continue
        worth = MICROCREDITS_PER_CREDIT if row.name == "held" else 1
        samples[row.name].append(([each for each in (row.a, row.b) if each is not None], float(row.value) / worth))
    for name, found in samples.items():
        yield _BY_NAME[name].metric(*found)


def _audit(document: dict[str, Any], age_s: float) -> Iterable[Metric]:
    yield AUDIT_FINDINGS.metric(*(([name], float(count)) for name, count in document["findings"].items()))
    yield AUDIT_AGE.metric(((), age_s))


def _catalog(document: dict[str, Any], age_s: float) -> Iterable[Metric]:
    providers: dict[str, Any] = document["providers"]
    yield CATALOG_DIFFERENCES.metric(
        *(
            ([provider, kind], float(count))
            for provider, drift in providers.items()
            for kind, count in drift["differences"].items()
        )
    )
    yield CATALOG_NEW.metric(*(([provider], float(drift["new"])) for provider, drift in providers.items()))
    yield CATALOG_AGE.metric(((), age_s))
