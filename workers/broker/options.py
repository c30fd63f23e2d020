"""Connection options for each kind of broker, so that every wait has a time-out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from kombu import Connection

from core import outages
from core.redis import SENTINEL, Sentinels

REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://", SENTINEL)


def is_redis(url: str) -> bool:
    return url.startswith(REDIS_SCHEMES)


def address(url: str) -> str:
    """Return the URL in kombu's form, which needs explicit TLS verification and one URL per Sentinel."""
    if url.startswith("rediss://") and "ssl_cert_reqs" not in url:
        return f"{url}{'&' if urlsplit(url).query else '?'}ssl_cert_reqs=required"
    if url.startswith(SENTINEL):
        known = Sentinels.from_url(url)
        user = f":{quote(known.password, safe='')}@" if known.password else ""
        return ";".join(f"{SENTINEL}{user}{host}:{port}/{known.database}" for host, port in known.nodes)
    return url


def transport_options(url: str, *, timeout_s: float) -> dict[str, Any]:
    """Return kombu's transport options, with which a dead peer is noticed within seconds.

    Redis (with Sentinel) and RabbitMQ have different names for them. With kombu's defaults a half-open connection to
    Redis leaves a worker deaf forever (docs/reliability.md section 1).
    """
    if not is_redis(url):
        # A message counts as sent when the broker has confirmed it.
        return {"write_timeout": timeout_s, "confirm_publish": True}
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "visibility_timeout": 300,
        "unacked_restore_throttle": 1,
    }
    if url.startswith(SENTINEL):
        options["master_name"] = Sentinels.from_url(url).master
        options["sentinel_kwargs"] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return options


def connect(url: str, *, timeout_s: float) -> Connection:
    """Return a connection with a time-out on every wait; it connects on first use."""
    return Connection(
        address(url), transport_options=transport_options(url, timeout_s=timeout_s), connect_timeout=timeout_s
    )


def answers(url: str, *, timeout_s: float = 1.0) -> bool:
    """Return whether the broker answers on a new connection."""
    connection = connect(url, timeout_s=timeout_s)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=timeout_s)
    except Exception as error:  # noqa: BLE001 - each kind of broker has its own errors; all mean no answer
        outages.of("broker").away(error=type(error).__name__)
        return False
    finally:
        hang_up(connection)
    return True


def hang_up(connection: Connection) -> None:
    """Close a connection that may be broken, without talking to the server. Never raises."""
    with suppress(Exception):  # a broken connection needs no further close
        connection.collect()
