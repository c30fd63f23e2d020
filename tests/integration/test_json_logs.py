"""The whole service in ``json``: every line of every process is one object, and an outage is two of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from job_engine import root

from core.embedded import processes
from core.embedded.ports import free_ports
from core.embedded.redis import find_server
from providers.configured import PROVIDERS

_PORTS = ("", "_FLOWER", "_SANDBOX", "_POSTGRES", "_REDIS")


class Up:
    """``darkroom up`` with its two streams in files, as a service manager keeps them."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.var, self.out, self.err = folder / "var", folder / "out", folder / "err"
        providers = {name for known in PROVIDERS.values() for name in known.names()}
        environ = {name: value for name, value in os.environ.items() if name not in providers | {"DATABASE_URL"}}
        for kind, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True):
            environ[f"DARKROOM{kind}_PORT"] = str(port)
        self.url = f"http://127.0.0.1:{environ['DARKROOM_PORT']}"
        environ |= {"DARKROOM_VAR": str(self.var), "SANDBOX_LATENCY_S": "0.2", "PYTHONPATH": str(root()), **variables}
        environ.pop("REDIS_URL", None)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", "up"],
                cwd=folder,
                env=environ,
                stdout=out,
                stderr=err,
            )

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line of both streams as an object. Raises AssertionError for one that is none."""
        text = self.out.read_text() + self.err.read_text()
        found = []
        for line in text.splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                raise AssertionError(f"no JSON object: {line!r}") from None
            assert isinstance(document, dict)
            found.append(document)
        return found

    def of(self, event: str, process: str | None = None) -> list[dict[str, Any]]:
        said = [each for each in self.lines() if each.get("event") == event]
        return [each for each in said if process in (None, each.get("process"))]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def eventually(self, holds: Callable[[], object], within_s: float = 90.0) -> None:
        until = time.monotonic() + within_s
        while not holds():
            assert self.process.poll() is None, self.out.read_text()[-3000:] + self.err.read_text()[-3000:]
            assert time.monotonic() < until, self.out.read_text()[-6000:]
            time.sleep(0.1)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    service = Up(tmp_path, DARKROOM_LOG_FORMAT="json", DARKROOM_ACCESS_LOG="true")
    yield service
    if service.process.poll() is None:
        service.process.kill()
        service.process.wait()


def test_every_line_is_an_object_and_an_outage_is_one_line_a_change(up: Up) -> None:
    up.eventually(lambda: '"event": "ready"' in up.out.read_text())
    headers = {"Authorization": f"Bearer {(up.var / 'admin.key').read_text().strip()}", "X-Request-Id": "order-7"}
    order = {"prompt": "a fox in the log"}
    answer = requests.post(
        f"{up.url}/api/images/generate", json=order, headers={**headers, "Prefer": "wait=60"}, timeout=90
    )
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (200, "order-7")
    image = requests.get(answer.json()["images"][0]["url"], headers=headers, timeout=30)
    assert image.status_code == 200
    refused = requests.post(
        f"{up.url}/api/images/generate",
        json={"prompt": "no [sandbox:503]"},
        headers={**headers, "X-Request-Id": "order-8", "Prefer": "wait=3"},
        timeout=30,
    )
    assert refused.status_code in (200, 202)

    [redis] = processes.running_in(up.var / "redis", find_server().path.resolve().name)
    os.kill(redis.pid, signal.SIGKILL)  # `up` starts it again
    for name in ("worker", "flower", "web"):
        up.eventually(lambda name=name: up.of("broker_back", name))
    os.kill(int((up.var / "postgres" / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    up.eventually(lambda: up.of("database_back", "worker"))
    up.eventually(lambda: requests.get(up.url + "/readyz", timeout=30).status_code == 200)
    up.stop()

    lines = up.lines()
    assert {each.get("process") for each in lines} >= {"up", "web", "worker", "flower", "sandbox", "redis", "postgres"}
    assert all("timestamp" in each for each in lines)
    for name in ("worker", "flower", "web"):
        assert len(up.of("broker_away", name)) == 1
        [back] = up.of("broker_back", name)
        assert back["lasted_s"] > 0
    assert len(up.of("database_away", "worker")) == len(up.of("database_back", "worker")) == 1
    assert len(up.of("database_away", "web")) == len(up.of("database_back", "web")) <= 1
    assert up.of("uncaught_exception") == []
    assert [each for each in lines if each.get("logger") == "py.warnings" or "exception" in each] == []

    task = answer.json()
    [ended] = [each for each in up.of("job_succeeded") if each["job_id"] == task["id"]]
    known = {name: ended[name] for name in ("request_id", "provider", "model", "attempts", "images")}
    assert known == {
        "request_id": "order-7",
        "provider": task["provider"],
        "model": task["model"],
        "attempts": 1,
        "images": 1,
    }
    [captured] = re.findall(r'"captured_microcredits": ?(\d+)', answer.text)
    assert ended["credits"] * 1e6 == pytest.approx(int(captured))
    assert ended["seconds"] > 0
    failures = [each for each in up.of("call_failed") if each["request_id"] == "order-8"]
    assert failures
    assert {"job_id", "account_id", "provider", "attempt"} <= set(failures[0])

    requested = up.of("request", "web")
    [submitted] = [each for each in requested if (each["method"], each["request_id"]) == ("POST", "order-7")]
    assert (submitted["method"], submitted["route"], submitted["status"]) == ("POST", "/api/images/<operation>", 200)
    assert submitted["account_id"] == ended["account_id"]
    assert submitted["bytes"] == len(answer.content)
    assert submitted["ms"] > 0
    assert [each["bytes"] for each in requested if each["route"].endswith("/image")] == [len(image.content)]
    assert "signature=" not in up.out.read_text()
    assert not re.search(r"a fox in the log|dk_[0-9A-Za-z]+_[0-9A-Za-z-]{9}", up.out.read_text())


@pytest.mark.parametrize(
    "module", ["workers", "workers.flower", "gunicorn -c python:app.gunicorn_conf app.wsgi:app"], ids=lambda m: m[:14]
)
def test_a_process_that_cannot_start_says_so_in_one_object(module: str, tmp_path: Path) -> None:
    environ = {"PATH": os.defpath, "PYTHONPATH": str(root()), "DARKROOM_LOG_FORMAT": "json", "DARKROOM_PORT": "no"}
    refused = subprocess.run(
        [sys.executable, "-m", *module.split()],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode != 0
    [line] = (refused.stdout + refused.stderr).splitlines()
    assert "DARKROOM_PORT" in json.loads(line)["reason"]


def test_warnings_prints_and_crashes_are_objects_and_hide_secrets(tmp_path: Path) -> None:
    program = """
from core import logging
logging.configure(log_format="json")
import sys, threading, warnings
print("two\\nlines")
sys.stderr.write("unfinished sk-abcdefghijklmnop")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start(); thread.join()
raise RuntimeError("postgresql://me:hunter2@host/db")
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    said = [json.loads(line) for line in (ran.stdout + ran.stderr).splitlines()]
    assert [each["text"] for each in said if each["event"] == "output"] == [
        *("two", "lines"),
        "unfinished sk-[hidden]",
    ]
    crashes = [each["exception"] for each in said if each["event"] == "uncaught_exception"]
    assert ["ZeroDivisionError" in each or "RuntimeError" in each for each in crashes] == [True, True]
    assert any("old" in each["event"] for each in said)
    assert "hunter2" not in ran.stderr
