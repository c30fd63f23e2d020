"""What each process notes of itself: its database pool, the servers it finds away, the disk below it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from core import outages
from core.metrics.families import Gauge
from core.version import VERSION

CONNECTIONS = Gauge(
    "darkroom_database_connections",
    "Connections of the pools by process, pool and state.",
    ("process", "pool", "state"),
)
CONNECTIONS_MOST = Gauge(
    "darkroom_database_connections_max", "Connections that the pools may have at most.", ("process", "pool")
)
AWAY = Gauge(
    "darkroom_server_away",
    "1 while a process finds the server (database, redis, broker) away.",
    ("process", "server"),
    mode="max",
)
# The least: where the disk is full, what other processes have last written down is from before.
DISK_FREE = Gauge("darkroom_disk_free_bytes", "Free space of the disk below DARKROOM_VAR.", mode="min")
DISK_SIZE = Gauge("darkroom_disk_size_bytes", "Size of the disk below DARKROOM_VAR.", mode="min")
PROCESSES = Gauge("darkroom_processes", "Processes that run, by kind and version.", ("process", "version"))

SERVERS = ("database", "redis", "broker")


def note_pool(process: str, name: str, engine: Engine) -> Callable[[], None]:
    """What notes the state of an engine's pool."""

    def note() -> None:
        pool = engine.pool
        if isinstance(pool, QueuePool):
            CONNECTIONS.of(process, name, "used").set(pool.checkedout())
            CONNECTIONS.of(process, name, "idle").set(pool.checkedin())
            CONNECTIONS_MOST.of(process, name).set(pool.size() + max(0, pool._max_overflow))

    return note


def note_process(process: str, var: Path) -> Callable[[], None]:
    """What notes that the process runs, which servers it finds away, and the disk."""

    def note() -> None:
        PROCESSES.of(process, VERSION).set(1)
        for server in SERVERS:
            AWAY.of(process, server).set(outages.of(server).is_away)
        disk = shutil.disk_usage(var)
        DISK_FREE.of().set(disk.free)
        DISK_SIZE.of().set(disk.total)

    return note
