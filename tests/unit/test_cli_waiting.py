"""What the command line says of a task that waits for something else than its turn."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.client.answers import read_task
from app.cli.client.watching import headline


def task(**changes: Any) -> Any:
    document = {"id": "job_1", "status": "queued", "queue_position": 0, "wait_estimate_s": {"p50": 1, "p90": 2}}
    return read_task({**document, **changes})


def test_a_task_behind_a_pause_says_paused_and_no_place() -> None:
    line = headline(task(waiting_for={"reason": "paused", "until": None}, wait_estimate_s=None))
    assert line == "queued, paused: an operator has paused the provider"


def test_a_reason_of_a_newer_server_is_shown_as_it_is() -> None:
    line = headline(task(waiting_for={"reason": "rate_limited", "until": "soon"}))
    assert "rate_limited: waiting for another try, at most until soon" in line


@pytest.mark.parametrize("waiting", [None, "paused", {}])
def test_without_a_reason_the_place_is_shown(waiting: Any) -> None:
    assert "next in the queue" in headline(task(waiting_for=waiting if waiting else None))
    assert "paused" not in headline(task(status="running", waiting_for={"reason": "paused"}))
