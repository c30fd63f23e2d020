"""The whole service, as `darkroom up` runs it: every process, real servers, the sandbox upstream."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin

import pytest
import requests

from app.cli.service.stack import Running, run_stack
from core.settings import Settings
from providers.configured import PROVIDERS

WAIT_S = 60.0
JWT_SECRET = "that the tests share with the service"
POLL_S = 0.1
AT_ONCE = 16

T = TypeVar("T")
R = TypeVar("R")
# Left out of the environment, or a developer's own keys would replace the sandbox's.
_OF_PROVIDERS = tuple(name for known in PROVIDERS.values() for name in known.names())


@dataclass
class Service:
    """A running service as its client and its operator see it."""

    running: Running
    http: requests.Session

    def url(self, path: str) -> str:
        """The whole address of a path; one that is whole already stays."""
        return urljoin(self.running.url, path)

    def submit(self, operation: str = "generate", **order: Any) -> dict[str, Any]:
        answer = self.http.post(self.url(f"/api/images/{operation}"), json=order, timeout=30)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def wait_for(self, operation: str, **order: Any) -> dict[str, Any]:
        """Submit, and wait in the same request."""
        answer = self.http.post(
            self.url(f"/api/images/{operation}"), json=order, headers={"Prefer": "wait=60"}, timeout=90
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def task(self, task_id: str, *, wait_s: int = 0) -> dict[str, Any]:
        """The task; with ``wait_s`` as soon as it has changed, or after that many seconds."""
        answer = self.http.get(self.url(f"/api/images/tasks/{task_id}"), params={"wait": wait_s}, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, task_id: str, within_s: float = WAIT_S) -> dict[str, Any]:
        return until(lambda: ended(self.task(task_id, wait_s=5)), within_s, f"{task_id} to end")

    def all_ended(self, task_ids: list[str], within_s: float = WAIT_S) -> list[dict[str, Any]]:
        until_at = time.monotonic() + within_s
        return [self.ended(task_id, max(0.1, until_at - time.monotonic())) for task_id in task_ids]

    def ledger(self, task_id: str) -> dict[str, int]:
        """The task's transfers by kind, in micro-credits."""
        answer = self.http.get(self.url("/api/quota/ledger?limit=100"), timeout=30).json()
        return {e["kind"]: e["amount_microcredits"] for e in answer["data"] if e["task_id"] == task_id}

    def counts(self) -> dict[str, Any]:
        return dict(requests.get(f"{self.running.sandbox_url}/control/counts", timeout=30).json())

    def sandbox(self, what: str, **wanted: Any) -> None:
        """Change the sandbox's settings, or set a fault (sandbox/README.md, "Control")."""
        ask = requests.put if what == "settings" else requests.post
        answer = ask(f"{self.running.sandbox_url}/control/{what}", json=wanted, timeout=30)
        assert answer.ok, answer.text

    def audit(self) -> dict[str, Any]:
        return dict(self.http.get(self.url("/api/admin/audit"), timeout=60).json())

    def kill(self, name: str) -> int:
        pid = self.running.processes()[name]
        os.kill(pid, signal.SIGKILL)
        return pid


def in_order(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do the same to every item, several at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))


def ended(task: dict[str, Any]) -> dict[str, Any] | None:
    return task if task["status"] in ("succeeded", "failed", "cancelled") else None


def until(question: Callable[[], Any], within_s: float, what: str) -> Any:
    """Ask until the answer is there; a deadline, not a sleep, ends the waiting."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(POLL_S)
    raise AssertionError(f"waited {within_s:.0f} s for {what}")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    var = tmp_path_factory.mktemp("service") / "var"
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DARKROOM_", "DATABASE_", "REDIS_", *_OF_PROVIDERS))
    }
    environ["SANDBOX_LATENCY_S"] = "0.3"
    # Answers that wait are kept alive soon, so that no test has to wait for it.
    hold = {"DARKROOM_HOLD_QUIET_S": 1, "DARKROOM_HOLD_BEAT_S": 0.5}
    tokens = {
        "DARKROOM_JWT_SECRET": JWT_SECRET,
        "DARKROOM_JWT_CREATE_ACCOUNTS": True,
        "DARKROOM_JWT_ACCOUNT_CREDITS": 100,
    }
    # Pages of other origins, and receivers of callbacks on this machine.
    others = {"DARKROOM_CORS_ORIGINS": "*", "DARKROOM_WEBHOOK_ALLOWED_HOSTS": "127.0.0.1"}
    settings = Settings(_env_file=None, DARKROOM_VAR=var, **hold, **tokens, **others)  # type: ignore[call-arg,arg-type]
    with run_stack(settings, environ=environ) as running:
        http = requests.Session()
        http.trust_env = False
        http.headers["Authorization"] = f"Bearer {running.admin_key_path.read_text().strip()}"
        yield Service(running, http)
