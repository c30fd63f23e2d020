"""How long a step holds what it learned while the database is away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jobs.execution.finish import REMEMBER_S, TRIES_AT_LEAST, finish


@pytest.mark.parametrize(
    ("after_s", "tries", "gives_up"),
    [
        (REMEMBER_S + 1, 1, False),  # the first try hung on a dead connection: the image is not given up for that
        (REMEMBER_S + 1, TRIES_AT_LEAST, True),
        (REMEMBER_S - 1, 20, False),
    ],
)
def test_an_answer_is_given_up_after_a_time_and_several_tries(after_s: float, tries: int, *, gives_up: bool) -> None:
    state = SimpleNamespace(seconds_since_start=after_s, attempt_number=tries)
    assert finish.retry.stop(state) is gives_up  # type: ignore[attr-defined]
