"""The fleet's gauges and what is counted of jobs, against a run of the engine with real PostgreSQL and the sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_engine import Engine

from accounts.keys import Caller
from core.db import Database, make_engine
from core.metrics import snapshots
from core.metrics.families import kept
from jobs.maintenance import audit_check
from jobs.maintenance.fleet import Fleet

Values = dict[tuple[str, ...], float]


def gauges(database: Database) -> dict[str, Values]:
    """The fleet's gauges: by name and values of the labels."""
    return {
        metric.name: {tuple(each.labels.values()): each.value for each in metric.samples}
        for metric in Fleet(database).metrics()
    }


@pytest.fixture
def counted() -> Iterator[dict[str, float]]:
    """What has been counted since the test began, by sample and labels; filled when it is asked for."""
    before = _counts()
    yield before


def _counts() -> dict[str, float]:
    return {
        f"{name} {' '.join(value for _, value in labels)}".strip(): value
        for family in snapshots.taken(kept()).values()
        for (name, labels), value in family.samples.items()
    }


def since(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in _counts().items() if value != before.get(name, 0)}


def test_gauges_show_queue_flight_permits_and_holds(engine: Engine, account: Caller) -> None:
    engine.limit("chatgpt2api", max_active=3)
    engine.run(engine.order(account, "on [sandbox:never]").task.id)
    waits = engine.order(account, "later").task.id
    engine.sql("UPDATE jobs SET created_at = created_at - interval '1 hour' WHERE id = :id", id=waits)
    engine.sql("UPDATE jobs SET due_at = due_at - interval '1 minute' WHERE status = 'waiting'")
    shown = gauges(engine.database)
    assert shown["darkroom_fleet_query_success"] == {(): 1}
    assert shown["darkroom_jobs"] == {("chatgpt2api", "queued"): 1, ("chatgpt2api", "waiting"): 1}
    assert shown["darkroom_job_oldest_age_seconds"]["chatgpt2api", "queued"] >= 3600
    assert shown["darkroom_poll_lag_seconds"]["chatgpt2api",] > 50
    assert shown["darkroom_upstream_calls_open"] == {("chatgpt2api", "accepted"): 1}
    assert (set(shown["darkroom_permits_taken"].values()), set(shown["darkroom_permits_max"].values())) == ({1}, {3})
    held = engine.one("SELECT quoted FROM jobs WHERE money = 'held'")
    assert shown["darkroom_holds_open"] == {(): 1}
    assert shown["darkroom_held_credits"] == {(): held / 1_000_000}
    assert shown["darkroom_workers"][("silent",)] == 0


def test_a_database_that_is_away_is_said_and_costs_no_exception() -> None:
    nowhere = Database(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", pool_size=1))
    metrics = Fleet(nowhere).metrics()
    assert [(each.name, each.samples[0].value) for each in metrics] == [("darkroom_fleet_query_success", 0)]


def test_a_job_is_counted_on_its_whole_way(engine: Engine, account: Caller, counted: dict[str, float]) -> None:
    engine.order(account)
    engine.order(account, "no [sandbox:refuse]")
    engine.drive()
    seen = since(counted)
    assert seen["darkroom_jobs_submitted_total chatgpt2api generate"] == 2
    assert seen["darkroom_jobs_ended_total chatgpt2api succeeded"] == 1
    assert seen["darkroom_jobs_ended_total chatgpt2api failed content_refused"] == 1
    assert seen["darkroom_images_kept_total chatgpt2api"] == 1
    assert seen["darkroom_upstream_request_duration_seconds_count chatgpt2api submit"] == 2
    spent = {state: seen[f"darkroom_job_state_seconds_count {state}"] for state in ("queued", "running", "waiting")}
    assert spent == {"queued": 2, "running": 2, "waiting": 1}, "what was refused at once never waited"
    assert seen["darkroom_own_delay_seconds_count chatgpt2api"] == 1


def test_an_upstream_that_fails_is_counted_by_class(engine: Engine, account: Caller, counted: dict[str, float]) -> None:
    engine.run(engine.order(account, "busy [sandbox:429]").task.id)
    seen = since(counted)
    assert seen["darkroom_upstream_errors_total chatgpt2api submit not_run upstream_rate_limited"] == 1
    assert seen["darkroom_jobs_moved_back_total chatgpt2api retry upstream_rate_limited"] == 1


def test_the_audit_takes_turns_and_its_last_result_is_shown(engine: Engine, account: Caller) -> None:
    engine.order(account)
    asked = {"owner": "wkr_test", "every_s": 3600.0}
    assert audit_check.check_in_turn(engine.database, **asked) == []
    engine.sql("UPDATE balances SET spendable = spendable + 1")
    assert audit_check.check_in_turn(engine.database, **asked) is None, "another had its turn"
    assert not any(gauges(engine.database)["darkroom_audit_findings"].values())
    audit_check.check_now(engine.database)
    found = {name for (name,), value in gauges(engine.database)["darkroom_audit_findings"].items() if value}
    assert found == {"spendable_is_transferred_less_queued", "transfers_sum_to_zero"}
