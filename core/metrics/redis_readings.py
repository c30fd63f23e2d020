"""Redis for metrics: whether it answers, how quickly, and how full it is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import redis
from prometheus_client.core import Metric

from core.metrics.families import Reading

UP = Reading("darkroom_redis_up", "1 if Redis answered.")
ANSWER_SECONDS = Reading("darkroom_redis_answer_seconds", "How long Redis took to answer.")
MEMORY = Reading("darkroom_redis_memory_used_bytes", "Memory that Redis uses.")
MEMORY_MOST = Reading("darkroom_redis_memory_max_bytes", "Memory that Redis may use; 0 is all there is.")
CLIENTS = Reading("darkroom_redis_clients", "Connections to Redis.")


def reader_of(client: redis.Redis) -> _Reader:
    """What reads the gauges of a server; never raises."""
    return _Reader(client)


class _Reader:
    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def __call__(self) -> Iterable[Metric]:
        began = time.perf_counter()
        try:
            info: Any = self._client.info()
        except redis.RedisError:
            return [UP.metric(((), 0.0))]
        return [
            UP.metric(((), 1.0)),
            ANSWER_SECONDS.metric(((), time.perf_counter() - began)),
            MEMORY.metric(((), float(info.get("used_memory", 0)))),
            MEMORY_MOST.metric(((), float(info.get("maxmemory", 0)))),
            CLIENTS.metric(((), float(info.get("connected_clients", 0)))),
        ]
