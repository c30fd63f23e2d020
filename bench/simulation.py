"""Fairness and windows at 10,000 accounts: the rules of dispatch without servers, by a clock of its own.

Nothing here is measured: jobs are numbers, a claim takes the time that is given to it, and the same seed gives the same
figures on every machine. Turns at a limited provider are those of :func:`jobs.dispatch.refill.share_out` itself; a
window is counted as ``publishing.FILL`` counts it, in jobs published and not yet claimed.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.table import Bound, Row
from core.settings import Settings
from jobs.dispatch.refill import Pair, share_out

ACCOUNTS = 10_000
CLAIMS_PER_S = 100.0  # of the fleet: what two cores do (docs/benchmarks.md)
FLOOD = 100_000
BACKLOG = 50  # orders of each account where all are busy
NEWCOMERS = 200
PERMITS, CALL_S, REFILL_S, LIMITED_S = 1000, 10.0, 0.25, 600.0
HEAVY_EVERY, HEAVY_WEIGHT = 100, 5
WINDOW: int = Settings.model_fields["publish_window"].default


@dataclass
class _Account:
    weight: int = 1
    unpublished: int = 0
    published: int = 0


@dataclass
class Queue:
    """A provider without limits: windows of accounts in one queue, claimed in its order at a fixed rate."""

    window: int
    claims_per_s: float
    accounts: dict[int, _Account] = field(default_factory=dict)
    messages: deque[int] = field(default_factory=deque)
    longest: int = 0

    def submit(self, account: int, jobs: int, weight: int = 1) -> None:
        """An account orders; its window is filled at once."""
        self.accounts.setdefault(account, _Account(weight)).unpublished += jobs
        self._fill(account)

    def claim(self) -> int | None:
        """The account whose job is claimed next, after which its next is published; None where nothing waits."""
        if not self.messages:
            return None
        account = self.messages.popleft()
        self.accounts[account].published -= 1
        self._fill(account)
        return account

    def _fill(self, number: int) -> None:
        account = self.accounts[number]
        room = max(0, min(account.weight * self.window - account.published, account.unpublished))
        account.unpublished -= room
        account.published += room
        self.messages.extend([number] * room)
        self.longest = max(self.longest, len(self.messages))


def waits_of_newcomers(queue: Queue, *, newcomers: int, over_s: float, seed: int) -> list[float]:
    """Seconds that single orders of new accounts wait for their claim, when they come in at random over a time."""
    chance = random.Random(seed)
    arrivals = deque(sorted(chance.uniform(0, over_s) for _ in range(newcomers)))
    first, now = 10**9, 0.0  # numbers that no account before them has
    came: dict[int, float] = {}
    waits: list[float] = []
    while len(waits) < newcomers:
        while arrivals and arrivals[0] <= now:
            number = first + len(came)
            came[number] = arrivals.popleft()
            queue.submit(number, 1)
        account = queue.claim()
        now += 1 / queue.claims_per_s
        if account in came:
            waits.append(now - came[account])
    return waits


def served_in_turns(weights: Sequence[int], *, permits: int, call_s: float, seconds: float, seed: int) -> list[int]:
    """Calls made for each account at a provider with ``permits``, while every account always has more orders."""
    chance = random.Random(seed)
    pairs: list[Pair] = [(f"{number:06d}", "limited", weight) for number, weight in enumerate(weights)]
    served = [0] * len(pairs)
    ends: list[float] = []
    steps = round(seconds / REFILL_S)
    for step in range(steps):
        now = step * REFILL_S
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        free = permits - len(ends)
        if not free:
            continue
        first = chance.randrange(len(pairs))
        for account in share_out(pairs, free, first=first, fill=lambda pair, most: [int(pair[0])] * most):
            served[account] += 1
            heapq.heappush(ends, now + call_s * chance.uniform(0.5, 1.5))
    return served


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 where all have the same, 1/n where one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def measure(*, accounts: int = ACCOUNTS, seed: int = 1) -> list[Row]:
    """The rows of the table."""
    return [*_flood(seed), *_everyone_busy(accounts, seed), *_limited(accounts, seed)]


def _flood(seed: int) -> list[Row]:
    quiet = waits_of_newcomers(Queue(WINDOW, CLAIMS_PER_S), newcomers=NEWCOMERS, over_s=60, seed=seed)
    queue = Queue(WINDOW, CLAIMS_PER_S)
    queue.submit(0, FLOOD)
    flooded = waits_of_newcomers(queue, newcomers=NEWCOMERS, over_s=60, seed=seed)
    return [
        Row(
            f"simulated: wait of one order next to {FLOOD:,} of another account (p95)",
            "s",
            _p95(flooded),
            _p95(quiet),
            "s alone",
            # A window and what it is refilled by while the order waits.
            Bound("ours", at_most=2 * WINDOW / CLAIMS_PER_S),
            {"longest_queue": queue.longest},
        )
    ]


def _everyone_busy(accounts: int, seed: int) -> list[Row]:
    ideal_s = accounts / CLAIMS_PER_S
    rows = []
    for window in (WINDOW, 4, 1):
        queue = Queue(window, CLAIMS_PER_S)
        for number in range(accounts):
            queue.submit(number, BACKLOG)
        waits = waits_of_newcomers(queue, newcomers=NEWCOMERS, over_s=60, seed=seed)
        rows.append(
            Row(
                f"simulated: the same where {accounts:,} accounts have {BACKLOG} orders each, window {window}",
                "s",
                _p95(waits),
                ideal_s,
                "s: one order of each before it",
                more={"longest_queue": queue.longest},
            )
        )
    return rows


def _limited(accounts: int, seed: int) -> list[Row]:
    weights = [HEAVY_WEIGHT if number % HEAVY_EVERY == 0 else 1 for number in range(accounts)]
    served = served_in_turns(weights, permits=PERMITS, call_s=CALL_S, seconds=LIMITED_S, seed=seed)
    light = [count for count, weight in zip(served, weights, strict=True) if weight == 1]
    heavy = [count for count, weight in zip(served, weights, strict=True) if weight != 1]
    return [
        Row(
            f"simulated: calls of an account of weight {HEAVY_WEIGHT} at {PERMITS:,} permits among {accounts:,}",
            "",
            statistics.mean(heavy),
            statistics.mean(light),
            "of weight 1",
            Bound("ratio", at_least=0.8 * HEAVY_WEIGHT, at_most=1.2 * HEAVY_WEIGHT),
            {"jain_of_weight_1": jain(light), "fewest": min(light), "most": max(light)},
        ),
        Row("simulated: fairness among those of weight 1 (Jain's index)", "", jain(light)),
        Row("simulated: accounts that were not served in ten minutes", "", sum(count == 0 for count in served)),
    ]


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[round(0.95 * (len(values) - 1))]
