"""Permits: whether a call may be sent to a provider now. Taken before a call, released when it is over.

Permits are rows of PostgreSQL, so limits survive an emptied Redis and killed workers.

A credential with ``max_active`` has one row in ``permits`` for each call that may be open there. A call takes a
free one before it is made and releases it when its outcome is known. A credential with ``max_per_minute`` has
one row in ``submit_tokens`` for each submit per minute; a submit makes one unusable for 62 s: a minute, and two
seconds for the request to reach the upstream's clock. Rows that another call is taking are skipped, so no call
waits for another, and a credential without limits is only read. ``jobs/dispatch/limits.py`` makes these rows, and
``jobs/dispatch/health.py`` says which providers are paused or away.

No claim waits for a permit: if there is none, the job is put off (``jobs/dispatch/put_off.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

# A minute, and the time of a request to reach the upstream's clock. The statements below have the same number.
TOKEN_S = 62
# A probe is not replaced within this time, because an older snapshot may not show its call. Also in TAKE.
PROBE_GAP_S = 10

# One statement: permits, tokens and the probe of a half-open circuit, for up to :wanted calls at one credential.
# :call_ids (text[]) are the ids of these calls; the first ones get a permit. :attempt is the job's.
# One row (credential_id, taken, limited), or none.
TAKE = """
WITH probe AS (
    -- The one call that a half-open circuit lets through. A job with more attempts than another waiting job is no
    -- probe, because it may fail by itself. If the circuit's row is locked, this call is not the probe.
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
    -- How many calls may be sent: all, one as a probe, or no row while the provider is paused or its circuit is open.
    SELECT CAST(:wanted AS int) AS most, false AS probing
    WHERE NOT EXISTS (
        SELECT 1 FROM providers AS p
        WHERE p.name = :provider AND (p.paused_at IS NOT NULL OR p.open_until IS NOT NULL)
    )
    UNION ALL
    SELECT 1, true FROM probe
),
pick AS (
    -- The credential with the most room, counted only if there are several, and up to ten, the most calls of a job.
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
    -- The highest permit number that may be taken. After the limit was lowered, open calls may exist that have no
    -- permit; then only as many free permits are used as keep all calls within the limit.
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
    -- In the order of the index permits_free, which has only free permits; the primary key would read all taken ones.
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
    -- As many calls as have a permit and a token, where these are needed; least() ignores NULL.
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

# A call without a permit has no row here, so nothing is written for it.
RELEASE = """
UPDATE permits SET call_id = NULL, taken_at = NULL
WHERE call_id IS NOT NULL AND call_id = ANY(CAST(:call_ids AS text[]))
"""
_RELEASE = text(RELEASE)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim has got: the first ``calls`` of its calls may be sent with one credential.

    ``limited``: the credential has a limit, so accounts take turns there (``jobs/dispatch/refill.py``).
    """

    credential_id: str
    calls: int
    limited: bool


def take(
    connection: Connection, provider: str, *, known: Collection[str], call_ids: Sequence[str], attempt: int
) -> Taken | None:
    """Take permits and tokens for as many of the calls as a credential has room for. None: not even for one now.

    ``known``: the credentials this worker can use. ``attempt``: the job's, before these calls. A free row can be
    missed while others take and release rows, so this tries twice.
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
    """Release the permits of calls that are over."""
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
    """Take a submit token for sending a call again, which has its permit already.

    Returns False while there is no token, the credential or its provider is paused, the upstream has asked for a
    pause, or the circuit is open.
    """
    values = {"credential_id": credential_id}
    return any(connection.execute(_TAKE_SUBMIT, values).one_or_none() for _ in range(2))
