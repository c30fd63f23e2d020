"""How to talk to each kind of broker so that every wait has an end."""

from __future__ import annotations

from typing import Any

REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://", "sentinel://")


def is_redis(url: str) -> bool:
    return url.startswith(REDIS_SCHEMES)


def transport_options(url: str, *, timeout_s: float) -> dict[str, Any]:
    """kombu's transport options: a peer that has silently gone is noticed within seconds.

    Redis (with Sentinel) and RabbitMQ name them differently. With the defaults a half-open
    connection to Redis leaves a worker deaf for ever (RELIABILITY 2.3).
    """
    if is_redis(url):
        return {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "visibility_timeout": 300,
            "unacked_restore_throttle": 1,
        }
    return {
        "write_timeout": timeout_s,
        # A message counts as sent when the broker has it, as quorum queues promise.
        "confirm_publish": True,
    }
