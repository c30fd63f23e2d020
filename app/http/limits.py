"""How often an account may ask.

Two means, one rule. Hot routes (submit, status, image) take from a token bucket in this process,
which tells Redis once a second what was spent here and learns what was spent elsewhere: no request
waits for Redis. All other routes go through Flask-Limiter, with Redis behind it and memory when
Redis is away. Limits are about load, never about money: what they let through during an outage is
still admitted exactly by the database.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from flask import Flask, Response, g
from flask_limiter import Limiter, RateLimitExceeded
from limits import RateLimitItem, parse
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts.keys import Caller
from app.http.errors import answer
from core.errors import ServiceError

log = structlog.get_logger(__name__)

SYNC_S = 1.0
RETAKE_S = 10.0  # a bucket unused this long is not worth asking about
MAX_BUCKETS = 50_000
REDIS_TIMEOUT_S = 0.5
READS_PER_SUBMIT = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """``amount`` requests in ``window_s`` seconds; a bucket holds as many and refills evenly."""

    name: str
    amount: int
    window_s: int

    @classmethod
    def parse(cls, name: str, text: str, *, times: int = 1) -> Rate:
        """From "600/minute" or "20 per 10 seconds". Raises ValueError."""
        item: RateLimitItem = parse(text)
        return cls(name, item.amount * times, item.get_expiry())

    @property
    def per_s(self) -> float:
        return self.amount / self.window_s

    def __str__(self) -> str:
        return f"{self.amount} per {self.window_s} second"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands: ``left`` requests now, ``reset_s`` until more (none left) or all are there."""

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
    spent: int = 0  # here, not yet told to Redis
    total: int | None = None  # spent by all processes when we last asked


class Buckets:
    """Token buckets by rate and account, kept level with other processes through Redis."""

    def __init__(self, client: redis.Redis | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._pid = 0  # of the process whose background thread runs

    def take(self, rate: Rate, who: str) -> Standing:
        """One request. Never waits, never fails."""
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
        """Tell what was spent here, take off what was spent elsewhere. Raises redis.RedisError."""
        if self._client is None:
            return
        now = self._clock()
        with self._lock:
            self._drop_idle(now)
            told = {key: (bucket, bucket.spent) for key, bucket in self._buckets.items()}
        if not told:
            return
        pipeline = self._client.pipeline(transaction=False)
        for (rate_name, who), (bucket, spent) in told.items():
            name = f"darkroom:rate:{rate_name}:{who}"
            pipeline.incrby(name, spent)
            pipeline.expire(name, 2 * bucket.rate.window_s)
        totals = pipeline.execute()[::2]
        with self._lock:
            for (bucket, spent), total in zip(told.values(), totals, strict=True):
                _level(bucket, spent, int(total))

    def _drop_idle(self, now: float) -> None:
        """Forget who has told everything and has not asked for a while and would be full again."""
        for key, bucket in list(self._buckets.items()):
            full = bucket.tokens + (now - bucket.at) * bucket.rate.per_s >= bucket.rate.amount
            if now - bucket.at > RETAKE_S and full and not bucket.spent:
                del self._buckets[key]

    def _start(self) -> None:
        """Have the background thread running in this very process."""
        # Asking the thread itself whether it lives costs, under gevent, a turn of the hub.
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
                    pause_s = SYNC_S
                except (redis.RedisError, OSError) as error:
                    log.warning("limits_sync_failed", error=type(error).__name__)
                    pause_s = min(pause_s * 2, 30.0)
        finally:
            self._pid = 0  # whatever ended it: the next request starts another


def _level(bucket: _Bucket, spent: int, total: int) -> None:
    """What grew beyond our own spending was spent by others. Redis may have forgotten: then start anew."""
    bucket.spent -= spent
    if bucket.total is not None and total >= bucket.total + spent:
        bucket.tokens = max(0.0, bucket.tokens - (total - bucket.total - spent))
    bucket.total = total


def _standing(rate: Rate, tokens: float, *, allowed: bool) -> Standing:
    left = int(tokens)
    missing = 1 - tokens if left == 0 else rate.amount - tokens
    return Standing(rate, left, max(1, math.ceil(missing / rate.per_s)), allowed)


class Limits:
    """All limits of the edge. Everything counts the account: more keys are not more requests."""

    def __init__(self, *, account: str, submit: str, client: redis.Redis | None, storage_uri: str) -> None:
        self.account = Rate.parse("account", account)
        self.hot: Mapping[str, Rate] = {
            "submit": Rate.parse("submit", submit),
            "read": Rate.parse("read", submit, times=READS_PER_SUBMIT),
        }
        self.buckets = Buckets(client)
        self._limiter = Limiter(
            lambda: str(g.caller.account_id),
            application_limits=[str(self.account)],
            in_memory_fallback=[str(self.account)],
            in_memory_fallback_enabled=True,
            storage_uri=storage_uri,
            storage_options=_storage_options(storage_uri),
            strategy="fixed-window",
            swallow_errors=True,
            key_prefix="darkroom",
        )

    def install(self, app: Flask) -> None:
        """After the guard, whose caller is what is counted."""
        self._limiter.init_app(app)
        # Its hooks are those just registered. At every request they would cost hot routes more than their bucket,
        # so that the guard calls them where they are wanted.
        self._count = app.before_request_funcs[None].pop()
        self._tell = app.after_request_funcs[None].pop()
        app.teardown_request_funcs[None][-1] = _where_wanted(app.teardown_request_funcs[None][-1])
        app.register_error_handler(RateLimitedError, _limited)
        app.register_error_handler(RateLimitExceeded, self._exceeded)

    def all(self) -> tuple[Rate, ...]:
        return (self.account, *self.hot.values())

    def charge(self, pace: str, caller: Caller) -> None:
        """Count a request. Raises RateLimitedError, and RateLimitExceeded where Flask-Limiter counts."""
        rate = self.hot.get(pace)
        if rate is None:
            g.for_limiter = True
            self._count()
            return
        standing = self.buckets.take(rate, caller.account_id)
        g.standing = standing
        if not standing.allowed:
            raise RateLimitedError(standing)

    def _exceeded(self, _error: RateLimitExceeded) -> Response:
        standing = self._standing() or Standing(self.account, 0, self.account.window_s, allowed=False)
        return _limited(RateLimitedError(standing))

    def mark(self, response: Response) -> None:
        """Tell the caller where they stand."""
        standing: Standing | None = g.get("standing")
        if standing is None and "for_limiter" in g:
            self._tell(response)
            standing = self._standing()
        if standing is not None:
            for name, value in standing.headers().items():
                response.headers.add(name, value)

    def _standing(self) -> Standing | None:
        """What Flask-Limiter has found for this request, if it was asked and its storage answers."""
        limit = self._limiter.current_limit
        if limit is None:
            return None
        try:
            left, resets_at_s = limit.remaining, limit.window.reset_time
        except (redis.RedisError, OSError):
            return None
        reset_s = max(1, math.ceil(resets_at_s - time.time()))
        return Standing(self.account, 0 if limit.breached else left, reset_s, allowed=not limit.breached)


def _where_wanted(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The teardown of requests that Flask-Limiter counts; there is none for others."""

    def hooked(*arguments: Any) -> Any:
        return hook(*arguments) if "for_limiter" in g else None

    return hooked


def _storage_options(uri: str) -> dict[str, Any]:
    """The client's own retries would make each request of an outage wait several times over."""
    if not uri.startswith("redis"):
        return {}
    return {
        "socket_timeout": REDIS_TIMEOUT_S,
        "socket_connect_timeout": REDIS_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }


def _limited(error: RateLimitedError) -> Response:
    g.standing = error.standing  # what the answer tells, see Limits.mark
    return answer(error.code, error.detail, {"Retry-After": str(error.standing.reset_s)}, **error.facts)
