"""Redis, which may vanish at any time: short time-outs, no surprises, nothing kept only there."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 1.0


def make_client(url: str, *, timeout_s: float = TIMEOUT_S) -> redis.Redis:
    """A client whose every wait has an end; connecting happens on first use."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        health_check_interval=5,
        # The library would try ten times by itself, each for a whole time-out.
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


RedisError = redis.RedisError
