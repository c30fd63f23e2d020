"""The limits of credentials, for the whole fleet, and the rows that enforce them: permits and submit tokens.

A worker announces the credentials it can use with their limits, and the rows are then adjusted to the limits and to
the open calls. ``jobs/dispatch/permits.py`` takes and releases these rows; this module recovers those that were not
released.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, text

from core import key_values

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CredentialLimits:
    """The limits of one credential, for the whole fleet: open calls, and submits per minute. None: no limit."""

    max_active: int | None = None
    max_per_minute: int | None = None

    @property
    def any(self) -> bool:
        return self.max_active is not None or self.max_per_minute is not None


# Makes and removes rows, so it runs only once at a time for a credential.
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('permits of ' || CAST(:id AS text), 0))")

_SET_LIMITS = text("""
UPDATE credentials
SET max_active = CAST(:max_active AS int), max_per_minute = CAST(:max_per_minute AS int)
WHERE id = :id
  AND (max_active, max_per_minute) IS DISTINCT FROM (CAST(:max_active AS int), CAST(:max_per_minute AS int))
""")


def announce(connection: Connection, credential_id: str, provider: str, limits: CredentialLimits) -> None:
    """Make the rows of a credential that a worker can use, or update its limits. Must run in a transaction.

    Open calls keep or get a permit, even those above a lowered limit.
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
    -- A call that has no row yet may be about to be recorded, for some seconds.
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
    -- A call whose row is locked may be ending, and that end would not release a permit assigned now.
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

# The tokens used last are kept, so that submits of the last minute count against a lowered limit, too.
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
    """Adjust a credential's rows to its limits and its open calls. Must run in a transaction."""
    connection.execute(_ONE_AT_A_TIME, {"id": credential_id})
    values = {"credential_id": credential_id}
    for statement in (_LEAKED, _SURPLUS, _MISSING_PERMITS, _WITHOUT_PERMIT, _MISSING_TOKENS, _SURPLUS_TOKENS):
        connection.execute(statement, values)


RECOVER_EVERY_S = 60


def recover(connection: Connection) -> int:
    """Release permits of calls that are over and delete rows above a lowered limit, at most once a minute.

    The end of a call normally releases its permit. This finds those left by a worker of another release, or by a
    limit that changed at the same time. Returns how many permits were released.
    """
    if not key_values.take_turn(connection, "permits_recovered", every_s=RECOVER_EVERY_S):
        return 0
    done = connection.execute(_LEAKED, {"credential_id": None}).rowcount
    connection.execute(_SURPLUS, {"credential_id": None})
    if done:
        log.warning("permits_recovered", permits=done)
    return done
