"""Putting a worker together from the environment, once per process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import redis
from sqlalchemy import text

from core.db import Database, make_engine
from core.ids import new_id
from core.redis import RedisError, make_client
from core.settings import Settings, load
from jobs.retention import Keeper
from jobs.workbench import Workbench
from providers import catalog, registry
from storage.local import LocalStore
from storage.media import Media
from workers.enqueue import Publisher


@cache
def settings() -> Settings:
    return load()


@cache
def publisher() -> Publisher:
    return Publisher(settings().broker_url, settings().redis_url)


@cache
def database() -> Database:
    return Database(make_engine(settings().database_url, pool_size=settings().db_pool_size, application_name="worker"))


@cache
def redis_client() -> redis.Redis:
    return make_client(settings().redis_url)


@cache
def workbench() -> Workbench:
    """This process's workbench; its owner id is new with every start."""
    values = settings()
    models = catalog.load()
    store = LocalStore(values.blobs_dir)
    return Workbench(
        owner=new_id("wkr"),
        database=database(),
        catalog=models,
        registry=registry.load(os.environ),
        media=Media(store, values.var / "staging", decoders=values.decoders),
        store=store,
        publish=publisher().publish,
        max_attempts=values.max_attempts,
        cancel_charge="none" if values.cancel_charge == "none" else "full",
        publish_window=values.publish_window,
    )


@cache
def keeper() -> Keeper:
    bench, values = workbench(), settings()
    return Keeper(
        owner=bench.owner,
        database=bench.database,
        media=bench.media,
        store=bench.store,
        keep_pictures_days=values.keep_pictures_days,
        keep_inputs_days=values.keep_inputs_days,
    )


def announce_credentials(bench: Workbench) -> None:
    """Make a row for every credential this worker can use; limits come from the environment."""
    with bench.database.transaction() as connection:
        for name in bench.registry.configured():
            for provider in bench.registry.of(name):
                connection.execute(
                    text(
                        "INSERT INTO credentials (id, provider, max_active) VALUES (:id, :provider, :max_active)"
                        " ON CONFLICT (id) DO UPDATE SET max_active = :max_active"
                    ),
                    {"id": provider.credential_id, "provider": name, "max_active": _max_active(name)},
                )


def _max_active(provider: str) -> int | None:
    """``OPENAI_MAX_ACTIVE=20``: most calls in flight for the whole fleet; left out, no limit."""
    value = os.environ.get(f"{provider.upper()}_MAX_ACTIVE", "").strip()
    return int(value) if value else None


def quietly(step: Callable[[], object]) -> None:
    """Do something that only saves work; Redis being away is no reason to stop."""
    with suppress(RedisError):
        step()
