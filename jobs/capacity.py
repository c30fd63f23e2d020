"""What an upstream will take: limits, pauses and health of credentials and providers, for the whole fleet.

All of it is rows of PostgreSQL, so that neither an emptied Redis nor a killed worker forgets a limit. A
seat is taken by one conditional statement (:data:`TAKE_SEATS`, part of ``calls.intend``) which finds no
row where a credential is full, over its submits per minute, told to come back later, or paused, or
where its provider is paused or its circuit open. Nobody waits there: the claim is put off instead.

Submits are counted by spans of two seconds and forgotten after 62 to 64 s: a minute, and two seconds
for the way from the intent to the upstream's own clock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, text

from jobs import circuit
from jobs.circuit import Circuit, News, State
from jobs.states import Outcome

log = structlog.get_logger(__name__)

SPAN_S = 2
SPANS = 32
# However long an upstream asks us to stay away: it may be wrong, and a picture waits.
STAY_AWAY_MAX_S = 600.0
# A probe taken is not taken again within this time, whatever an older snapshot says of its call.
PROBE_GAP_S = 10
_TOLD_TO_WAIT = frozenset({"upstream_rate_limited", "upstream_overloaded"})

_SPAN = f"CAST(floor(extract(epoch FROM clock_timestamp()) / {SPAN_S}) AS bigint)"
_USED = (
    "(SELECT coalesce(sum(CAST(value AS int)), 0) FROM jsonb_each_text(c.submits)"
    f" WHERE CAST(key AS bigint) > {_SPAN} - {SPANS})"
)
# Seats left at credential c; NULL where nothing limits them (least() passes over NULL).
_FREE = f"least(c.max_active - c.active, c.max_per_minute - {_USED})"
_WELCOME = "c.paused_at IS NULL AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())"


def _counted(seats: str) -> str:
    """The counts of credential c with so many submits more, without what is too old to matter."""
    return (
        "CASE WHEN c.max_per_minute IS NULL THEN '{}' ELSE (SELECT coalesce((SELECT"
        " jsonb_object_agg(key, CAST(value AS int)) FROM jsonb_each_text(c.submits)"
        f" WHERE CAST(key AS bigint) > span.now - {SPANS}), '{{}}') || jsonb_build_object(span.now,"
        f" coalesce(CAST(c.submits ->> CAST(span.now AS text) AS int), 0) + {seats})"
        # One look at the clock, which must not be merged into the places that use it.
        f" FROM (SELECT {_SPAN} AS now OFFSET 0) AS span) END"
    )


_PROBE_OUT = "EXISTS (SELECT 1 FROM upstream_calls AS u WHERE u.id = p.probe_call_id AND u.outcome IS NULL)"

# CTEs of ``calls.intend``: ``pick`` is the credential chosen and the seats taken there, or no row.
# The probe of a half-open circuit is one call. Who finds the circuit's row locked does not wait for it.
TAKE_SEATS = (
    "probe AS (SELECT p.name FROM providers AS p WHERE p.name = :provider AND p.paused_at IS NULL"
    f" AND p.open_until <= clock_timestamp() AND NOT {_PROBE_OUT} FOR UPDATE SKIP LOCKED),"
    " gate AS (SELECT CAST(NULL AS int) AS most WHERE NOT EXISTS (SELECT 1 FROM providers AS p"
    " WHERE p.name = :provider AND (p.paused_at IS NOT NULL OR p.open_until IS NOT NULL))"
    " UNION ALL SELECT 1 FROM probe),"
    f" pick AS (SELECT c.id, gate.most, gate.most IS NULL AND {_FREE} IS NULL AS endless,"
    f" least(:wanted, gate.most, {_FREE}) AS seats FROM credentials AS c, gate"
    f" WHERE c.id = ANY(:known) AND {_WELCOME} AND coalesce({_FREE}, 1) > 0"
    " ORDER BY c.active LIMIT 1 FOR UPDATE OF c),"
    f" taken AS (UPDATE credentials AS c SET active = c.active + pick.seats, submits = {_counted('pick.seats')}"
    " FROM pick WHERE c.id = pick.id),"
    " probed AS (UPDATE providers AS p SET probe_call_id = CAST(:intents AS jsonb) -> 0 ->> 'id',"
    f" open_until = clock_timestamp() + interval '{PROBE_GAP_S} s' FROM pick"
    " WHERE p.name = :provider AND pick.most = 1)"
)
# For the end of a call's record: whether its outcome is news to the circuit even when all went well.
IN_TROUBLE = (
    "EXISTS (SELECT 1 FROM providers AS p WHERE p.name = call.provider AND (p.failures > 0 OR p.trips > 0)) AS troubled"
)
STAY_AWAY = (
    "not_before = greatest(not_before, clock_timestamp()"
    " + make_interval(secs => CAST(:stay_away_s AS double precision)))"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one credential, for the whole fleet; None: no limit."""

    max_active: int | None = None
    max_per_minute: int | None = None

    @property
    def any(self) -> bool:
        return self.max_active is not None or self.max_per_minute is not None


def announce(connection: Connection, credential_id: str, provider: str, limits: Limits) -> None:
    """Make the rows of a credential that a worker can use, or bring its limits up to date."""
    connection.execute(
        text("INSERT INTO providers (name) VALUES (:provider) ON CONFLICT (name) DO NOTHING"), {"provider": provider}
    )
    connection.execute(
        text(
            "INSERT INTO credentials (id, provider, max_active, max_per_minute)"
            " VALUES (:id, :provider, :max_active, :max_per_minute) ON CONFLICT (id)"
            " DO UPDATE SET max_active = :max_active, max_per_minute = :max_per_minute"
        ),
        {
            "id": credential_id,
            "provider": provider,
            "max_active": limits.max_active,
            "max_per_minute": limits.max_per_minute,
        },
    )


def take_submit(connection: Connection, credential_id: str) -> bool:
    """Count one submit more for a call that has its seat already; False: not now."""
    done = connection.execute(
        text(
            f"UPDATE credentials AS c SET submits = {_counted('1')} WHERE c.id = :id AND {_WELCOME}"
            f" AND (c.max_per_minute IS NULL OR {_USED} < c.max_per_minute)"
        ),
        {"id": credential_id},
    )
    return done.rowcount == 1


def stay_away_s(outcome: Outcome, code: str | None, retry_after_s: float | None) -> float | None:
    """How long nobody shall submit with a credential, after an answer that asks for patience."""
    if outcome is not Outcome.NOT_RUN or code not in _TOLD_TO_WAIT or retry_after_s is None:
        return None
    return min(retry_after_s, STAY_AWAY_MAX_S)


# ---------------------------------------------------------------- putting claims off


@dataclass(frozen=True, slots=True)
class Outlook:
    """Why there is no seat, in seconds until there may be one; None: that is not the reason."""

    paused: bool = False
    open_for_s: float | None = None
    room_after_s: float | None = None

    @property
    def closed(self) -> bool:
        """Not merely full: paused by an operator, or its circuit is open."""
        return self.paused or self.open_for_s is not None


@dataclass(frozen=True, slots=True)
class PutOff:
    """Try again after ``least_s`` and up to ``spread_s`` more, by chance, so that not all come at once."""

    least_s: float
    spread_s: float


PUT_OFF_MAX_S = 30.0
_SEATS_COME_AND_GO = PutOff(1.0, 2.0)


def outlook(connection: Connection, provider: str, known: Collection[str]) -> Outlook:
    """Look at the rows after a claim has found no seat with the credentials ``known``."""
    row = connection.execute(
        text(
            "SELECT coalesce(p.paused_at IS NOT NULL, false) OR room.usable = 0 AS paused,"
            " CAST(extract(epoch FROM p.open_until - clock_timestamp()) AS float) AS open_for_s,"
            " CAST(room.after_s AS float) AS room_after_s"
            " FROM (SELECT count(*) AS usable, min(greatest("
            " extract(epoch FROM c.not_before - clock_timestamp()),"
            f" CASE WHEN {_USED} >= c.max_per_minute THEN ((SELECT min(CAST(key AS bigint)) FROM"
            f" jsonb_each_text(c.submits) WHERE CAST(key AS bigint) > {_SPAN} - {SPANS}) + {SPANS}) * {SPAN_S}"
            " - extract(epoch FROM clock_timestamp()) END,"
            " CASE WHEN c.active >= c.max_active THEN 0 END)) AS after_s"
            " FROM credentials AS c WHERE c.id = ANY(:known) AND c.paused_at IS NULL) AS room"
            " LEFT JOIN providers AS p ON p.name = :provider"
        ),
        {"provider": provider, "known": list(known)},
    ).one()
    return Outlook(row.paused, row.open_for_s, row.room_after_s)


def put_off(seen: Outlook) -> PutOff:
    """When to try again. At most half a minute: an operator may lift any of this at any time."""
    if seen.paused:
        return PutOff(5.0, PUT_OFF_MAX_S - 5.0)
    wait_s = max(seen.open_for_s or 0.0, seen.room_after_s or 0.0)
    if wait_s <= _SEATS_COME_AND_GO.least_s:
        return _SEATS_COME_AND_GO
    spread_s = min(10.0, max(2.0, wait_s / 2))
    return PutOff(min(wait_s, PUT_OFF_MAX_S - spread_s), spread_s)


# ---------------------------------------------------------------- the circuit


def note(
    connection: Connection,
    provider: str,
    *,
    call_id: str,
    job_id: str,
    outcome: Outcome,
    code: str | None,
    retryable: bool,
) -> None:
    """Let the first word on a call move its provider's circuit.

    Who finds the row locked leaves the counting to the others: no answer waits for a statistic.
    """
    away = circuit.says_away(outcome, code, retryable=retryable)
    if away is None:
        return
    if away:
        connection.execute(
            text("INSERT INTO providers (name) VALUES (:name) ON CONFLICT (name) DO NOTHING"), {"name": provider}
        )
    row = connection.execute(
        text(
            "SELECT failures, failing_job, trips, probe_call_id, CAST(coalesce(extract(epoch FROM"
            " clock_timestamp() - failing_since), 0) AS float) AS failing_for_s FROM providers"
            " WHERE name = :name FOR UPDATE SKIP LOCKED"
        ),
        {"name": provider},
    ).one_or_none()
    if row is None:
        return
    known = Circuit(row.failures, row.failing_for_s, row.failing_job, row.trips, row.probe_call_id)
    change = circuit.after(known, News(call_id, job_id, away))
    if change is not None:
        _write(connection, provider, change, job_id=job_id)


def _write(connection: Connection, provider: str, change: circuit.Change, *, job_id: str) -> None:
    match change:
        case circuit.Count(failures, anew):
            statement = (
                "UPDATE providers SET failures = :failures, failing_job = :job_id, failing_since ="
                " CASE WHEN :anew THEN clock_timestamp() ELSE failing_since END WHERE name = :name"
            )
            values = {"failures": failures, "anew": anew, "job_id": job_id}
        case circuit.Open(trips, for_s):
            log.warning("circuit_opened", provider=provider, trips=trips, for_s=for_s)
            statement = (
                "UPDATE providers SET trips = :trips, opened_at = coalesce(opened_at, clock_timestamp()),"
                " open_until = clock_timestamp() + make_interval(secs => :for_s), probe_call_id = NULL,"
                " failures = failures + 1 WHERE name = :name"
            )
            values = {"trips": trips, "for_s": for_s}
        case circuit.Close():
            log.info("circuit_closed", provider=provider)
            statement = (
                "UPDATE providers SET failures = 0, failing_since = NULL, failing_job = NULL, trips = 0,"
                " opened_at = NULL, open_until = NULL, probe_call_id = NULL WHERE name = :name"
            )
            values = {}
    connection.execute(text(statement), {"name": provider, **values})


# ---------------------------------------------------------------- for operators and callers


def pause(connection: Connection, provider: str) -> None:
    """Nobody submits to a provider from now on; what is in flight is followed to its end."""
    connection.execute(
        text(
            "INSERT INTO providers (name, paused_at) VALUES (:name, clock_timestamp()) ON CONFLICT (name)"
            " DO UPDATE SET paused_at = coalesce(providers.paused_at, clock_timestamp())"
        ),
        {"name": provider},
    )


def resume(connection: Connection, provider: str) -> None:
    """Submit again, within half a minute. Also closes the circuit: who resumes knows that it is back."""
    connection.execute(
        text(
            "UPDATE providers SET paused_at = NULL, failures = 0, failing_since = NULL, failing_job = NULL,"
            " trips = 0, opened_at = NULL, open_until = NULL, probe_call_id = NULL WHERE name = :name"
        ),
        {"name": provider},
    )


@dataclass(frozen=True, slots=True)
class ProviderState:
    """A provider as the fleet sees it; sums over its credentials."""

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
    submitted_last_minute: int | None  # None where no limit makes us count
    not_before: datetime | None


def overview(connection: Connection) -> list[ProviderState]:
    """Every provider that has ever been announced, paused or in trouble, by name."""
    rows = connection.execute(
        text(
            "SELECT name, p.paused_at, coalesce(p.failures, 0) AS failures, p.opened_at,"
            " CASE WHEN p.open_until > clock_timestamp() THEN p.open_until END AS next_probe_at,"
            f" CASE WHEN p.open_until IS NULL THEN 'closed' WHEN {_PROBE_OUT}"
            " OR p.open_until <= clock_timestamp() THEN 'half_open' ELSE 'open' END AS circuit,"
            " coalesce(c.credentials, 0) AS credentials, coalesce(c.active, 0) AS active, c.max_active,"
            " c.max_per_minute, c.submitted, c.not_before FROM providers AS p FULL JOIN"
            " (SELECT c.provider AS name, count(*) AS credentials, sum(c.active) AS active,"
            " CASE WHEN bool_and(c.max_active IS NOT NULL) THEN sum(c.max_active) END AS max_active,"
            " CASE WHEN bool_and(c.max_per_minute IS NOT NULL) THEN sum(c.max_per_minute) END AS max_per_minute,"
            f" CASE WHEN bool_and(c.max_per_minute IS NOT NULL) THEN sum({_USED}) END AS submitted,"
            " CASE WHEN bool_and(c.not_before > clock_timestamp()) THEN min(c.not_before) END AS not_before"
            " FROM credentials AS c GROUP BY c.provider) AS c USING (name) ORDER BY name"
        )
    )
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
        )
        for row in rows
    ]


def free_seats(connection: Connection) -> dict[str, int | None]:
    """Jobs worth publishing now, by provider: what it has room for less what is on its way already.

    None where nothing limits it; a provider that has no rows yet is not named. Zero: its claims would
    only be put off.
    """
    rows = connection.execute(
        text(
            "SELECT s.provider, CASE WHEN s.shut THEN 0 WHEN s.endless AND NOT s.half_open THEN NULL"
            " ELSE greatest(0, CASE WHEN s.half_open THEN least(1, s.free) ELSE s.free END"
            " - (SELECT count(*) FROM jobs AS j WHERE j.provider = s.provider AND j.status = 'queued'"
            " AND j.published_at IS NOT NULL)) END AS free FROM (SELECT c.provider,"
            f" bool_or({_WELCOME} AND {_FREE} IS NULL) AS endless,"
            f" coalesce(sum(CASE WHEN {_WELCOME} THEN greatest(0, coalesce({_FREE}, 1)) END), 0) AS free,"
            " coalesce(bool_or(p.open_until IS NOT NULL), false) AS half_open,"
            f" coalesce(bool_or(p.paused_at IS NOT NULL OR p.open_until > clock_timestamp() OR {_PROBE_OUT}), false)"
            " AS shut FROM credentials AS c LEFT JOIN providers AS p ON p.name = c.provider"
            " GROUP BY c.provider) AS s"
        )
    )
    return {row.provider: None if row.free is None else int(row.free) for row in rows}
