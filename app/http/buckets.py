"""Token buckets in this process, kept level with those of other processes through Redis.

Once a second a background thread adds to Redis what was spent here and takes off what was spent elsewhere: no request
waits for Redis, and while Redis is away each process counts alone. Between two such rounds a limit may be spent once in
every process. Limits of requests are about load and never about money: whatever they let through, the database admits
exactly.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from limits import RateLimitItem, parse

from core import outages

SYNC_S = 1.0
DROP_IDLE_AFTER_S = 10.0  # a bucket unused for so long is dropped once it would be full
MAX_BUCKETS = 50_000


@dataclass(frozen=True, slots=True)
class Rate:
    """``amount`` requests in ``window_s`` seconds; a bucket holds as many and refills evenly."""

    name: str
    amount: int
    window_s: int

    @classmethod
    def parse(cls, name: str, text: str, *, times: int = 1) -> Rate:
        """A rate from "600/minute" or "20 per 10 seconds", ``times`` as much. Raises ValueError."""
        item: RateLimitItem = parse(text)
        return cls(name, item.amount * times, item.get_expiry())

    @property
    def per_s(self) -> float:
        return self.amount / self.window_s


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands: ``left`` requests now, ``reset_s`` until the next one or, if any is left, all."""

    rate: Rate
    left: int
    reset_s: int
    allowed: bool = True


@dataclass(slots=True)
class _Bucket:
    rate: Rate
    tokens: float
    at: float
    spent: int = 0  # in this process, not yet added to Redis
    total: int | None = None  # spent by all processes when we last asked


class Buckets:
    """Token buckets by rate and account or address, synchronised with other processes through Redis."""

    def __init__(self, client: redis.Redis | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._dropped_at = -math.inf
        self._pid = 0  # of the process whose background thread runs

    def standing(self, rate: Rate, who: str) -> Standing:
        """Where ``who`` stands, counting nothing."""
        now = self._clock()
        with self._lock:
            bucket = self._buckets.get((rate.name, who))
            tokens = float(rate.amount)
            if bucket is not None:
                tokens = min(rate.amount, bucket.tokens + (now - bucket.at) * rate.per_s)
            return _standing(rate, tokens, allowed=tokens >= 1)

    def take(self, rate: Rate, who: str) -> Standing:
        """Count one request of ``who``, a key, an account or an address; never waits, never fails."""
        [standing] = self.take_all([(rate, who)])
        return standing

    def take_all(self, asked: Sequence[tuple[Rate, str]]) -> list[Standing]:
        """Count one request in each of these buckets if none is empty, else in none; never waits, never fails."""
        self._start()
        now = self._clock()
        with self._lock:
            buckets = [self._filled(rate, who, now) for rate, who in asked]
            together = all(bucket.tokens >= 1 for bucket in buckets)
            standings = []
            for bucket in buckets:
                allowed = bucket.tokens >= 1
                if together:
                    bucket.tokens -= 1
                    bucket.spent += 1
                standings.append(_standing(bucket.rate, bucket.tokens, allowed=allowed))
            return standings

    def _filled(self, rate: Rate, who: str, now: float) -> _Bucket:
        """The bucket as it is now. A rate that was changed meanwhile holds from here on."""
        bucket = self._buckets.get((rate.name, who))
        if bucket is None:
            bucket = _Bucket(rate, float(rate.amount), now)
            if len(self._buckets) >= MAX_BUCKETS and now - self._dropped_at >= SYNC_S:
                self._dropped_at = now
                self._drop_idle(now, unsent=True)
            # Addresses are chosen by those who call: beyond so many, no one's bucket makes room for theirs.
            if len(self._buckets) < MAX_BUCKETS:
                self._buckets[rate.name, who] = bucket
        bucket.tokens = min(rate.amount, bucket.tokens + (now - bucket.at) * rate.per_s)
        bucket.at, bucket.rate = now, rate
        return bucket

    def sync(self) -> None:
        """Add to Redis what was spent here, take off what was spent elsewhere. Raises redis.RedisError."""
        if self._client is None:
            return
        now = self._clock()
        with self._lock:
            self._drop_idle(now)
            sent = {key: (bucket, bucket.spent) for key, bucket in self._buckets.items()}
        if not sent:
            return
        pipeline = self._client.pipeline(transaction=False)
        for (rate_name, who), (bucket, spent) in sent.items():
            name = f"darkroom:rate:{rate_name}:{who}"
            pipeline.incrby(name, spent)
            pipeline.expire(name, 2 * bucket.rate.window_s)
        totals = pipeline.execute()[::2]
        with self._lock:
            for (bucket, spent), total in zip(sent.values(), totals, strict=True):
                _level(bucket, spent, int(total))

    def _drop_idle(self, now: float, *, unsent: bool = False) -> None:
        """Drop the buckets that are in Redis, were not used for a while and would be full again; ``unsent``: also those
        that are not in Redis, as while it is away."""
        for key, bucket in list(self._buckets.items()):
            full = bucket.tokens + (now - bucket.at) * bucket.rate.per_s >= bucket.rate.amount
            if now - bucket.at > DROP_IDLE_AFTER_S and full and (unsent or not bucket.spent):
                del self._buckets[key]

    def _start(self) -> None:
        """Have the background thread running in this very process."""
        # Thread.is_alive would cost a turn of the hub under gevent.
        if self._client is None or self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._keep_level, name="limits-sync", daemon=True).start()

    def _keep_level(self) -> None:
        try:
            pause_s = SYNC_S
            while True:
                time.sleep(pause_s)
                try:
                    self.sync()
                    outages.of("redis").back()
                    pause_s = SYNC_S
                except (redis.RedisError, OSError) as error:
                    outages.of("redis").away(error=type(error).__name__)
                    pause_s = min(pause_s * 2, 30.0)
        finally:
            self._pid = 0  # so that the next request starts another thread


def _level(bucket: _Bucket, spent: int, total: int) -> None:
    """Whatever grew beyond our own spending was spent by others. A smaller total means that Redis lost its keys."""
    bucket.spent -= spent
    if bucket.total is not None and total >= bucket.total + spent:
        bucket.tokens = max(0.0, bucket.tokens - (total - bucket.total - spent))
    bucket.total = total


def _standing(rate: Rate, tokens: float, *, allowed: bool) -> Standing:
    left = int(tokens)
    missing = 1 - tokens if left == 0 else rate.amount - tokens
    return Standing(rate, left, max(1, math.ceil(missing / rate.per_s)), allowed)
