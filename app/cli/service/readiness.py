"""Whether the service on this machine is ready: each check says what is missing, or None."""

from __future__ import annotations

import http.client

from app.cli.service.programs import LOOPBACK
from core.db import Database, make_engine
from core.embedded import ports
from core.errors import DatabaseAwayError
from core.settings import Settings
from jobs.dispatch import heartbeats


def not_ready(settings: Settings) -> str | None:
    """Ask ``/readyz``; what is missing, or None."""
    connection = http.client.HTTPConnection(reachable(settings.host), settings.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        if answer.status != 200:
            return f"/readyz says {answer.status}: {answer.read(2000).decode('utf-8', 'replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"web does not answer: {error}"
    finally:
        connection.close()
    return None


def no_worker(settings: Settings) -> str | None:
    """Look for a worker's fresh heartbeat; what is missing, or None."""
    database = Database(
        make_engine(settings.database_url, pool_size=1, application_name="up", prepare=settings.db_prepare)
    )
    try:
        with database.autocommit() as connection:
            return None if heartbeats.any_alive(connection) else "no worker has a heartbeat"
    except DatabaseAwayError as error:
        return str(error)
    finally:
        database.dispose()


def no_flower(flower_port: int) -> str | None:
    """Try Flower's port; what is missing, or None."""
    return None if ports.answers(flower_port) else "Flower does not answer"


def reachable(host: str) -> str:
    """The address at which this machine reaches a server bound to ``host``."""
    return {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(host, host)  # noqa: S104


def api_url(settings: Settings) -> str:
    """Where programs on this machine reach the API."""
    host = reachable(settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def flower_path(settings: Settings) -> str:
    """The path below which Flower answers, with slashes around it; empty where it is the root."""
    return f"/{settings.flower_prefix}/" if settings.flower_prefix else ""
