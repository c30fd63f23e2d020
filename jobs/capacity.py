"""What an upstream will take: limits, pauses and health of credentials and providers, for the whole fleet.

All of it is rows of PostgreSQL, so that neither an emptied Redis nor a killed worker forgets a limit.

A credential with ``max_active`` has one row in ``permits`` for each call that may be open there. A call takes a
free one before it is made and gives it back when its outcome is known. A credential with ``max_per_minute`` has
one row in ``submit_tokens`` for each submit a minute; a submit makes one unusable for 62 s: a minute, and two
seconds for the way from here to the upstream's own clock. Rows that another call is about to take are skipped, so
no one waits for anyone, and a credential without limits is only read.

No one waits for a permit either: a claim that finds none is put off, and only its ``due_at`` moves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, text

from jobs import circuit
from jobs.circuit import Circuit, News, State
from jobs.states import Outcome

log = structlog.get_logger(__name__)

# A minute, and the way of a submit to the upstream's own clock. Also in the statements below.
TOKEN_S = 62
# However long an upstream asks us to stay away: it may be wrong, and an image waits.
STAY_AWAY_MAX_S = 600.0
# A probe taken is not taken again within this time, whatever an older snapshot says of its call. Also below.
PROBE_GAP_S = 10
_TOLD_TO_WAIT = frozenset({"upstream_rate_limited", "upstream_overloaded"})

# One statement: permits, tokens and the probe of a half-open circuit, for up to :wanted calls at one credential.
# :call_ids (text[]) are the ids of these calls; the first ones have got a permit. :attempt is the job's own.
# One row (credential_id, taken, limited), or none.
TAKE = """
WITH probe AS (
    -- The one call that a half-open circuit lets through. A job that was tried more often than another that
    -- waits is not sent: it may fail by itself. Who finds the circuit's row locked does not wait for it.
    SELECT p.name
    FROM providers AS p
    WHERE p.name = :provider
      AND p.paused_at IS NULL
      AND p.open_until <= clock_timestamp()
      AND NOT EXISTS (SELECT 1 FROM upstream_calls AS u WHERE u.id = p.probe_call_id AND u.outcome IS NULL)
      AND NOT EXISTS (
          SELECT 1
          FROM (
              SELECT j.attempt FROM jobs AS j WHERE j.provider = p.name AND j.status = 'queued'
              ORDER BY j.id DESC LIMIT 1000
          ) AS newest
          WHERE newest.attempt < CAST(:attempt AS int)
      )
    FOR UPDATE OF p SKIP LOCKED
),
gate AS (
    -- How many calls may go: all, one as a probe, or no row while the provider is paused or its circuit open.
    SELECT CAST(:wanted AS int) AS most, false AS probing
    WHERE NOT EXISTS (
        SELECT 1 FROM providers AS p
        WHERE p.name = :provider AND (p.paused_at IS NOT NULL OR p.open_until IS NOT NULL)
    )
    UNION ALL
    SELECT 1, true FROM probe
),
pick AS (
    -- The credential with the most room, counted up to ten, the most calls of a job, and only where there is a choice.
    SELECT c.id, c.max_active, c.max_per_minute, gate.most, gate.probing
    FROM gate
    CROSS JOIN credentials AS c
    WHERE c.id = ANY(CAST(:known AS text[]))
      AND c.paused_at IS NULL
      AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
    ORDER BY
        CASE WHEN cardinality(CAST(:known AS text[])) > 1 THEN least(
            CASE WHEN c.max_active IS NOT NULL THEN (
                SELECT count(*) FROM (
                    SELECT 1 FROM permits AS p
                    WHERE p.credential_id = c.id AND p.call_id IS NULL AND p.number <= c.max_active
                    ORDER BY p.call_id, p.number LIMIT 10
                ) AS free
            ) END,
            CASE WHEN c.max_per_minute IS NOT NULL THEN (
                SELECT count(*) FROM (
                    SELECT 1 FROM submit_tokens AS t
                    WHERE t.credential_id = c.id AND t.free_at <= statement_timestamp()
                    ORDER BY t.free_at LIMIT 10
                ) AS free
            ) END
        ) END DESC NULLS FIRST,
        random()
    LIMIT 1
),
bound AS (
    -- Up to which number permits may be taken. While calls are open that a lowered limit leaves no permit for,
    -- only so many of the free ones as keep all of them within the limit.
    SELECT CASE
        WHEN (SELECT max(p.number) FROM permits AS p WHERE p.credential_id = pick.id) <= pick.max_active
            THEN pick.max_active
        ELSE (
            SELECT coalesce(max(free.number), 0) FROM (
                SELECT p.number FROM permits AS p
                WHERE p.credential_id = pick.id AND p.call_id IS NULL AND p.number <= pick.max_active
                ORDER BY p.call_id, p.number
                LIMIT greatest(0, pick.max_active - (
                    SELECT count(*) FROM permits AS t WHERE t.credential_id = pick.id AND t.call_id IS NOT NULL
                ))
            ) AS free
        )
    END AS number
    FROM pick
    WHERE pick.max_active IS NOT NULL
),
permit AS (
    -- In the order of permits_free, which has the free ones only; the primary key passes over every one taken.
    SELECT p.number
    FROM permits AS p
    WHERE p.credential_id = (SELECT pick.id FROM pick)
      AND p.call_id IS NULL
      AND p.number <= (SELECT bound.number FROM bound)
    ORDER BY p.call_id, p.number
    LIMIT (SELECT pick.most FROM pick)
    FOR UPDATE SKIP LOCKED
),
token AS (
    SELECT t.number
    FROM submit_tokens AS t
    WHERE t.credential_id = (SELECT pick.id FROM pick WHERE pick.max_per_minute IS NOT NULL)
      AND t.free_at <= statement_timestamp()
    ORDER BY t.free_at
    LIMIT (
        SELECT CASE WHEN pick.max_active IS NULL THEN pick.most ELSE (SELECT count(*) FROM permit) END FROM pick
    )
    FOR UPDATE SKIP LOCKED
),
took AS (
    -- As many calls as have both a permit and a token, where these are needed; least() passes over NULL.
    SELECT pick.id AS credential_id,
           pick.max_active IS NOT NULL OR pick.max_per_minute IS NOT NULL AS limited,
           pick.probing,
           found.permits,
           found.tokens,
           least(
               pick.most,
               CASE WHEN pick.max_active IS NOT NULL THEN cardinality(found.permits) END,
               CASE WHEN pick.max_per_minute IS NOT NULL THEN cardinality(found.tokens) END
           ) AS taken
    FROM pick
    CROSS JOIN (
        SELECT ARRAY(SELECT permit.number FROM permit) AS permits, ARRAY(SELECT token.number FROM token) AS tokens
    ) AS found
),
permits_taken AS (
    UPDATE permits AS p
    SET call_id = (CAST(:call_ids AS text[]))[array_position(took.permits, p.number)], taken_at = clock_timestamp()
    FROM took
    WHERE p.credential_id = took.credential_id AND p.number = ANY(took.permits[1:took.taken])
),
tokens_taken AS (
    UPDATE submit_tokens AS t
    SET free_at = clock_timestamp() + interval '62 s'
    FROM took
    WHERE t.credential_id = took.credential_id AND t.number = ANY(took.tokens[1:took.taken])
),
probed AS (
    UPDATE providers AS p
    SET probe_call_id = (CAST(:call_ids AS text[]))[1], open_until = clock_timestamp() + interval '10 s'
    FROM took
    WHERE p.name = :provider AND took.probing AND took.taken > 0
)
SELECT took.credential_id, took.taken, took.limited FROM took WHERE took.taken > 0
"""
_TAKE = text(TAKE)

# A call without a permit has no row here, and nothing is written.
RELEASE = """
UPDATE permits SET call_id = NULL, taken_at = NULL
WHERE call_id IS NOT NULL AND call_id = ANY(CAST(:call_ids AS text[]))
"""
_RELEASE = text(RELEASE)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim has got: the first ``calls`` of its calls may go to one credential.

    ``limited``: the credential has a limit, so accounts take turns there (``jobs/refill.py``).
    """

    credential_id: str
    calls: int
    limited: bool


def take(
    connection: Connection, provider: str, *, known: Collection[str], call_ids: Sequence[str], attempt: int
) -> Taken | None:
    """Take permits and tokens for as many of the calls as a credential has room for, at least one; None: not now.

    ``known`` are the credentials this worker can use, ``attempt`` is the job's, before these calls. A free row can
    be missed while others take and give back, so it is tried twice.
    """
    values = {
        "provider": provider,
        "known": list(known),
        "wanted": len(call_ids),
        "call_ids": list(call_ids),
        "attempt": attempt,
    }
    row = connection.execute(_TAKE, values).one_or_none() or connection.execute(_TAKE, values).one_or_none()
    return Taken(row.credential_id, int(row.taken), row.limited) if row else None


def release(connection: Connection, call_ids: Sequence[str]) -> None:
    """Give back the permits of calls that are over."""
    connection.execute(_RELEASE, {"call_ids": list(call_ids)})


_TAKE_SUBMIT = text("""
WITH open AS (
    SELECT c.id, c.max_per_minute
    FROM credentials AS c
    WHERE c.id = :credential_id
      AND c.paused_at IS NULL
      AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
      AND NOT EXISTS (
          SELECT 1 FROM providers AS p
          WHERE p.name = c.provider AND (p.paused_at IS NOT NULL OR p.open_until > clock_timestamp())
      )
),
token AS (
    SELECT t.credential_id, t.number
    FROM submit_tokens AS t
    WHERE t.credential_id = (SELECT open.id FROM open WHERE open.max_per_minute IS NOT NULL)
      AND t.free_at <= statement_timestamp()
    ORDER BY t.free_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE submit_tokens AS t
    SET free_at = clock_timestamp() + interval '62 s'
    FROM token
    WHERE t.credential_id = token.credential_id AND t.number = token.number
    RETURNING t.number
)
SELECT 1 FROM open WHERE open.max_per_minute IS NULL OR EXISTS (SELECT 1 FROM taken)
""")


def take_submit(connection: Connection, credential_id: str) -> bool:
    """A token for sending a call again that has its permit already.

    False: not now, because the minute is used up, the credential or its provider is paused, the upstream asked to
    wait, or its circuit is open.
    """
    values = {"credential_id": credential_id}
    return any(connection.execute(_TAKE_SUBMIT, values).one_or_none() for _ in range(2))


_STAY_AWAY = text("""
UPDATE credentials
SET not_before = greatest(not_before, clock_timestamp() + make_interval(secs => CAST(:stay_away_s AS double precision)))
WHERE id = :credential_id
""")


def stay_away(connection: Connection, credential_id: str, seconds: float) -> None:
    """No one submits with a credential for so long: its upstream has asked for it (:func:`stay_away_s`)."""
    connection.execute(_STAY_AWAY, {"credential_id": credential_id, "stay_away_s": seconds})


# ---------------------------------------------------------------- limits and the rows they need


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one credential, for the whole fleet; None: no limit."""

    max_active: int | None = None
    max_per_minute: int | None = None

    @property
    def any(self) -> bool:
        return self.max_active is not None or self.max_per_minute is not None


# One at a time for a credential, whoever asks: makes and removes rows.
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('permits of ' || CAST(:id AS text), 0))")

_SET_LIMITS = text("""
UPDATE credentials
SET max_active = CAST(:max_active AS int), max_per_minute = CAST(:max_per_minute AS int)
WHERE id = :id
  AND (max_active, max_per_minute) IS DISTINCT FROM (CAST(:max_active AS int), CAST(:max_per_minute AS int))
""")


def announce(connection: Connection, credential_id: str, provider: str, limits: Limits) -> None:
    """Make the rows of a credential that a worker can use, or bring its limits up to date.

    Within a transaction. Calls that are open keep or get a permit, also those that a lowered limit has no room for.
    """
    connection.execute(_ONE_AT_A_TIME, {"id": credential_id})
    connection.execute(
        text("INSERT INTO providers (name) VALUES (:provider) ON CONFLICT (name) DO NOTHING"), {"provider": provider}
    )
    connection.execute(
        text("INSERT INTO credentials (id, provider) VALUES (:id, :provider) ON CONFLICT (id) DO NOTHING"),
        {"id": credential_id, "provider": provider},
    )
    connection.execute(
        _SET_LIMITS,
        {"id": credential_id, "max_active": limits.max_active, "max_per_minute": limits.max_per_minute},
    )
    reconcile(connection, credential_id)


_LEAKED = text("""
WITH leaked AS (
    -- A call that is not there may be on its way to be written down, for some moments.
    SELECT p.credential_id, p.number, p.call_id
    FROM permits AS p
    LEFT JOIN upstream_calls AS u ON u.id = p.call_id
    WHERE p.call_id IS NOT NULL
      AND (CAST(:credential_id AS text) IS NULL OR p.credential_id = :credential_id)
      AND CASE
          WHEN u.id IS NULL THEN p.taken_at < statement_timestamp() - interval '60 s'
          ELSE u.outcome NOT IN ('accepted', 'uncertain')
      END
)
UPDATE permits AS p
SET call_id = NULL, taken_at = NULL
FROM leaked
WHERE p.credential_id = leaked.credential_id AND p.number = leaked.number AND p.call_id = leaked.call_id
""")

_SURPLUS = text("""
DELETE FROM permits AS p
USING credentials AS c
WHERE c.id = p.credential_id
  AND (CAST(:credential_id AS text) IS NULL OR c.id = :credential_id)
  AND (c.max_active IS NULL OR p.call_id IS NULL AND p.number > c.max_active)
""")

_MISSING_PERMITS = text("""
INSERT INTO permits (credential_id, number)
SELECT c.id, n
FROM credentials AS c
CROSS JOIN LATERAL generate_series(1, c.max_active) AS n
WHERE c.id = :credential_id
  AND c.max_active > (SELECT count(*) FROM permits AS p WHERE p.credential_id = c.id AND p.number <= c.max_active)
ON CONFLICT (credential_id, number) DO NOTHING
""")

_WITHOUT_PERMIT = text("""
WITH open AS (
    -- A call whose row is locked is about to end, which would not give back what it gets in this moment.
    SELECT u.id
    FROM upstream_calls AS u
    JOIN credentials AS c ON c.id = u.credential_id
    WHERE c.id = :credential_id
      AND c.max_active IS NOT NULL
      AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain'))
      AND NOT EXISTS (SELECT 1 FROM permits AS p WHERE p.call_id = u.id)
    FOR NO KEY UPDATE OF u SKIP LOCKED
),
bare AS (
    SELECT open.id, row_number() OVER (ORDER BY open.id) AS place FROM open
),
free AS (
    SELECT p.number
    FROM permits AS p
    WHERE p.credential_id = :credential_id AND p.call_id IS NULL
    ORDER BY p.call_id, p.number
    LIMIT (SELECT count(*) FROM bare)
    FOR UPDATE SKIP LOCKED
),
given AS (
    UPDATE permits AS p
    SET call_id = bare.id, taken_at = clock_timestamp()
    FROM bare JOIN (SELECT free.number, row_number() OVER () AS place FROM free) AS free USING (place)
    WHERE p.credential_id = :credential_id AND p.number = free.number
)
INSERT INTO permits (credential_id, number, call_id, taken_at)
SELECT :credential_id, highest.number + bare.place, bare.id, clock_timestamp()
FROM bare,
     (
         SELECT greatest(c.max_active, (SELECT max(p.number) FROM permits AS p WHERE p.credential_id = c.id)) AS number
         FROM credentials AS c WHERE c.id = :credential_id
     ) AS highest
WHERE bare.place > (SELECT count(*) FROM free)
""")

_MISSING_TOKENS = text("""
INSERT INTO submit_tokens (credential_id, number)
SELECT c.id, n
FROM credentials AS c
CROSS JOIN LATERAL generate_series(1, c.max_per_minute) AS n
WHERE c.id = :credential_id
  AND c.max_per_minute > (SELECT count(*) FROM submit_tokens AS t WHERE t.credential_id = c.id)
ON CONFLICT (credential_id, number) DO NOTHING
""")

# The latest used ones stay: what was submitted within the minute counts against a lowered limit, too.
_SURPLUS_TOKENS = text("""
DELETE FROM submit_tokens AS t
USING (
    SELECT s.number
    FROM submit_tokens AS s
    WHERE s.credential_id = :credential_id
    ORDER BY s.free_at DESC, s.number
    OFFSET (SELECT coalesce(c.max_per_minute, 0) FROM credentials AS c WHERE c.id = :credential_id)
) AS surplus
WHERE t.credential_id = :credential_id AND t.number = surplus.number
""")


def reconcile(connection: Connection, credential_id: str) -> None:
    """Make a credential's rows fit its limits and its open calls. Within a transaction."""
    connection.execute(_ONE_AT_A_TIME, {"id": credential_id})
    values = {"credential_id": credential_id}
    for statement in (_LEAKED, _SURPLUS, _MISSING_PERMITS, _WITHOUT_PERMIT, _MISSING_TOKENS, _SURPLUS_TOKENS):
        connection.execute(statement, values)


RECOVER_EVERY_S = 60

_RECOVER_DUE = text("""
INSERT INTO marks (name, value) VALUES ('permits_recovered', '')
ON CONFLICT (name) DO UPDATE SET at = clock_timestamp()
WHERE marks.at < clock_timestamp() - make_interval(secs => :every_s)
RETURNING name
""")


def recover(connection: Connection) -> int:
    """Give back permits of calls that are over, and drop what a lowered limit has left; at most once a minute.

    The end of a call gives its permit back itself. This finds what a worker of another release, or a limit set in
    the same moment, has left behind. Returns how many permits came back.
    """
    if connection.execute(_RECOVER_DUE, {"every_s": RECOVER_EVERY_S}).one_or_none() is None:
        return 0
    done = connection.execute(_LEAKED, {"credential_id": None}).rowcount
    connection.execute(_SURPLUS, {"credential_id": None})
    if done:
        log.warning("permits_recovered", permits=done)
    return done


def stay_away_s(outcome: Outcome, code: str | None, retry_after_s: float | None) -> float | None:
    """How long no one shall submit with a credential, after an answer that asks for patience."""
    if outcome is not Outcome.NOT_RUN or code not in _TOLD_TO_WAIT or retry_after_s is None:
        return None
    return min(retry_after_s, STAY_AWAY_MAX_S)


# ---------------------------------------------------------------- putting claims off


@dataclass(frozen=True, slots=True)
class Outlook:
    """Why there is no permit, in seconds until there may be one; None: that is not the reason."""

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
_PERMITS_COME_AND_GO = PutOff(1.0, 2.0)

_OUTLOOK = text("""
WITH room AS (
    SELECT count(*) AS usable,
           min(greatest(
               extract(epoch FROM c.not_before - clock_timestamp()),
               CASE WHEN c.max_per_minute IS NOT NULL THEN (
                   SELECT extract(epoch FROM min(t.free_at) - clock_timestamp())
                   FROM submit_tokens AS t
                   WHERE t.credential_id = c.id
                   HAVING min(t.free_at) > clock_timestamp()
               ) END,
               CASE WHEN c.max_active IS NOT NULL AND (
                   SELECT p.number FROM permits AS p
                   WHERE p.credential_id = c.id AND p.call_id IS NULL AND p.number <= c.max_active
                   ORDER BY p.call_id, p.number LIMIT 1
               ) IS NULL THEN 0 END
           )) AS after_s
    FROM credentials AS c
    WHERE c.id = ANY(CAST(:known AS text[])) AND c.paused_at IS NULL
)
SELECT coalesce(p.paused_at IS NOT NULL, false) OR room.usable = 0 AS paused,
       CAST(extract(epoch FROM p.open_until - clock_timestamp()) AS double precision) AS open_for_s,
       CAST(room.after_s AS double precision) AS room_after_s
FROM room
LEFT JOIN providers AS p ON p.name = :provider
""")


def outlook(connection: Connection, provider: str, known: Collection[str]) -> Outlook:
    """Look at the rows after a claim has found no permit with the credentials ``known``."""
    row = connection.execute(_OUTLOOK, {"provider": provider, "known": list(known)}).one()
    return Outlook(row.paused, row.open_for_s, row.room_after_s)


def put_off(seen: Outlook) -> PutOff:
    """When to try again. At most half a minute: an operator may lift any of this at any time."""
    if seen.paused:
        return PutOff(5.0, PUT_OFF_MAX_S - 5.0)
    wait_s = max(seen.open_for_s or 0.0, seen.room_after_s or 0.0)
    if wait_s <= _PERMITS_COME_AND_GO.least_s:
        return _PERMITS_COME_AND_GO
    spread_s = min(10.0, max(2.0, wait_s / 2))
    return PutOff(min(wait_s, PUT_OFF_MAX_S - spread_s), spread_s)


# ---------------------------------------------------------------- the circuit


NOTE_TRIES = 3

_CIRCUIT = text("""
SELECT failures, failing_jobs, trips, probe_call_id,
       CAST(coalesce(extract(epoch FROM clock_timestamp() - failing_since), 0) AS double precision) AS failing_for_s
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
) -> None:
    """Let the first word on a call move its provider's circuit.

    The row is read, and written only if it is still as it was read; who finds it locked or changed tries again at
    once and then leaves the counting to the others: no answer waits for a statistic.
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
        if row is None:
            return
        known = Circuit(row.failures, row.failing_for_s, tuple(row.failing_jobs), row.trips, row.probe_call_id)
        change = circuit.after(known, News(call_id, job_id, away))
        if change is None or _write(connection, provider, known, change):
            return


# Only a row that is still as it was read, and only if no one else holds it.
_COUNT = text("""
UPDATE providers AS p
SET failures = :failures, failing_jobs = CAST(:jobs AS text[]),
    failing_since = CASE WHEN CAST(:anew AS boolean) THEN clock_timestamp() ELSE p.failing_since END
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

# The jobs that failed are still known: what they do next says no more than what they did.
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


def _write(connection: Connection, provider: str, known: Circuit, change: circuit.Change) -> bool:
    seen = {
        "name": provider,
        "seen_failures": known.failures,
        "seen_trips": known.trips,
        "seen_jobs": list(known.failing_jobs),
    }
    match change:
        case circuit.Count(failures, jobs, anew):
            done = connection.execute(_COUNT, {**seen, "failures": failures, "jobs": list(jobs), "anew": anew})
        case circuit.Open(trips, for_s, jobs):
            done = connection.execute(_OPEN, {**seen, "trips": trips, "for_s": for_s, "jobs": list(jobs)})
            if done.rowcount:
                log.warning("circuit_opened", provider=provider, trips=trips, for_s=for_s)
        case circuit.Close():
            done = connection.execute(_CLOSE, seen)
            if done.rowcount:
                log.info("circuit_closed", provider=provider)
    return bool(done.rowcount)


# ---------------------------------------------------------------- for operators and callers


_PAUSE = text("""
INSERT INTO providers (name, paused_at) VALUES (:name, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET paused_at = coalesce(providers.paused_at, clock_timestamp())
""")


def pause(connection: Connection, provider: str) -> None:
    """No one submits to a provider from now on; what is in flight is followed to its end."""
    connection.execute(_PAUSE, {"name": provider})


_RESUME = text("""
UPDATE providers
SET paused_at = NULL, failures = 0, failing_since = NULL, failing_jobs = '{}', trips = 0,
    opened_at = NULL, open_until = NULL, probe_call_id = NULL
WHERE name = :name
""")


def resume(connection: Connection, provider: str) -> None:
    """Submit again, within half a minute. Also closes the circuit: who resumes knows that it is back."""
    connection.execute(_RESUME, {"name": provider})


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
           CASE WHEN bool_and(c.not_before > clock_timestamp()) THEN min(c.not_before) END AS not_before
    FROM credentials AS c
    GROUP BY c.provider
)
SELECT name,
       p.paused_at,
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
       c.not_before
FROM providers AS p
FULL JOIN c USING (name)
ORDER BY name
""")


def overview(connection: Connection) -> list[ProviderState]:
    """Every provider that has ever been announced, paused or in trouble, by name."""
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
        )
        for row in rows
    ]


# Counts no further than a page of publishing, which is asked again within seconds.
_FREE_PERMITS = text("""
WITH room AS (
    SELECT c.provider,
           c.paused_at IS NULL AND (c.not_before IS NULL OR c.not_before <= clock_timestamp()) AS welcome,
           least(
               CASE WHEN c.max_active IS NOT NULL THEN (
                   SELECT count(*) FROM (
                       SELECT 1 FROM permits AS p
                       WHERE p.credential_id = c.id AND p.call_id IS NULL AND p.number <= c.max_active
                       ORDER BY p.call_id, p.number LIMIT 2000
                   ) AS free
               ) END,
               CASE WHEN c.max_per_minute IS NOT NULL THEN (
                   SELECT count(*) FROM (
                       SELECT 1 FROM submit_tokens AS t
                       WHERE t.credential_id = c.id AND t.free_at <= statement_timestamp()
                       ORDER BY t.free_at LIMIT 2000
                   ) AS free
               ) END
           ) AS free
    FROM credentials AS c
),
seen AS (
    SELECT room.provider,
           coalesce(bool_or(p.paused_at IS NOT NULL OR p.open_until IS NOT NULL), false) AS shut,
           bool_or(room.welcome AND room.free IS NULL) AS endless,
           coalesce(sum(room.free) FILTER (WHERE room.welcome), 0) AS free
    FROM room
    LEFT JOIN providers AS p ON p.name = room.provider
    GROUP BY room.provider
)
SELECT seen.provider,
       CASE
           WHEN seen.shut THEN 0
           WHEN seen.endless THEN NULL
           ELSE greatest(0, seen.free - (
               SELECT count(*) FROM jobs AS j
               WHERE j.provider = seen.provider AND j.status = 'queued' AND j.published_at IS NOT NULL
           ))
       END AS free
FROM seen
""")


def free_permits(connection: Connection) -> dict[str, int | None]:
    """Jobs worth publishing now, by provider: what it has room for less what is on its way already.

    None where nothing limits it; a provider that has no rows yet is not named. Zero: its claims would
    only be put off, or its circuit waits for a probe (:func:`half_open`).
    """
    return {row.provider: None if row.free is None else int(row.free) for row in connection.execute(_FREE_PERMITS)}


_HALF_OPEN = text("""
SELECT p.name
FROM providers AS p
WHERE p.paused_at IS NULL
  AND p.open_until <= clock_timestamp()
  AND NOT EXISTS (SELECT 1 FROM upstream_calls AS u WHERE u.id = p.probe_call_id AND u.outcome IS NULL)
ORDER BY p.name
""")


def half_open(connection: Connection) -> list[str]:
    """Providers whose circuit waits for one call to find out whether they are back."""
    return [row.name for row in connection.execute(_HALF_OPEN)]
