"""The health of providers, one row each in ``providers``: paused by an operator, or an open circuit.

``jobs/dispatch/circuit.py`` decides what an outcome changes; this module reads and writes the row.
``jobs/dispatch/permits.py`` reads the same row to decide whether a call may be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, text

from jobs.dispatch import circuit
from jobs.dispatch.circuit import Circuit, Observation, State
from jobs.errors import CredentialNotFoundError
from jobs.states import Outcome

log = structlog.get_logger(__name__)


NOTE_TRIES = 3

_CIRCUIT = text("""
SELECT failures, failing_jobs, trips, probe_call_id,
       CAST(coalesce(extract(epoch FROM clock_timestamp() - failing_since), 0) AS double precision) AS failing_for_s,
       CAST(round(extract(epoch FROM clock_timestamp() - opened_at), 1) AS double precision) AS open_for_s
FROM providers
WHERE name = :name
""")


def note(
    connection: Connection,
    provider: str,
    *,
    call_id: str,
    job_id: str,
    outcome: Outcome,
    code: str | None,
    retryable: bool,
    probes_only: bool = False,
) -> None:
    """Update the provider's circuit from the first outcome of a call.

    ``probes_only``: the call counts only while the circuit is open, as the probe. Those with accounts' own keys do, for
    what goes wrong with them may be the account's own trouble.

    The row is written only if it is unchanged since it was read and not locked. After ``NOTE_TRIES`` the outcome is
    not counted, so that no answer waits for a statistic.
    """
    away = circuit.says_away(outcome, code, retryable=retryable)
    if away is None:
        return
    if away:
        connection.execute(
            text("INSERT INTO providers (name) VALUES (:name) ON CONFLICT (name) DO NOTHING"), {"name": provider}
        )
    for _ in range(NOTE_TRIES):
        row = connection.execute(_CIRCUIT, {"name": provider}).one_or_none()
        if row is None or (probes_only and not row.trips):
            return
        known = Circuit(row.failures, row.failing_for_s, tuple(row.failing_jobs), row.trips, row.probe_call_id)
        change = circuit.after(known, Observation(call_id, job_id, away))
        if change is None or _write(connection, provider, known, change, lasted_s=row.open_for_s):
            return


# Updates the row only if it is unchanged since it was read and not locked.
_COUNT = text("""
UPDATE providers AS p
SET failures = :failures, failing_jobs = CAST(:jobs AS text[]),
    failing_since = CASE WHEN CAST(:first_of_window AS boolean) THEN clock_timestamp() ELSE p.failing_since END
FROM (
    SELECT name FROM providers
    WHERE name = :name AND failures = :seen_failures AND trips = :seen_trips
      AND failing_jobs = CAST(:seen_jobs AS text[])
    FOR UPDATE SKIP LOCKED
) AS seen
WHERE p.name = seen.name
""")

_OPEN = text("""
UPDATE providers AS p
SET trips = :trips, opened_at = coalesce(p.opened_at, clock_timestamp()), probe_call_id = NULL,
    open_until = clock_timestamp() + make_interval(secs => CAST(:for_s AS double precision)),
    failures = p.failures + 1, failing_jobs = CAST(:jobs AS text[])
FROM (
    SELECT name FROM providers
    WHERE name = :name AND failures = :seen_failures AND trips = :seen_trips
      AND failing_jobs = CAST(:seen_jobs AS text[])
    FOR UPDATE SKIP LOCKED
) AS seen
WHERE p.name = seen.name
""")

# The jobs that failed stay remembered, so that their next failures are not counted either.
_CLOSE = text("""
UPDATE providers AS p
SET failures = 0, failing_since = NULL, trips = 0, opened_at = NULL, open_until = NULL, probe_call_id = NULL
FROM (
    SELECT name FROM providers
    WHERE name = :name AND failures = :seen_failures AND trips = :seen_trips
      AND failing_jobs = CAST(:seen_jobs AS text[])
    FOR UPDATE SKIP LOCKED
) AS seen
WHERE p.name = seen.name
""")


def _write(
    connection: Connection, provider: str, known: Circuit, change: circuit.Change, *, lasted_s: float | None
) -> bool:
    seen = {
        "name": provider,
        "seen_failures": known.failures,
        "seen_trips": known.trips,
        "seen_jobs": list(known.failing_jobs),
    }
    match change:
        case circuit.Count(failures, jobs, first_of_window):
            done = connection.execute(
                _COUNT, {**seen, "failures": failures, "jobs": list(jobs), "first_of_window": first_of_window}
            )
        case circuit.Open(trips, for_s, jobs):
            done = connection.execute(_OPEN, {**seen, "trips": trips, "for_s": for_s, "jobs": list(jobs)})
            if done.rowcount:
                # A probe that failed changes nothing for callers: the outage goes on.
                (log.warning if trips == 1 else log.debug)(
                    "circuit_opened" if trips == 1 else "circuit_stays_open",
                    provider=provider,
                    trips=trips,
                    for_s=for_s,
                )
        case circuit.Close():
            done = connection.execute(_CLOSE, seen)
            if done.rowcount and known.trips:
                log.warning("circuit_closed", provider=provider, lasted_s=lasted_s)
    return bool(done.rowcount)


# ---------------------------------------------------------------- for operators and callers


_PAUSE_PROVIDER = text("""
INSERT INTO providers (name, paused_at, pause_reason) VALUES (:target, clock_timestamp(), :reason)
ON CONFLICT (name) DO UPDATE
SET paused_at = coalesce(providers.paused_at, clock_timestamp()),
    pause_reason = coalesce(excluded.pause_reason, providers.pause_reason)
""")

_PAUSE_CREDENTIAL = text("""
UPDATE credentials
SET paused_at = coalesce(paused_at, clock_timestamp()), pause_reason = coalesce(:reason, pause_reason)
WHERE id = :target
""")


def pause(connection: Connection, target: str, reason: str = "") -> None:
    """Stop submitting to a provider (``openai``) or with one of its credentials (``openai/2``).

    Open calls are followed to their end. Pausing again keeps the time of the first pause, and replaces the reason if
    there is a new one. Raises CredentialNotFoundError.
    """
    values = {"target": target, "reason": reason or None}
    if _is_credential(target):
        _expect_credential(connection, target, connection.execute(_PAUSE_CREDENTIAL, values).rowcount)
    else:
        connection.execute(_PAUSE_PROVIDER, values)


_RESUME_PROVIDER = text("""
UPDATE providers
SET paused_at = NULL, pause_reason = NULL, failures = 0, failing_since = NULL, failing_jobs = '{}', trips = 0,
    opened_at = NULL, open_until = NULL, probe_call_id = NULL
WHERE name = :target
""")

_RESUME_CREDENTIAL = text("UPDATE credentials SET paused_at = NULL, pause_reason = NULL WHERE id = :target")


def resume(connection: Connection, target: str) -> None:
    """Lift exactly the pause of this provider or credential; it is used again within half a minute.

    A provider's circuit is closed, too. Raises CredentialNotFoundError.
    """
    values = {"target": target}
    if _is_credential(target):
        _expect_credential(connection, target, connection.execute(_RESUME_CREDENTIAL, values).rowcount)
    else:
        connection.execute(_RESUME_PROVIDER, values)


def _is_credential(target: str) -> bool:
    return "/" in target


def _expect_credential(connection: Connection, target: str, found: int) -> None:
    if found:
        return
    provider = target.partition("/")[0]
    ids = text("SELECT id FROM credentials WHERE provider = :provider AND account_id IS NULL ORDER BY id")
    known = connection.execute(ids, {"provider": provider}).scalars().all()
    words = f"{provider} has {', '.join(known)}" if known else f"{provider} has none"
    raise CredentialNotFoundError(f"no worker has announced a credential {target!r}; {words}")


@dataclass(frozen=True, slots=True)
class CredentialState:
    """One credential of a provider: ``id`` is ``provider/label``. ``paused_at`` None: it is used."""

    id: str
    paused_at: datetime | None
    pause_reason: str | None


@dataclass(frozen=True, slots=True)
class ProviderState:
    """The state of a provider for the whole fleet; numbers are sums over its credentials."""

    name: str
    paused_at: datetime | None
    circuit: State
    failures: int
    opened_at: datetime | None
    next_probe_at: datetime | None
    credentials: int
    active: int
    max_active: int | None
    max_per_minute: int | None
    submitted_last_minute: int | None  # None without a limit, as nothing is counted then
    not_before: datetime | None
    pause_reason: str | None = None
    accounts: Sequence[CredentialState] = ()  # its credentials


_OVERVIEW = text("""
WITH c AS (
    SELECT c.provider AS name,
           count(*) AS credentials,
           sum((
               SELECT count(*) FROM upstream_calls AS u
               WHERE u.credential_id = c.id AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain'))
           )) AS active,
           CASE WHEN bool_and(c.max_active IS NOT NULL) THEN sum(c.max_active) END AS max_active,
           CASE WHEN bool_and(c.max_per_minute IS NOT NULL) THEN sum(c.max_per_minute) END AS max_per_minute,
           CASE WHEN bool_and(c.max_per_minute IS NOT NULL) THEN sum((
               SELECT count(*) FROM submit_tokens AS t
               WHERE t.credential_id = c.id AND t.free_at > statement_timestamp()
           )) END AS submitted,
           CASE WHEN bool_and(c.not_before > clock_timestamp()) THEN min(c.not_before) END AS not_before,
           array_agg(c.id ORDER BY c.id) AS ids,
           array_agg(c.paused_at ORDER BY c.id) AS pauses,
           array_agg(c.pause_reason ORDER BY c.id) AS reasons
    FROM credentials AS c
    WHERE c.account_id IS NULL
    GROUP BY c.provider
)
SELECT name,
       p.paused_at,
       p.pause_reason,
       coalesce(p.failures, 0) AS failures,
       p.opened_at,
       CASE WHEN p.open_until > clock_timestamp() THEN p.open_until END AS next_probe_at,
       CASE
           WHEN p.open_until IS NULL THEN 'closed'
           WHEN p.open_until <= clock_timestamp() THEN 'half_open'
           WHEN EXISTS (SELECT 1 FROM upstream_calls AS u WHERE u.id = p.probe_call_id AND u.outcome IS NULL)
               THEN 'half_open'
           ELSE 'open'
       END AS circuit,
       coalesce(c.credentials, 0) AS credentials,
       coalesce(c.active, 0) AS active,
       c.max_active,
       c.max_per_minute,
       c.submitted,
       c.not_before,
       coalesce(c.ids, '{}') AS ids,
       c.pauses,
       c.reasons
FROM providers AS p
FULL JOIN c USING (name)
ORDER BY name
""")


def overview(connection: Connection) -> list[ProviderState]:
    """Return every provider with a row (announced by a worker, paused, or failed before), sorted by name."""
    rows = connection.execute(_OVERVIEW)
    return [
        ProviderState(
            name=row.name,
            paused_at=row.paused_at,
            circuit=State(row.circuit),
            failures=row.failures,
            opened_at=row.opened_at,
            next_probe_at=row.next_probe_at,
            credentials=row.credentials,
            active=int(row.active),
            max_active=None if row.max_active is None else int(row.max_active),
            max_per_minute=None if row.max_per_minute is None else int(row.max_per_minute),
            submitted_last_minute=None if row.submitted is None else int(row.submitted),
            not_before=row.not_before,
            pause_reason=row.pause_reason,
            accounts=[
                CredentialState(*each) for each in zip(row.ids, row.pauses or (), row.reasons or (), strict=True)
            ],
        )
        for row in rows
    ]


_HALF_OPEN = text("""
SELECT p.name
FROM providers AS p
WHERE p.paused_at IS NULL
  AND p.open_until <= clock_timestamp()
  AND NOT EXISTS (SELECT 1 FROM upstream_calls AS u WHERE u.id = p.probe_call_id AND u.outcome IS NULL)
ORDER BY p.name
""")


def half_open(connection: Connection) -> list[str]:
    """Return the providers whose circuit waits for a probe call."""
    return [row.name for row in connection.execute(_HALF_OPEN)]
