"""WaveSpeed after a lost answer: found where its history shows inputs, given up at once where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from job_engine import Engine

from accounts.keys import Caller
from sandbox.testing import Sandbox

QWEN = "qwen-image"


@pytest.fixture
def upstreams(sandbox: Sandbox) -> Iterator[dict[str, str]]:
    sandbox.settings(latency_s=0.0, prepared=True)
    yield {"WAVESPEED_BASE_URL": sandbox.wavespeed_url, "WAVESPEED_API_KEY": "wsk_test"}
    sandbox.settings(history_shows_input=False)


def order(engine: Engine, account: Caller, prompt: str) -> str:
    return engine.order(account, prompt, model=QWEN, publish=False).task.id


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["wavespeed"])


def test_a_lost_answer_is_found_where_the_history_shows_inputs(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    sandbox.settings(history_shows_input=True)
    job_id = order(engine, account, "a kite [sandbox:drop]")
    engine.run(job_id)
    [call] = engine.calls(job_id)
    assert (engine.job(job_id).status, call.outcome, call.upstream_id) == ("waiting", "uncertain", None)
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    assert (tally(sandbox)["submits"], tally(sandbox)["accepted"]) == (1, 1)
    engine.assert_books_balance()


def test_a_lost_answer_is_given_up_at_the_first_search_where_it_does_not(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = order(engine, account, "a kite [sandbox:drop]")
    engine.run(job_id)
    engine.poll("wavespeed")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, row.released) == ("failed", "upstream_uncertain", row.quoted)
    [call] = engine.calls(job_id)
    assert (call.outcome, call.written_off) == ("lost", True)
    assert (tally(sandbox)["submits"], tally(sandbox)["accepted"]) == (1, 1)
    engine.assert_books_balance()


def test_a_history_without_any_task_is_searched_again(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = order(engine, account, "a kite [sandbox:504]")
    engine.run(job_id)
    for _ in range(3):
        engine.poll("wavespeed")
    assert engine.job(job_id).status == "waiting"  # an empty list does not tell whether inputs are shown
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '120 seconds'")
    engine.poll("wavespeed")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, row.released) == ("failed", "upstream_uncertain", row.quoted)
    assert tally(sandbox)["submits"] == 1
    engine.assert_books_balance()


def test_an_accepted_task_that_the_upstream_lost_is_not_bought_again(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = order(engine, account, "a kite [sandbox:expire=0]")
    engine.run(job_id)
    engine.poll("wavespeed")
    assert engine.calls(job_id)[0].outcome == "accepted"  # one miss proves nothing
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '5 seconds'")
    engine.poll("wavespeed")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, row.released) == ("failed", "upstream_lost", row.quoted)
    assert tally(sandbox)["submits"] == 1
    engine.assert_books_balance()
