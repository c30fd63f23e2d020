"""The whole stack with fake programs: what starts, what survives, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from core.embedded import processes
from core.embedded.redis import find_server

ROOT = Path(__file__).resolve().parent.parent.parent

# Runs `up` with fake programs: web answers /readyz and keeps a grandchild, flower listens, worker sleeps.
FAKE_PROGRAMS = '''
import sys
from pathlib import Path
from types import SimpleNamespace
from app.cli.service import readiness, stack, up
from core.embedded.processes import Program
from core.settings import load

WEB = """
import http.server, os, sys, time
from core.embedded.launch import die_with_parent
master = os.getpid()
if os.fork() == 0:
    die_with_parent(master)
    time.sleep(1000)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *args): pass
print("web began", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

def programs(settings, environ, *, flower_password, sandbox):
    def python(name, code, *arguments):
        argv = [sys.executable, "-c", code, *map(str, arguments)]
        return Program(name=name, argv=argv, environ=environ, stage=3)
    return [
        python("web", WEB, settings.port),
        python("flower", WEB, settings.flower_port),
        python("worker", "import time; time.sleep(1000)"),
    ]

def prepare(settings):
    import psycopg
    with psycopg.connect(settings.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS starts (at timestamptz DEFAULT now())")
        connection.execute("INSERT INTO starts DEFAULT VALUES")
    path = settings.var / "admin.key"
    path.write_text(settings.database_url.replace("+psycopg", "") + " " + settings.redis_url)
    return SimpleNamespace(admin_key_path=path)

plan = stack.Plan(prepare, readiness.not_ready, programs, lambda environ: False)
sys.exit(up.run_up(load(), plan=plan))
'''


class Up:
    """An ``up`` in a separate process, with all its descendants."""

    def __init__(self, var: Path, base_port: int) -> None:
        self.var = var
        self.log = var.with_name(f"{var.name}-{base_port}.log")
        environ = {
            **os.environ,
            "DARKROOM_VAR": str(var),
            "DARKROOM_PORT": str(base_port),
            "PYTHONPATH": str(ROOT),
        }
        for name in ("DATABASE_URL", "REDIS_URL"):
            environ.pop(name, None)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", FAKE_PROGRAMS], stdout=output, stderr=output, env=environ, cwd=var.parent
            )

    def log_text(self) -> str:
        return self.log.read_text()

    def await_ready(self) -> None:
        eventually(lambda: "\nready\n" in self.log_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log_text()

    def pids(self) -> dict[str, int]:
        return {entry["name"]: entry["pid"] for entry in self.entries()}

    def entries(self) -> list[dict[str, Any]]:
        with suppress(OSError, ValueError):
            return list(json.loads((self.var / "run" / "processes.json").read_text()))
        return []

    def urls(self) -> list[str]:
        return (self.var / "admin.key").read_text().split()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start ``up`` processes, and end them after the test."""
    started: list[Up] = []

    def begin(name: str = "var", base_port: int | None = None) -> Up:
        one = Up(tmp_path / name, base_port or spare_ports())
        started.append(one)
        return one

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


def spare_ports() -> int:
    """Return the first of five free ports in a row."""
    from core.embedded import ports

    for port in ports.free_ports(20):
        if all(ports.why_not(port + above) is None for above in range(5)):
            return port
    raise AssertionError("no five free ports in a row")


def eventually(holds: Callable[[], object], timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def family(up: Up) -> list[int]:
    """Return every process of this ``up``, found by its variable or its data folder."""
    mark = f"DARKROOM_VAR={up.var}".encode()
    found = {one.pid for one in processes.running_in(up.var / "postgres" / "data", "postgres")}
    found |= {one.pid for one in processes.running_in(up.var / "redis", find_server().path.resolve().name)}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and processes.identify(int(entry.name)):
                found.add(int(entry.name))
    return sorted(found - {up.process.pid})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_and_the_data_survives(house, number):
    first = house()
    first.await_ready()
    assert len(family(first)) > 8
    first.process.send_signal(number)
    assert first.process.wait(30) == 0
    assert family(first) == []
    again = house(base_port=spare_ports())
    again.await_ready()
    with psycopg.connect(again.urls()[0]) as connection:
        assert connection.execute("SELECT count(*) FROM starts").fetchone() == (2,)


def test_nothing_outlives_a_killed_up_and_the_next_start_works(house):
    first = house()
    first.await_ready()
    first.process.kill()
    first.process.wait()
    eventually(lambda: family(first) == [])
    again = house(base_port=spare_ports())
    again.await_ready()


@pytest.mark.parametrize("name", ["web", "worker", "redis", "postgres"])
def test_a_killed_child_is_started_again_and_leaves_no_process_behind(house, name):
    one = house()
    one.await_ready()
    before, members = one.pids(), len(family(one))
    os.kill(before[name], signal.SIGKILL)
    eventually(lambda: one.pids().get(name) not in (None, before[name]))
    assert {k: v for k, v in one.pids().items() if k != name} == {k: v for k, v in before.items() if k != name}
    eventually(lambda: answers(one))
    eventually(lambda: len(family(one)) == members)
    assert "killed by SIGKILL; starting again in 0.5 s" in one.log_text()


def answers(one: Up) -> bool:
    database_url, redis_url = one.urls()
    with suppress(psycopg.OperationalError, redis.RedisError):
        psycopg.connect(database_url, connect_timeout=2).close()
        return bool(redis.Redis.from_url(redis_url, socket_timeout=2).ping())
    return False


def test_two_stacks_run_side_by_side_and_one_data_folder_has_one_stack(house):
    first, second = house("a"), house("b")
    first.await_ready()
    second.await_ready()
    intruder = house("a", spare_ports())
    assert intruder.process.wait(30) == 1
    assert f"is in use by process {first.process.pid}" in intruder.log_text()
    assert answers(first)
    assert answers(second)


def test_a_taken_port_names_the_variable_that_moves_it(house):
    first = house("a")
    first.await_ready()
    base = int(first.urls()[0].rpartition(":")[2].partition("/")[0]) - 3
    blocked = house("b", base - 2)  # Without a sandbox; its PostgreSQL port is the first one's Flower.
    assert blocked.process.wait(30) == 1
    assert "DARKROOM_POSTGRES_PORT" in blocked.log_text()


def test_leftover_processes_are_ended_but_not_others_with_the_same_pid(house, tmp_path):
    stranger = subprocess.Popen(["sleep", "1000"])
    leftover = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    known = processes.identify(leftover.pid)
    assert known is not None
    run = tmp_path / "var" / "run"
    run.mkdir(parents=True)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    common = {"boot_id": boot_id, "stop_signal": 15}
    run.joinpath("processes.json").write_text(
        json.dumps(
            [
                {"name": "old", "pid": leftover.pid, "born_ticks": known.born_ticks, **common},
                {"name": "other", "pid": stranger.pid, "born_ticks": 1, **common},
            ]
        )
    )
    try:
        one = house()
        assert leftover.wait(30) == -signal.SIGTERM
        one.await_ready()
        assert stranger.poll() is None
        assert "ended old" in one.log_text()
        assert "ended other" not in one.log_text()
    finally:
        stranger.kill()
        stranger.wait()
