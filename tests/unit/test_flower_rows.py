"""A small row shows what Celery's row shows, and Flower uses small rows when started by our command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery.events.state import State, Task

from app.cli.service.programs import service_programs
from core.settings import Settings
from jobs.states import Ended
from workers.flower.command import OPTIONS, arguments
from workers.flower.small_rows import Row
from workers.flower.task_events import fields

ROOT = Path(__file__).resolve().parents[2]
JOB = "job_1"
LIVES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "succeeded": [("task-succeeded", fields(Ended(JOB, "succeeded", runtime_s=2.5)))],
    "failed": [("task-failed", fields(Ended(JOB, "failed", code="content_refused")))],
    "cancelled": [("task-revoked", fields(Ended(JOB, "cancelled")))],
    "retried": [
        ("task-retried", fields(Ended(JOB, "retried", code="rate_limited"))),
        ("task-started", {"uuid": JOB}),
        ("task-succeeded", fields(Ended(JOB, "succeeded", runtime_s=None))),
    ],
    "late message": [("task-failed", fields(Ended(JOB, "failed", code="x"))), ("task-started", {"uuid": JOB})],
}


class SmallState(State):  # type: ignore[misc]
    Task = Row


@pytest.mark.parametrize("life", LIVES)
def test_a_small_row_shows_the_same_as_celerys(life: str) -> None:
    received = {
        "uuid": JOB,
        "name": "jobs.run",
        "args": f"('{JOB}',)",
        "kwargs": "{}",
        "root_id": JOB,
        "parent_id": None,
        "retries": 0,
        "eta": None,
        "expires": None,
    }
    large, small = State(), SmallState()
    said = [("task-received", received), ("task-started", {"uuid": JOB}), *LIVES[life]]
    for number, (kind, about) in enumerate(said, 1):
        for each in (large, small):
            each.event(
                {
                    "type": kind,
                    "hostname": "worker@here",
                    "timestamp": 1000.0 + number,
                    "local_received": 1000.5 + number,
                    "utcoffset": 0,
                    "pid": 1,
                    "clock": number,
                    **about,
                }
            )
        assert _shown(small.tasks[JOB]) == _shown(large.tasks[JOB])
        assert small.tasks[JOB].info() == large.tasks[JOB].info()
    assert isinstance(small.tasks[JOB], Row)
    assert len(vars(small.tasks[JOB])) < len(vars(large.tasks[JOB])) * 0.8


def _shown(task: Task) -> dict[str, Any]:
    return {**task.as_dict(), "worker": task.worker.hostname}


def test_flower_started_by_our_command_uses_small_rows() -> None:
    script = (
        "import celery.__main__, celery.bin.celery, importlib; importlib.import_module('workers.celery_app');"
        "from flower.events import EventsState; print(EventsState.Task.__module__)"
    )
    environ = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0"}
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "workers.flower.small_rows"


def flower_command(settings: Settings) -> list[str]:
    [flower] = [
        each for each in service_programs(settings, {}, flower_password="x", sandbox=False) if each.name == "flower"
    ]
    _python, _m, module, *given = flower.argv
    assert module == "workers.flower"
    return arguments(settings, given)


def test_every_way_to_start_flower_sets_the_same_limits() -> None:
    started = flower_command(Settings())
    assert set(OPTIONS) < set(started)
    assert "flower: python -m workers.flower" in (ROOT / "Procfile").read_text()
    assert "[python, -m, workers.flower, --address=0.0.0.0]" in (ROOT / "docker-compose.yml").read_text()


def test_an_option_that_is_given_replaces_ours() -> None:
    options = arguments(Settings(port=9000), ["--address=0.0.0.0"])
    assert [each for each in options if "address" in each or "port" in each] == ["--address=0.0.0.0", "--port=9001"]


def test_without_task_events_flower_does_not_enable_them() -> None:
    assert "--enable_events=false" in flower_command(Settings(task_events=False))
    assert "--enable_events=false" not in flower_command(Settings())
