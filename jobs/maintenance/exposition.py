"""The answer to a scrape of a process that serves: what was counted, the fleet by PostgreSQL, and Redis."""

from __future__ import annotations

import redis

from core.db import Database, make_engine
from core.metrics.exposition import Cached, Exposition
from core.metrics.redis_readings import reader_of
from jobs.maintenance.fleet import Fleet

# A query that the server may take four seconds for is cut off after twice that, where no answer comes at all.
USE_TIMEOUT_S = 8.0


def exposition_of(database_url: str, client: redis.Redis, *, prepare: bool) -> Exposition:
    """Build it, with one database connection of its own, so that a full pool does not hide that it is full."""
    engine = make_engine(database_url, pool_size=1, max_overflow=0, application_name="metrics", prepare=prepare)
    fleet = Fleet(Database(engine, use_timeout_s=USE_TIMEOUT_S))
    return Exposition(Cached(fleet.metrics, instead=fleet.away), Cached(reader_of(client)))
