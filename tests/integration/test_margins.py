"""What an operator sees of costs: what the catalogue expects, what upstreams report, and what was sold."""

from __future__ import annotations

import pytest
from job_engine import SYNC_MODEL, Engine

from accounts.keys import Caller
from jobs.reads.margins import margins


def test_costs_are_shown_next_to_what_was_sold(engine: Engine, account: Caller) -> None:
    kept = engine.order(account, model=SYNC_MODEL, size="1024x1024", n=2).task.id
    refused = engine.order(account, "no [sandbox:refuse]", model=SYNC_MODEL, size="1024x1024").task.id
    engine.drive()
    with engine.database.autocommit() as connection:
        [line] = [each for each in margins(connection, days=1) if each.model == SYNC_MODEL]
    [call] = engine.calls(kept)
    assert (line.images, line.sold_microcredits) == (2, engine.job(kept).captured)
    assert line.expected_micro_usd == call.expected_cost > 0
    assert (line.reported_calls, line.reported_micro_usd) == (1, call.reported_cost)
    assert line.expected_of_reported_micro_usd == call.expected_cost
    assert engine.job(refused).captured == 0
    assert line.calls == 1, "a refusal that is not billed is no cost"


@pytest.mark.parametrize("days", [1, 30])
def test_what_is_older_is_left_out(engine: Engine, account: Caller, days: int) -> None:
    engine.order(account)
    engine.drive()
    engine.sql("UPDATE upstream_calls SET intended_at = intended_at - interval '2 days'")
    with engine.database.autocommit() as connection:
        assert bool(margins(connection, days=days)) == (days == 30)


def test_what_a_cancel_gave_back_was_not_sold(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account).task.id
    engine.drive()
    engine.sql("UPDATE jobs SET captured = 0, released = quoted WHERE id = :id", id=job_id)
    with engine.database.autocommit() as connection:
        [line] = margins(connection, days=1)
    assert (line.images, line.sold_microcredits) == (1, 0)
