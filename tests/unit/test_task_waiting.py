"""What a queued task that was tried says of its wait: why, and by when it has been tried again or has failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.reads.tasks import Waiting, waiting_of

BEGAN = datetime(2026, 11, 20, 12, tzinfo=UTC)
RETRY, DEADLINE = BEGAN + timedelta(minutes=5), BEGAN + timedelta(hours=20)


@pytest.mark.parametrize("code", ["upstream_rate_limited", "upstream_pool_empty", "upstream_overloaded"])
def test_a_wait_for_an_upstream_that_asks_to_come_later_ends_with_its_bound(code: str) -> None:
    waiting = Waiting(code, RETRY, BEGAN, DEADLINE)
    assert waiting.until(3600) == BEGAN + timedelta(hours=1)
    assert waiting.until(60) == RETRY  # the bound was lowered: the try that is set still comes


def test_any_other_wait_ends_with_the_jobs_deadline() -> None:
    assert Waiting("upstream_failed", RETRY, BEGAN, DEADLINE).until(3600) == DEADLINE


def test_a_task_without_a_code_or_a_time_waits_for_nothing() -> None:
    row: dict[str, Any] = {
        "waiting_code": "upstream_failed",
        "due_at": RETRY.isoformat(),
        "started_at": BEGAN.isoformat(),
        "deadline_at": DEADLINE.isoformat(),
    }
    assert waiting_of(row) == Waiting("upstream_failed", RETRY, BEGAN, DEADLINE)
    for name in row:
        assert waiting_of({**row, name: None}) is None
