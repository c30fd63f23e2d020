"""The service under attack, as its ``DARKROOM_VAR`` describes it: its address and its processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import requests

from core.db import Database, make_engine
from core.embedded.processes import Identity, identify
from core.redis import make_client

READY_TIMEOUT_S = 60.0


class NoTargetError(Exception):
    """There is no running service there that may be attacked; the message says why."""


@dataclass(frozen=True)
class Target:
    """One running ``darkroom up``. ``sandbox_url`` None: it uses other upstreams."""

    var: Path
    url: str
    sandbox_url: str | None
    database: Database = field(repr=False)
    redis_url: str = field(repr=False)

    def processes(self) -> dict[str, Identity]:
        """What runs now, by name. A number that another process has got meanwhile is left out."""
        found = {entry["name"]: Identity(entry["pid"], entry["born_ticks"]) for entry in _run_file(self.var)}
        return {name: one for name, one in found.items() if identify(one.pid) == one}

    def redis(self) -> redis.Redis:
        return make_client(self.redis_url, timeout_s=3.0)

    def ready(self) -> bool:
        with suppress(requests.RequestException):
            return session().get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def await_ready(self, within_s: float = READY_TIMEOUT_S) -> float | None:
        """Seconds until it answers that it is ready; None if it does not in time."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            if self.ready():
                return time.monotonic() - began
            time.sleep(0.2)
        return None

    def counts(self) -> Mapping[str, Any]:
        """What was sent to the sandbox, by provider; empty where there is another upstream."""
        if self.sandbox_url is None:
            return {}
        return dict(session().get(f"{self.sandbox_url}/control/counts", timeout=30).json())


def attach(var: Path) -> Target:
    """The service that runs from ``var``. Raises NoTargetError."""
    entries = {entry["name"]: entry["pid"] for entry in _run_file(var)}
    if "web" not in entries:
        raise NoTargetError(f"no `darkroom up` runs in {var}")
    environ = _environ(entries["web"])
    urls = json.loads((var / "run" / "urls.json").read_text())
    sandbox = environ.get("CHATGPT2API_BASE_URL", "").partition("/c2a")
    return Target(
        var=var,
        url=f"http://127.0.0.1:{environ['DARKROOM_PORT']}",
        sandbox_url=sandbox[0] if sandbox[1] and "sandbox" in entries else None,
        database=Database(make_engine(_psycopg(urls["database_url"]), pool_size=2, application_name="chaos")),
        redis_url=urls["redis_url"],
    )


def session() -> requests.Session:
    """A client that ignores this machine's proxy settings."""
    client = requests.Session()
    client.trust_env = False
    return client


def until(question: Callable[[], bool], within_s: float, every_s: float = 0.5) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if question():
            return True
        time.sleep(every_s)
    return False


def _run_file(var: Path) -> list[dict[str, Any]]:
    with suppress(OSError, ValueError):
        return list(json.loads((var / "run" / "processes.json").read_text()))
    return []


def _environ(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError as error:
        raise NoTargetError(f"process {pid} cannot be read: {error.strerror}") from error
    pairs = (part.partition("=") for part in os.fsdecode(raw).split("\0"))
    return {name: value for name, _, value in pairs}


def _psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
