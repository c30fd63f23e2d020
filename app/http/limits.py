"""How often an account may call, and how often an address may try a key.

Each route takes from a token bucket in this process. Once a second a background thread adds to Redis what was spent
here and takes off what was spent elsewhere: no request waits for Redis, and while Redis is away each process counts
alone. Between two such rounds an account may spend its limit once in every process. Limits are about load and never
about money: whatever they let through, the database admits exactly.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import redis
from flask import Flask, Response, g
from limits import RateLimitItem, parse

from accounts.keys import Caller
from app.http.endpoint import Pace
from app.http.errors import answer
from app.serving.addresses import block_of
from core import outages
from core.errors import ServiceError

SYNC_S = 1.0
DROP_IDLE_AFTER_S = 10.0  # a bucket unused for so long is dropped once it would be full
MAX_BUCKETS = 50_000
READS_PER_SUBMIT = 10


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

    def headers(self) -> dict[str, str]:
        """RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10)."""
        name = self.rate.name
        return {
            "RateLimit-Policy": f'"{name}";q={self.rate.amount};w={self.rate.window_s};qu="requests"',
            "RateLimit": f'"{name}";r={self.left};t={self.reset_s}',
        }


class RateLimitedError(ServiceError):
    """The bucket is empty; ``standing`` says for how long."""

    code = "rate_limited"

    def __init__(self, standing: Standing) -> None:
        super().__init__(
            f"at most {standing.rate.amount} requests in {standing.rate.window_s} s; try again in {standing.reset_s} s",
            **{"violated-policies": [standing.rate.name]},
        )
        self.standing = standing


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
        """Count one request of ``who``, an account or an address; never waits, never fails."""
        self._start()
        now = self._clock()
        key = (rate.name, who)
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                if len(self._buckets) >= MAX_BUCKETS:
                    self._drop_idle(now)
                bucket = self._buckets[key] = _Bucket(rate, float(rate.amount), now)
            bucket.tokens = min(rate.amount, bucket.tokens + (now - bucket.at) * rate.per_s)
            bucket.at = now
            allowed = bucket.tokens >= 1
            if allowed:
                bucket.tokens -= 1
                bucket.spent += 1
            return _standing(rate, bucket.tokens, allowed=allowed)

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

    def _drop_idle(self, now: float) -> None:
        """Drop the buckets that are in Redis, were not used for a while and would be full again."""
        for key, bucket in list(self._buckets.items()):
            full = bucket.tokens + (now - bucket.at) * bucket.rate.per_s >= bucket.rate.amount
            if now - bucket.at > DROP_IDLE_AFTER_S and full and not bucket.spent:
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


class RateLimits:
    """All limits of the service. Requests count by account: more keys are not more requests. Wrong keys count by
    address."""

    def __init__(
        self,
        *,
        account: str,
        submit: str,
        enhance: str = "20/minute",
        wrong_keys: str = "30/minute",
        client: redis.Redis | None,
    ) -> None:
        """The limits are texts such as "600/minute". Raises ValueError for one that is none."""
        self._rates: Mapping[Pace, Rate] = {
            "account": Rate.parse("account", account),
            "submit": Rate.parse("submit", submit),
            "read": Rate.parse("read", submit, times=READS_PER_SUBMIT),
            "enhance": Rate.parse("enhance", enhance),
        }
        self._wrong_keys = Rate.parse("wrong-keys", wrong_keys)
        self.buckets = Buckets(client)

    def all(self) -> tuple[Rate, ...]:
        """Every limit, that of all other routes first."""
        return tuple(self._rates.values())

    def charge(self, pace: Pace, caller: Caller) -> None:
        """Count a request against its account. Raises RateLimitedError."""
        g.standing = standing = self.buckets.take(self._rates[pace], caller.account_id)
        if not standing.allowed:
            raise RateLimitedError(standing)

    def check_wrong_keys(self, address: str) -> None:
        """Raises RateLimitedError for an address that has sent too many wrong keys lately."""
        standing = self.buckets.standing(self._wrong_keys, block_of(address))
        if not standing.allowed:
            raise RateLimitedError(standing)

    def charge_wrong_key(self, address: str) -> None:
        """Count a wrong key against the address it came from."""
        self.buckets.take(self._wrong_keys, block_of(address))

    def mark(self, response: Response) -> None:
        """Add the headers that say where the caller stands, to the answer of a request that was counted."""
        standing: Standing | None = g.get("standing")
        if standing is not None:
            for name, value in standing.headers().items():
                response.headers.add(name, value)


def install(app: Flask) -> None:
    """Answer RateLimitedError with Retry-After."""
    app.register_error_handler(RateLimitedError, _limited)


def _limited(error: RateLimitedError) -> Response:
    return answer(error.code, error.detail, {"Retry-After": str(error.standing.reset_s)}, **error.facts)
