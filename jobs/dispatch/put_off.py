"""When to try again: after a claim without a permit, and after an upstream has asked for a pause.

Only ``due_at`` of the job or ``not_before`` of the credential changes: no hold, no event, no attempt.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, text

from jobs.states import Outcome

# The longest pause that an upstream may ask for: it may be wrong, and jobs wait.
STAY_AWAY_MAX_S = 600.0
_TOLD_TO_WAIT = frozenset({"upstream_rate_limited", "upstream_overloaded"})

_STAY_AWAY = text("""
UPDATE credentials
SET not_before = greatest(not_before, clock_timestamp() + make_interval(secs => CAST(:stay_away_s AS double precision)))
WHERE id = :credential_id
""")


def stay_away(connection: Connection, credential_id: str, seconds: float) -> None:
    """Stop submitting with a credential for ``seconds``, as its upstream has asked (:func:`stay_away_s`)."""
    connection.execute(_STAY_AWAY, {"credential_id": credential_id, "stay_away_s": seconds})


def stay_away_s(outcome: Outcome, code: str | None, retry_after_s: float | None) -> float | None:
    """Return for how many seconds to stop submitting with a credential; None if the answer does not ask for it."""
    if outcome is not Outcome.NOT_RUN or code not in _TOLD_TO_WAIT or retry_after_s is None:
        return None
    return min(retry_after_s, STAY_AWAY_MAX_S)


@dataclass(frozen=True, slots=True)
class Outlook:
    """Why there is no permit. ``..._s``: seconds until there may be one; None: that is not the reason."""

    paused: bool = False
    open_for_s: float | None = None
    room_after_s: float | None = None

    @property
    def closed(self) -> bool:
        """Whether the provider takes no calls at all: paused by an operator, or its circuit is open."""
        return self.paused or self.open_for_s is not None


@dataclass(frozen=True, slots=True)
class PutOff:
    """Try again after ``least_s`` seconds plus up to ``spread_s`` at random, so that jobs do not all come at once."""

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
    """Return why a claim has found no permit with the credentials ``known``."""
    row = connection.execute(_OUTLOOK, {"provider": provider, "known": list(known)}).one()
    return Outlook(row.paused, row.open_for_s, row.room_after_s)


def put_off(seen: Outlook) -> PutOff:
    """Return when to try again: within half a minute, because an operator may end any of these reasons at any time."""
    if seen.paused:
        return PutOff(5.0, PUT_OFF_MAX_S - 5.0)
    wait_s = max(seen.open_for_s or 0.0, seen.room_after_s or 0.0)
    if wait_s <= _PERMITS_COME_AND_GO.least_s:
        return _PERMITS_COME_AND_GO
    spread_s = min(10.0, max(2.0, wait_s / 2))
    return PutOff(min(wait_s, PUT_OFF_MAX_S - spread_s), spread_s)
