"""Whose turn it is at a provider with few permits: accounts by virtual time, each by its weight, across rounds.

Every account has a time at a provider up to which it was served (``passed``). A job moves it on by the job's share
divided by the account's weight, and the account is next whose job has its middle first. So weights hold also where
permits come free one at a time, and no account waits for longer than one job of each other takes. The provider's own
time moves on by what each account would have had if all were served at once; an account that comes new or returns
begins there, so having been away earns nothing, and leaving with more than a share is not forgotten.
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
    virtual time up to which it was served. ``entering``: it has not waited since then without a break.
    """

    account_id: str
    weight: int
    share: float = 1.0
    places: int = 2**31
    passed: float = 0.0
    entering: bool = True


def admit(waiting: Sequence[Waiting], now: float) -> list[Waiting]:
    """Bring accounts that are entering to the provider's virtual time, ``now``, and return them.

    An account that had more than its share when it left begins where it was.
    """
    entering = [each for each in waiting if each.entering]
    for each in entering:
        each.passed = max(each.passed, now)
    return entering


def plan(waiting: Sequence[Waiting], free: int) -> dict[str, int]:
    """Return how many jobs of which accounts come next, ``free`` in all, as if each had enough of its next job's kind.

    By the middles of jobs, so that no weight is ahead of another for long; of two at the same time, one that is
    entering is first.
    """
    turns = [
        (each.passed + each.share / each.weight / 2, not each.entering, number)
        for number, each in enumerate(waiting)
        if each.places > 0
    ]
    heapq.heapify(turns)
    asked: Counter[str] = Counter()
    for _ in range(free):
        if not turns:
            break
        middle, _, number = turns[0]
        account = waiting[number]
        asked[account.account_id] += 1
        if asked[account.account_id] < account.places:
            heapq.heapreplace(turns, (middle + account.share / account.weight, True, number))
        else:
            heapq.heappop(turns)
    return dict(asked)


def charge(waiting: Sequence[Waiting], served: Iterable[tuple[str, float]], now: float) -> float:
    """Move on the accounts whose jobs were published, by (account, share). Returns the provider's virtual time then.

    The provider's time is never behind all accounts that wait there.
    """
    if not waiting:
        return now
    weights = sum(each.weight for each in waiting)
    accounts = {each.account_id: each for each in waiting}
    now = max(now, min(each.passed for each in waiting))
    for account_id, share in served:
        account = accounts[account_id]
        account.passed += share / account.weight
        account.entering = False
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
