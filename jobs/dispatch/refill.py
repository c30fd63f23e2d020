"""Publishing as many jobs as there is room for, fairly: for the sweep, and more often for limited providers.

A provider without limits takes every account's window, and every provider that of an account with its own key there. At
a provider with few permits the accounts are served in turns (``jobs/dispatch/turns.py``), so that neither the number of
an account's jobs nor its id decides who comes first, and each gets its share over time and not only in the mean. A
provider whose circuit is half-open gets one message, for the job that is the best probe.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, text

from core import key_values
from jobs import states
from jobs.dispatch import health, limits, own_keys, publishing, turns
from jobs.dispatch.publishing import Pair, Published, ShareBy
from jobs.dispatch.turns import Waiting
from jobs.states import Nudge

# Accounts whose windows a round of the sweep tops up; the next round continues after them.
TOPPED_UP_AT_MOST = 64
TOPPED_UP_AFTER = "windows_filled_after"  # in the key-value table: the last of them
# Statements of one round at a provider: an account whose jobs are not due leaves its places to a next plan.
PLANS_AT_MOST = 8
TURNS_LOCK = 7_216_050_003
FORGET_EVERY_S = 600


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


def refill(connection: Connection, *, window: int, most: int, share_by: ShareBy = "jobs") -> list[Nudge]:
    """Publish for every provider that has room, up to ``most`` jobs in all. Returns the messages to send.

    In a transaction only one process at a time gives out permits; without one two may, and claims are put off.
    """
    limits.recover(connection)
    permits = free_permits(connection)
    nudges: list[Nudge] = probes(connection)
    limited: dict[str, list[Pair]] = defaultdict(list)
    endless: list[Pair] = []
    pairs = publishing.pairs(connection, window=window, share_by=share_by)
    own = _own(connection, pairs, permits)
    for pair in pairs:
        if permits.get(pair.provider) is not None and (pair.account_id, pair.provider) not in own:
            limited[pair.provider].append(pair)
        else:
            endless.append(pair)
    nudges += _fill_windows(connection, endless, window=window, most=most - len(nudges), share_by=share_by)
    nudges += _in_turns(connection, limited, permits, window=window, share_by=share_by)
    _forget_turns(connection)
    return nudges


def _own(
    connection: Connection, pairs: Sequence[Pair], permits: Mapping[str, int | None]
) -> Collection[tuple[str, str]]:
    """Return which accounts have their own key at which of the limited providers: they need none of these permits."""
    limited = [(each.account_id, each.provider) for each in pairs if permits.get(each.provider) is not None]
    return own_keys.owners(connection, limited)


def refill_limited(connection: Connection, *, window: int, share_by: ShareBy = "jobs") -> list[Nudge]:
    """Publish only for limited providers with a free permit; fast enough for several times a second.

    Returns the messages to send. As with :func:`refill`, a transaction keeps other processes from doing the same.
    """
    permits = {name: free for name, free in free_permits(connection).items() if free}
    if not permits or not _alone(connection):
        return []
    limited: dict[str, list[Pair]] = defaultdict(list)
    pairs = publishing.pairs(connection, window=window, share_by=share_by)
    own = _own(connection, pairs, permits)
    for pair in pairs:
        if pair.provider in permits and (pair.account_id, pair.provider) not in own:
            limited[pair.provider].append(pair)
    return _in_turns(connection, limited, permits, window=window, share_by=share_by)


def _fill_windows(
    connection: Connection, pairs: Sequence[Pair], *, window: int, most: int, share_by: ShareBy
) -> list[Nudge]:
    """Publish the first jobs of accounts that have none published, and top up the windows of some others.

    Claims keep windows full (``jobs/lifecycle/start.py``); this is for those that no claim will fill.
    """
    nudges: list[Nudge] = []
    idle: dict[str, dict[str, int]] = defaultdict(dict)
    for pair in pairs:
        if not pair.published:
            idle[pair.provider][pair.account_id] = pair.weight
    for provider, accounts in idle.items():
        chosen = dict(list(accounts.items())[: max(0, most - len(nudges))])
        published = publishing.fill_turns(connection, provider, chosen, share_by=share_by) if chosen else []
        nudges += [states.run(provider, each.job_id) for each in published]
    for pair in _next_to_top_up(connection, pairs):
        if len(nudges) >= most:
            break
        room = most - len(nudges)
        nudges += publishing.fill(
            connection, pair.account_id, pair.provider, pair.weight, window=window, most=room, share_by=share_by
        )
    return nudges


def _next_to_top_up(connection: Connection, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return the pairs whose turn it is, continuing after those of the round before."""
    if len(pairs) <= TOPPED_UP_AT_MOST:
        return pairs
    seen = key_values.find(connection, TOPPED_UP_AFTER)
    after = tuple(seen.value.split()) if seen else ()
    first = next((number for number, each in enumerate(pairs) if (each.account_id, each.provider) > after), 0)
    chosen = turned(pairs, first)[:TOPPED_UP_AT_MOST]
    key_values.put(connection, TOPPED_UP_AFTER, f"{chosen[-1].account_id} {chosen[-1].provider}")
    return chosen


def turned(pairs: Sequence[Pair], first: int) -> list[Pair]:
    """Return the pairs rotated so that the one at index ``first`` comes first."""
    return [*pairs[first:], *pairs[:first]]


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


_ALONE = text("SELECT pg_try_advisory_xact_lock(:lock)")


def _in_turns(
    connection: Connection,
    limited: Mapping[str, Sequence[Pair]],
    permits: Mapping[str, int | None],
    *,
    window: int,
    share_by: ShareBy,
) -> list[Nudge]:
    if not any(permits.get(provider) for provider in limited):
        return []
    if not _alone(connection):
        return []
    # What another process has published since the first look takes permits as well.
    permits = free_permits(connection)
    nudges: list[Nudge] = []
    for provider, pairs in limited.items():
        if free := permits.get(provider):
            nudges += _take_turns(connection, provider, pairs, free, window=window, share_by=share_by)
    return nudges


def _alone(connection: Connection) -> bool:
    """Whether no other process gives out permits, until the end of this transaction."""
    return bool(connection.execute(_ALONE, {"lock": TURNS_LOCK}).scalar_one())


def _take_turns(
    connection: Connection, provider: str, pairs: Sequence[Pair], free: int, *, window: int, share_by: ShareBy
) -> list[Nudge]:
    now = _virtual_time(connection, provider)
    waiting = [
        Waiting(
            each.account_id,
            each.weight,
            share=each.share,
            places=window * each.weight - each.published,
            passed=each.passed,
            entering=each.entering,
        )
        for each in pairs
    ]
    moved = {each.account_id: each for each in turns.admit(waiting, now)}
    published: list[Published] = []
    for _ in range(PLANS_AT_MOST):
        asked = turns.plan(waiting, free - len(published))
        if not asked:
            break
        found = publishing.fill_turns(connection, provider, asked, share_by=share_by)
        published += found
        now = turns.charge(waiting, [(each.account_id, each.share) for each in found], now)
        had = Counter(each.account_id for each in found)
        moved |= {each.account_id: each for each in waiting if each.account_id in had}
        waiting = turns.with_more(waiting, asked, had)
    if moved:
        _note_turns(connection, provider, moved.values(), now)
    return [states.run(provider, each.job_id) for each in published]


_VIRTUAL_TIME = text("SELECT passed FROM dispatch_turns WHERE provider = :provider AND account_id = ''")

_NOTE_TURNS = text("""
INSERT INTO dispatch_turns (provider, account_id, passed)
SELECT :provider, t.account_id, t.passed
FROM unnest(CAST(:account_ids AS text[]), CAST(:passed AS float8[])) AS t(account_id, passed)
ON CONFLICT (provider, account_id) DO UPDATE SET passed = excluded.passed, at = excluded.at
""")

_FORGET_TURNS = text("""
DELETE FROM dispatch_turns WHERE account_id <> '' AND at < clock_timestamp() - interval '1 day'
""")


def _virtual_time(connection: Connection, provider: str) -> float:
    return float(connection.execute(_VIRTUAL_TIME, {"provider": provider}).scalar_one_or_none() or 0.0)


def _note_turns(connection: Connection, provider: str, moved: Collection[Waiting], now: float) -> None:
    values = {
        "provider": provider,
        "account_ids": ["", *(each.account_id for each in moved)],
        "passed": [now, *(each.passed for each in moved)],
    }
    connection.execute(_NOTE_TURNS, values)


def _forget_turns(connection: Connection) -> None:
    """Delete the turns of accounts that had none for a day; they are served as if they were new."""
    if key_values.take_turn(connection, "turns_forgotten", every_s=FORGET_EVERY_S):
        connection.execute(_FORGET_TURNS)
