"""The answer to a scrape of a process that serves: what was counted, the fleet by PostgreSQL, and Redis."""

from __future__ import annotations

import redis

from core.db import Database, make_engine
from core.metrics.exposition import Cached, Exposition
from core.metrics.redis_readings import reader_of
from jobs.maintenance.fleet import Fleet


def exposition_of(database_url: str, client: redis.Redis, *, prepare: bool) -> Exposition:
    """Build it, with one database connection of its own, so that a full pool does not hide that it is full."""
    engine = make_engine(database_url, pool_size=1, max_overflow=0, application_name="metrics", prepare=prepare)
    return Exposition(Cached(Fleet(Database(engine)).metrics), Cached(reader_of(client)))
