"""Whose turn it is at a provider with few permits: accounts by virtual time, each by its weight, across rounds.

Every account has a time at a provider up to which it was served (``passed``). A job moves it on by the job's share
divided by the account's weight, and the account is next whose job has its middle first. So weights hold also where permits
come free one at a time, and no account waits for longer than one job of each other takes. The provider's own time moves
on by what each account would have had if all were served at once; an account that comes new or returns begins one job
behind it. So its first job is next, and having been away earns nothing more.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Waiting:
    """An account with jobs to publish at a provider.

    ``share``: what its next job counts. ``places``: how many more of its jobs may be published. ``passed``: the
    virtual time up to which it was served.
    """

    account_id: str
    weight: int
    share: float = 1.0
    places: int = 2**31
    passed: float = 0.0


def _earliest(waiting: Sequence[Waiting], now: float) -> float:
    """Return the virtual time before which no account's job begins: one job of the usual kind behind the provider's."""
    return now - sum(each.share for each in waiting) / len(waiting) if waiting else now


def plan(waiting: Sequence[Waiting], free: int, now: float) -> dict[str, int]:
    """Return how many jobs of which accounts come next, ``free`` in all, as if each had enough of its next job's kind.

    ``now``: the provider's virtual time. By the middles of jobs, no weight is ahead of another for long.
    """
    earliest = _earliest(waiting, now)
    turns = [
        (max(each.passed, earliest) + each.share / each.weight / 2, number)
        for number, each in enumerate(waiting)
        if each.places > 0
    ]
    heapq.heapify(turns)
    asked: Counter[str] = Counter()
    for _ in range(free):
        if not turns:
            break
        middle, number = turns[0]
        account = waiting[number]
        asked[account.account_id] += 1
        if asked[account.account_id] < account.places:
            heapq.heapreplace(turns, (middle + account.share / account.weight, number))
        else:
            heapq.heappop(turns)
    return dict(asked)


def charge(waiting: Sequence[Waiting], served: Iterable[tuple[str, float]], now: float) -> float:
    """Move on the accounts whose jobs were published, by (account, share). Returns the provider's virtual time then.

    The provider's time is never behind all accounts that wait there.
    """
    if not waiting:
        return now
    earliest = _earliest(waiting, now)
    weights = sum(each.weight for each in waiting)
    accounts = {each.account_id: each for each in waiting}
    now = max(now, min(each.passed for each in waiting))
    for account_id, share in served:
        account = accounts[account_id]
        account.passed = max(account.passed, earliest) + share / account.weight
        now += share / weights
    return now


def with_more(waiting: Sequence[Waiting], asked: Mapping[str, int], found: Mapping[str, int]) -> list[Waiting]:
    """Return the accounts that may have more jobs: those that had as many as they were asked for, and places left."""
    left: list[Waiting] = []
    for each in waiting:
        had = found.get(each.account_id, 0)
        each.places -= had
        if had == asked.get(each.account_id, 0) and each.places > 0:
            left.append(each)
    return left
