"""Publishing as many jobs as there is room for, fairly: for the sweep, and more often for limited providers.

A provider without limits takes every account's whole window, and so does an account that has its own key there. At a
provider with few permits the accounts are served in turns, each by its weight, starting at a random account, so that
neither the number of an account's jobs nor its id decides who comes first. A provider whose circuit is half-open gets
one message, for the job that is the best probe.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection, text

from jobs import states
from jobs.dispatch import health, limits, own_keys, publishing
from jobs.states import Nudge

Pair = tuple[str, str, int]  # account, provider, weight
Published = TypeVar("Published")
# Statements per provider and round; with more accounts than that, the next round starts at another one.
TURNS_AT_MOST = 64


# Counts up to one page of publishing; the next round follows within seconds.
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
    WHERE c.account_id IS NULL
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
                   AND NOT j.own_key
           ))
       END AS free
FROM seen
""")


def free_permits(connection: Connection) -> dict[str, int | None]:
    """Return how many jobs to publish now, by provider: its free permits less the jobs that are published already.

    None: nothing limits the provider. Zero: claims would only be put off, or the circuit waits for a probe
    (:func:`jobs.dispatch.health.half_open`). A provider without rows is left out.
    """
    return {row.provider: None if row.free is None else int(row.free) for row in connection.execute(_FREE_PERMITS)}


def refill(connection: Connection, *, window: int, most: int) -> list[Nudge]:
    """Publish for every provider that has room, up to ``most`` jobs in all. Returns the messages to send."""
    limits.recover(connection)
    permits = free_permits(connection)
    nudges: list[Nudge] = probes(connection)
    limited: dict[str, list[Pair]] = defaultdict(list)
    pairs = publishing.pairs(connection)
    own = own_keys.owners(connection, [pair[:2] for pair in pairs if permits.get(pair[1]) is not None])
    for pair in pairs:
        account_id, provider, weight = pair
        if permits.get(provider) is not None and (account_id, provider) not in own:
            limited[provider].append(pair)
        elif len(nudges) < most:
            room = most - len(nudges)
            nudges += publishing.fill(connection, account_id, provider, weight, window=window, most=room)
    return nudges + _in_turns(connection, limited, permits, window=window)


def refill_limited(connection: Connection, *, window: int) -> list[Nudge]:
    """Publish only for limited providers with a free permit; fast enough for several times a second.

    Returns the messages to send.
    """
    permits = {name: free for name, free in free_permits(connection).items() if free}
    if not permits:
        return []
    limited: dict[str, list[Pair]] = defaultdict(list)
    for pair in publishing.pairs(connection):
        if pair[1] in permits:
            limited[pair[1]].append(pair)
    return _in_turns(connection, limited, permits, window=window)


# The probe is the newest job that was never tried, because such a job has not failed before. A job that was tried
# keeps its back-off. A message sent a moment ago is not sent again.
_PROBE = text("""
WITH probe AS (
    SELECT newest.id
    FROM (
        SELECT j.id, j.attempt, j.low_priority, j.due_at, j.start_deadline_at FROM jobs AS j
        WHERE j.provider = :provider AND j.status = 'queued'
        ORDER BY j.id DESC LIMIT 1000
    ) AS newest
    WHERE (newest.attempt = 0 AND newest.start_deadline_at > clock_timestamp())
       OR (newest.attempt > 0 AND newest.due_at <= clock_timestamp())
    ORDER BY newest.attempt, newest.low_priority, newest.id DESC
    LIMIT 1
)
UPDATE jobs
SET published_at = clock_timestamp(), due_at = least(jobs.due_at, clock_timestamp())
FROM probe
WHERE jobs.id = probe.id
  AND jobs.status = 'queued'
  AND (jobs.published_at IS NULL OR jobs.published_at < clock_timestamp() - make_interval(secs => :again_s))
RETURNING jobs.id
""")
PROBE_AGAIN_S = 5.0


def probes(connection: Connection) -> list[Nudge]:
    """Publish one job for each provider whose circuit is half-open. Returns the messages to send.

    It is the newest job that was never tried, or else the one with the fewest attempts; ``permits.TAKE`` requires
    the same.
    """
    nudges: list[Nudge] = []
    for provider in health.half_open(connection):
        rows = connection.execute(_PROBE, {"provider": provider, "again_s": PROBE_AGAIN_S})
        nudges += [states.run(provider, row.id) for row in rows]
    return nudges


def _in_turns(
    connection: Connection, limited: dict[str, list[Pair]], permits: Mapping[str, int | None], *, window: int
) -> list[Nudge]:
    nudges: list[Nudge] = []
    for provider, pairs in limited.items():
        nudges += _share(connection, pairs, permits.get(provider) or 0, window=window)
    return nudges


def _share(connection: Connection, pairs: Sequence[Pair], free: int, *, window: int) -> list[Nudge]:
    def fill(pair: Pair, most: int) -> list[Nudge]:
        account_id, provider, weight = pair
        return publishing.fill(connection, account_id, provider, weight, window=window, most=most)

    return share_out(pairs, free, first=random.randrange(len(pairs)), fill=fill)


def share_out(
    pairs: Sequence[Pair], free: int, *, first: int, fill: Callable[[Pair, int], Sequence[Published]]
) -> list[Published]:
    """Give accounts ``free`` places in turns by weight, from index ``first`` on. Returns what was published.

    ``fill`` publishes at most so many jobs of a pair; one that publishes fewer has no more, or a full window.
    """
    published: list[Published] = []
    turn = deque(turned(pairs, first))
    share = max(1, free // sum(weight for _, _, weight in pairs))
    for _ in range(TURNS_AT_MOST):
        if not turn or len(published) >= free:
            break
        pair = turn.popleft()
        asked = min(pair[2] * share, free - len(published))
        found = fill(pair, asked)
        published += found
        if len(found) == asked:
            turn.append(pair)
    return published


def turned(pairs: Sequence[Pair], first: int) -> list[Pair]:
    """Return the pairs rotated so that the one at index ``first`` comes first."""
    return [*pairs[first:], *pairs[:first]]
