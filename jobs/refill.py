"""Publishing what there is room for, fairly: the sweep's part, and a quick one for limited providers.

A provider without limits takes every account's whole window. Of one with few seats the accounts are
served in turns, each by its weight, from a place chosen by chance: so neither the number of one's jobs
nor the order of names decides who comes first, whichever worker does the publishing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from jobs import capacity, publishing
from jobs.states import Nudge

Pair = tuple[str, str, int]  # account, provider, weight
# Statements of one round for one provider: with thousands of accounts the next round goes on elsewhere.
TURNS_AT_MOST = 64


def refill(connection: Connection, *, window: int, most: int) -> list[Nudge]:
    """Publish for every provider that would take something, ``most`` jobs in all."""
    seats = capacity.free_seats(connection)
    nudges: list[Nudge] = []
    limited: dict[str, list[Pair]] = defaultdict(list)
    for pair in publishing.pairs(connection):
        account_id, provider, weight = pair
        if seats.get(provider) is not None:
            limited[provider].append(pair)
        elif len(nudges) < most:
            room = most - len(nudges)
            nudges += publishing.fill(connection, account_id, provider, weight, window=window, most=room)
    return nudges + _in_turns(connection, limited, seats, window=window)


def refill_limited(connection: Connection, *, window: int) -> list[Nudge]:
    """Only for providers with limits and a seat free: quick enough to be asked several times a second."""
    seats = {name: free for name, free in capacity.free_seats(connection).items() if free}
    if not seats:
        return []
    limited: dict[str, list[Pair]] = defaultdict(list)
    for pair in publishing.pairs(connection):
        if pair[1] in seats:
            limited[pair[1]].append(pair)
    return _in_turns(connection, limited, seats, window=window)


def _in_turns(
    connection: Connection, limited: dict[str, list[Pair]], seats: Mapping[str, int | None], *, window: int
) -> list[Nudge]:
    nudges: list[Nudge] = []
    for provider, pairs in limited.items():
        nudges += _share(connection, pairs, seats.get(provider) or 0, window=window)
    return nudges


def _share(connection: Connection, pairs: Sequence[Pair], free: int, *, window: int) -> list[Nudge]:
    nudges: list[Nudge] = []
    turn = turned(pairs, random.randrange(len(pairs)))
    share = max(1, free // sum(weight for _, _, weight in pairs))
    for _ in range(TURNS_AT_MOST):
        if not turn or len(nudges) >= free:
            break
        account_id, provider, weight = turn.pop(0)
        asked = min(weight * share, free - len(nudges))
        found = publishing.fill(connection, account_id, provider, weight, window=window, most=asked)
        nudges += found
        if len(found) == asked:
            turn.append((account_id, provider, weight))
    return nudges


def turned(pairs: Sequence[Pair], first: int) -> list[Pair]:
    """The same circle of pairs, begun elsewhere."""
    return [*pairs[first:], *pairs[:first]]
