"""Orders that always fail next to healthy ones: the circuit must distinguish them from an outage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import structlog
from job_engine import SYNC_MODEL, Engine
from structlog.typing import EventDict

from accounts.keys import Caller
from jobs.dispatch import circuit, health, refill
from sandbox.testing import Sandbox

PROVIDER = "openai"


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def orders(engine: Engine, account: Caller, prompt: str, count: int) -> list[str]:
    return [
        engine.order(account, f"{prompt} {number}", model=SYNC_MODEL, size="1024x640").task.id
        for number in range(count)
    ]


TOLD = {"circuit_opened", "circuit_stays_open", "circuit_closed", "call_failed"}


def events(logs: Sequence[EventDict]) -> list[str]:
    """Return the log events of the circuit and the calls, in order."""
    return [entry["event"] for entry in logs if entry["event"] in TOLD]


def all_are(engine: Engine, ids: Sequence[str], status: str) -> bool:
    return {engine.job(job_id).status for job_id in ids} == {status}


def half_open(engine: Engine) -> None:
    """Let the open time of the circuit pass, so that the next call is its probe."""
    engine.sql(
        "INSERT INTO providers (name, trips, failures, open_until) VALUES (:p, 1, 5, clock_timestamp())"
        " ON CONFLICT (name) DO UPDATE SET trips = 1, failures = 5, open_until = clock_timestamp()",
        p=PROVIDER,
    )


def put_off(engine: Engine) -> None:
    engine.sql("UPDATE jobs SET published_at = NULL, due_at = clock_timestamp() + interval '20 s'")


def probes(engine: Engine) -> list[str]:
    with engine.database.autocommit() as connection:
        return [nudge.argument for nudge in refill.probes(connection)]


# ------------------------------------------------------------------ opening and closing


@pytest.mark.parametrize("fault", ["500", "503"])
def test_the_first_healthy_probe_closes_the_circuit_and_failing_orders_do_not_reopen_it(
    engine: Engine, account: Caller, logs: list[EventDict], fault: str
) -> None:
    poison = orders(engine, account, f"poison [sandbox:{fault}]", circuit.FAILURES_TO_OPEN)
    healthy = orders(engine, account, "healthy", 20)
    engine.drive(until=lambda: all_are(engine, healthy, "succeeded"))
    engine.drive(until=lambda: all_are(engine, poison, "failed"))

    seen = events(logs)
    # One try of each opens it, and no failing order is sent again before a healthy one has closed it.
    assert seen[: seen.index("circuit_closed")] == ["call_failed"] * len(poison) + ["circuit_opened"]
    assert (seen.count("circuit_opened"), seen.count("circuit_closed")) == (1, 1)
    assert seen.count("call_failed") >= 2 * len(poison)  # they were retried, and did not count again


def test_failing_orders_among_healthy_ones_do_not_open_the_circuit(
    engine: Engine, account: Caller, logs: list[EventDict]
) -> None:
    mixed = [
        job_id
        for number in range(6)
        for prompt in (f"poison [sandbox:500] {number}", f"healthy {number}")
        for job_id in orders(engine, account, prompt, 1)
    ]
    engine.drive()
    assert [engine.job(job_id).status for job_id in mixed] == ["failed", "succeeded"] * 6
    assert "circuit_opened" not in events(logs)


def test_an_outage_opens_the_circuit_and_its_end_closes_it(
    engine: Engine, account: Caller, sandbox: Sandbox, logs: list[EventDict]
) -> None:
    sandbox.add_fault("503", provider=PROVIDER, route="submit")
    ids = orders(engine, account, "healthy", 20)
    engine.drive(until=lambda: "circuit_opened" in events(logs))
    # Every further failure is that of a probe, by a job that was not tried before.
    engine.drive(until=lambda: events(logs).count("circuit_stays_open") == 3)
    opened = ["call_failed"] * circuit.FAILURES_TO_OPEN + ["circuit_opened"]
    assert events(logs) == opened + ["call_failed", "circuit_stays_open"] * 3
    assert [each["log_level"] for each in logs if each["event"].startswith("circuit")] == ["warning"] + ["debug"] * 3
    assert {engine.job(job_id).attempt for job_id in ids} == {0, 1}
    sandbox.clear_faults()
    engine.drive()
    assert all_are(engine, ids, "succeeded")
    assert events(logs)[-1] == "circuit_closed"
    assert [each["lasted_s"] > 0 for each in logs if each["event"] == "circuit_closed"] == [True]


# ------------------------------------------------------------------ which job is the probe


def test_only_the_newest_job_that_was_never_tried_is_published(engine: Engine, account: Caller) -> None:
    *_, older, newest = orders(engine, account, "fresh", 4)
    [tried] = orders(engine, account, "tried", 1)
    half_open(engine)
    put_off(engine)
    engine.sql("UPDATE jobs SET attempt = 1, due_at = clock_timestamp() WHERE id = :id", id=tried)
    assert probes(engine) == [newest]
    assert probes(engine) == []  # it is published already
    assert engine.one("SELECT due_at <= clock_timestamp() FROM jobs WHERE id = :id", id=newest)
    engine.sql("UPDATE jobs SET published_at = NULL")
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id", id=newest)
    assert probes(engine) == [older]


def test_if_all_jobs_were_tried_the_due_one_with_the_fewest_attempts_is_published(
    engine: Engine, account: Caller
) -> None:
    backing_off, few, many = orders(engine, account, "tried", 3)
    half_open(engine)
    engine.sql("UPDATE jobs SET published_at = NULL, attempt = 2")
    engine.sql("UPDATE jobs SET attempt = 1 WHERE id = :id", id=few)
    engine.sql(
        "UPDATE jobs SET attempt = 1, due_at = clock_timestamp() + interval '9 s' WHERE id = :id", id=backing_off
    )
    assert probes(engine) == [few]
    engine.run(many)
    assert engine.job(many).status == "queued"  # it is too early
    engine.run(few)
    assert engine.job(few).status == "succeeded"
    assert not half_open_still(engine)


def half_open_still(engine: Engine) -> bool:
    with engine.database.autocommit() as connection:
        return PROVIDER in health.half_open(connection)


def test_a_tried_job_is_no_probe_while_an_untried_one_waits(engine: Engine, account: Caller) -> None:
    tried, fresh = orders(engine, account, "one", 2)
    half_open(engine)
    engine.sql("UPDATE jobs SET attempt = 1 WHERE id = :id", id=tried)
    engine.run(tried)
    assert engine.job(tried).status == "queued"
    assert half_open_still(engine)
    engine.run(fresh)
    assert engine.job(fresh).status == "succeeded"
    assert not half_open_still(engine)


def test_a_half_open_provider_gets_one_message_and_a_paused_one_none(engine: Engine, account: Caller) -> None:
    ids = orders(engine, account, "fresh", 12)
    half_open(engine)
    engine.sql("UPDATE jobs SET published_at = NULL")
    engine.sql("UPDATE providers SET paused_at = clock_timestamp()")
    with engine.database.autocommit() as connection:
        assert refill.refill(connection, window=32, most=100) == []
    engine.sql("UPDATE providers SET paused_at = NULL")
    with engine.database.autocommit() as connection:
        assert [nudge.argument for nudge in refill.refill(connection, window=32, most=100)] == [ids[-1]]
