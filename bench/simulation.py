"""Fairness and windows at 10,000 accounts: the rules of dispatch without servers, by a clock of its own.

Nothing here is measured: jobs are numbers, a claim takes the time that is given to it, and the same seed gives the same
figures on every machine. Turns at a limited provider are those of :mod:`jobs.dispatch.turns` itself; the places of a
window are counted as ``publishing.FILL`` counts them, where every job counts one
(``tests/integration/test_turns.py`` compares the two).
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.table import Bound, Row
from core.settings import Settings
from jobs.dispatch import turns
from jobs.dispatch.turns import Waiting

ACCOUNTS = 10_000
CLAIMS_PER_S = 100.0  # of the fleet: what two cores do (docs/benchmarks.md)
FLOOD = 100_000
BACKLOG = 50  # orders of each account where all are busy
NEWCOMERS = 200
PUBLISH_AT_CLAIM = 4
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
    _by_weight: float = 0.0  # messages, each by its account's weight

    def submit(self, account: int, jobs: int, weight: int = 1) -> None:
        """An account orders, one job after the other; each is published if there is a place for it."""
        one = self.accounts.setdefault(account, _Account(weight))
        for _ in range(jobs):
            if one.unpublished or self.places(account) < 1:
                one.unpublished += 1
            else:
                self._publish(account, 1)

    def claim(self) -> int | None:
        """The account whose job is claimed next, after which its next are published; None where nothing waits."""
        if not self.messages:
            return None
        account = self.messages.popleft()
        one = self.accounts[account]
        one.published -= 1
        self._by_weight -= 1 / one.weight
        room = max(0, min(self.places(account), one.unpublished, PUBLISH_AT_CLAIM))
        one.unpublished -= room
        self._publish(account, room)
        return account

    def places(self, account: int) -> int:
        """How many jobs of the account may be published now, from its window and what the two of all have left."""
        one = self.accounts[account]
        size = self.window * one.weight
        share = self._by_weight if len(self.messages) < 8 * self.window else 2 * self.window
        free = max(
            one.weight - one.published,
            min(size - one.published, (2 * size - one.weight * share - one.published) / 2),
        )
        return math.ceil(free - 0.01)

    def _publish(self, account: int, jobs: int) -> None:
        one = self.accounts[account]
        one.published += jobs
        self._by_weight += jobs / one.weight
        self.messages.extend([account] * jobs)
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


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a time at a provider with few permits: calls by account, and the waits of newcomers in seconds."""

    calls: Sequence[int]
    newcomers_s: Sequence[float]


def served_in_turns(
    weights: Sequence[int], *, permits: int, call_s: float, seconds: float, seed: int, newcomers: int = 0
) -> Served:
    """Who is served at a provider with ``permits``, while every account always has more orders.

    Newcomers order once each, evenly over the last three quarters of the time.
    """
    chance = random.Random(seed)
    waiting = [Waiting(f"{number:06d}", weight) for number, weight in enumerate(weights)]
    calls = Counter[str]()
    came: dict[str, float] = {}
    waits: list[float] = []
    ends: list[float] = []
    virtual = 0.0
    for step in range(round(seconds / REFILL_S)):
        now = step * REFILL_S
        while len(came) < newcomers * (now / seconds - 0.25) / 0.75:
            account_id = f"new {len(came)}"
            came[account_id] = now
            waiting.append(Waiting(account_id, 1, places=1))
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        if not (free := permits - len(ends)):
            continue
        for each in turns.admit(waiting, virtual):
            each.entering = False
        asked = turns.plan(waiting, free)
        virtual = turns.charge(waiting, [(each, 1.0) for each in asked for _ in range(asked[each])], virtual)
        calls.update(asked)
        for account_id, count in asked.items():
            for _ in range(count):
                heapq.heappush(ends, now + call_s * chance.uniform(0.5, 1.5))
            if account_id in came:
                waits.append(now - came[account_id])
        waiting = [each for each in waiting if each.account_id not in came or each.account_id not in asked]
    return Served([calls[f"{number:06d}"] for number in range(len(weights))], waits)


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
            # A window and what is published in its place while the order waits.
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
                # The two windows that all share and other newcomers may stand before it, too.
                Bound("ours", at_most=ideal_s + (2 * window + NEWCOMERS) / CLAIMS_PER_S),
                {"longest_queue": queue.longest},
            )
        )
    return rows


def _limited(accounts: int, seed: int) -> list[Row]:
    weights = [HEAVY_WEIGHT if number % HEAVY_EVERY == 0 else 1 for number in range(accounts)]
    served = served_in_turns(weights, permits=PERMITS, call_s=CALL_S, seconds=LIMITED_S, seed=seed, newcomers=NEWCOMERS)
    light = [count for count, weight in zip(served.calls, weights, strict=True) if weight == 1]
    heavy = [count for count, weight in zip(served.calls, weights, strict=True) if weight != 1]
    single = served_in_turns(
        [HEAVY_WEIGHT, *[1] * 9], permits=1, call_s=CALL_S, seconds=100 * LIMITED_S, seed=seed
    ).calls
    return [
        Row(
            f"simulated: calls of an account of weight {HEAVY_WEIGHT} at {PERMITS:,} permits among {accounts:,}",
            "",
            statistics.mean(heavy),
            statistics.mean(light),
            "of weight 1",
            Bound("ratio", at_least=0.9 * HEAVY_WEIGHT, at_most=1.1 * HEAVY_WEIGHT),
            {"jain_of_weight_1": jain(light), "fewest": min(light), "most": max(light)},
        ),
        Row(
            "simulated: the same at one permit among ten accounts",
            "",
            single[0],
            statistics.mean(single[1:]),
            "of weight 1",
            Bound("ratio", at_least=0.9 * HEAVY_WEIGHT, at_most=1.1 * HEAVY_WEIGHT),
        ),
        Row("simulated: fairness among those of weight 1 (Jain's index)", "", jain(light)),
        Row(
            "simulated: accounts that were not served in ten minutes",
            "",
            sum(count == 0 for count in served.calls),
            bound=Bound("ours", at_most=0),
        ),
        Row(
            "simulated: wait of a newcomer's one order for a permit there (p95)",
            "s",
            _p95(served.newcomers_s),
            sum(weights) * CALL_S / PERMITS,
            "s: one turn of each before it",
            Bound("ours", at_most=sum(weights) * CALL_S / PERMITS + REFILL_S),
            {"p50": statistics.median(served.newcomers_s)},
        ),
    ]


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[round(0.95 * (len(values) - 1))]
