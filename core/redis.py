"""Redis, which may be lost at any time: short time-outs, and nothing is stored only there.

``redis://``, ``rediss://`` (TLS; ``?ssl_ca_certs=`` names a private authority) and ``sentinel://``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

TIMEOUT_S = 1.0
SENTINEL = "sentinel://"
SENTINEL_PORT = 26379
MASTER = "mymaster"

RedisError = redis.RedisError


@dataclass(frozen=True, slots=True)
class Sentinels:
    """``sentinel://:password@host:26379;host2:26379/0?master=mymaster``; the password is the servers'."""

    nodes: tuple[tuple[str, int], ...]
    database: int
    master: str
    password: str | None = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> Sentinels:
        """Raises ValueError on a port or database that is no number."""
        rest, _, query = url.removeprefix(SENTINEL).partition("?")
        where, _, database = rest.partition("/")
        credentials, _, hosts = where.rpartition("@")
        nodes = [urlsplit(f"//{node.removeprefix(SENTINEL)}") for node in hosts.split(";")]
        return cls(
            nodes=tuple((node.hostname or "127.0.0.1", node.port or SENTINEL_PORT) for node in nodes),
            database=int(database or 0),
            master=parse_qs(query).get("master", [MASTER])[0],
            password=unquote(credentials.partition(":")[2]) or None,
        )


def make_client(url: str, *, timeout_s: float = TIMEOUT_S) -> redis.Redis:
    """A client whose every wait is bounded; it connects on first use. Raises ValueError for a bad Sentinel URL."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 5,
        # The library would try ten times by itself, each for a whole time-out.
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }
    if not url.startswith(SENTINEL):
        return redis.Redis.from_url(url, **options)
    known = Sentinels.from_url(url)
    asked = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    finder = Sentinel(list(known.nodes), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    client: redis.Redis = finder.master_for(  # type: ignore[no-untyped-call]
        known.master, db=known.database, password=known.password, **options
    )
    return client
