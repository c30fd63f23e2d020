"""The spans of a job's life under each end it can have, with the workers' steps run here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_engine import Engine

from accounts.keys import Caller
from jobs import lifecycle, states
from sandbox.testing import Sandbox
from tests.span_memory import SpanMemory, remembered

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def memory() -> Iterator[SpanMemory]:
    with remembered() as found:
        yield found


def ordered(engine: Engine, account: Caller, memory: SpanMemory, prompt: str = "a fox") -> str:
    """Submit within a request of a caller's; return the job."""
    request = memory.recorder.request(CALLER, {})
    with request.active():
        job_id = engine.order(account, prompt).task.id
    request.end()
    return job_id


def test_a_refused_prompt_fails_its_call_and_its_run_and_settles_in_the_same_tree(
    engine: Engine, account: Caller, memory: SpanMemory
) -> None:
    job_id = ordered(engine, account, memory, "no [sandbox:refuse]")
    engine.drive()
    assert engine.job(job_id).status == "failed"
    assert {f"{each.context.trace_id:032x}" for each in memory.spans} == {TRACE}
    [call] = memory.named("generate_content chatgpt2api-gpt-image-2")
    assert (call.status.is_ok, (call.attributes or {})["error.type"]) == (False, "content_refused")
    [settled] = memory.named("jobs.settle")
    told = dict(settled.attributes or {})
    assert (told["darkroom.job.status"], told["darkroom.captured_microcredits"]) == ("failed", 0)
    assert memory.parents()["jobs.settle"] == "jobs.finish"


def test_a_retried_job_has_a_run_for_each_try(
    engine: Engine, account: Caller, memory: SpanMemory, sandbox: Sandbox
) -> None:
    sandbox.add_fault("429", provider="chatgpt2api", route="submit", count=1)
    job_id = ordered(engine, account, memory)
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    assert len(memory.named("jobs.run chatgpt2api")) == 2
    calls = memory.named("generate_content chatgpt2api-gpt-image-2")
    assert [(each.attributes or {})["darkroom.attempt"] for each in calls] == [1, 2]
    assert [each.status.is_ok for each in calls] == [False, True]
    assert len(memory.named("jobs.settle")) == 1


def test_a_cancel_in_the_queue_settles_in_the_jobs_tree(engine: Engine, account: Caller, memory: SpanMemory) -> None:
    job_id = ordered(engine, account, memory)
    with engine.database.transaction() as connection:
        lifecycle.cancel(connection, account.account_id, job_id)
    assert memory.parents()["jobs.settle"] == "jobs.submit"
    [settled] = memory.named("jobs.settle")
    assert (settled.attributes or {})["darkroom.job.code"] == "freed_in_queue"


def test_a_look_that_finds_nothing_is_no_span(
    engine: Engine, account: Caller, memory: SpanMemory, sandbox: Sandbox
) -> None:
    sandbox.settings(latency_s=60)
    job_id = ordered(engine, account, memory)
    engine.handle(states.run("chatgpt2api", job_id))
    before = len(memory.spans)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=job_id)
    engine.poll()
    assert engine.job(job_id).status == "waiting"
    assert len(memory.spans) == before


def test_an_order_outside_of_any_request_is_not_traced(engine: Engine, account: Caller, memory: SpanMemory) -> None:
    job_id = engine.order(account).task.id
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    assert engine.one("SELECT traceparent FROM orders WHERE job_id = :id", id=job_id) is None
    assert memory.spans == ()


def test_nothing_is_kept_with_a_job_while_tracing_is_off(engine: Engine, account: Caller) -> None:
    engine.drive()
    job_id = engine.order(account).task.id
    assert engine.one("SELECT traceparent FROM orders WHERE job_id = :id", id=job_id) is None
