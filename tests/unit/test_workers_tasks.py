"""What Celery reports to Flower about a job's step: real messages, requests and tracing with a fake job engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.solo import TaskPool
from celery.worker import state
from celery.worker.request import create_request_cls
from kombu.message import Message
from kombu.utils.imports import symbol_by_name

from core.errors import DatabaseAwayError, DatabaseChangedError
from jobs.errors import JobFailedError, StaleJobError
from jobs.execution import give_up, run
from jobs.states import Ended, Nudge, Signal
from workers import drain, tasks, wiring
from workers.celery_app import app
from workers.flower.event_batches import BatchingDispatcher
from workers.flower.task_events import TaskEvents

JOB = "job_1"
WAKE = Nudge("wake", "", JOB)
OTHER = Ended("job_2", "cancelled")

Outcome = list[Signal] | Exception


@dataclass
class Stage:
    """Events and published signals, in order: ``("task-started", {...})``, ``("published", signals)``."""

    log: list[tuple[str, Any]] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    enabled: bool = True

    def send(self, kind: str, **fields: Any) -> None:
        self.log.append((kind, fields))

    def publish(self, news: list[Signal]) -> bool:
        if news:
            self.log.append(("published", list(news)))
        return True

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.log]

    def of(self, kind: str) -> Any:
        [found] = [what for logged, what in self.log if logged == kind]
        return found


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    stage = Stage()
    events = TaskEvents(lambda: None, node="worker@here", enabled=False)
    monkeypatch.setattr(wiring, "worker_context", lambda: stage)
    monkeypatch.setattr(wiring, "publisher", lambda: SimpleNamespace(events=events))
    monkeypatch.setattr(wiring, "redis_client", lambda: SimpleNamespace(delete=lambda _key: None))
    yield stage
    state.revoked.clear()


def outcome(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, what: Outcome) -> list[Any]:
    """Let a function of the job engine return or raise ``what``; the returned list gets its arguments."""
    called: list[Any] = []

    def fake(_context: object, argument: object) -> list[Signal]:
        called.append(argument)
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(module, name, fake, raising=False)
    return called


def deliver(stage: Stage, task: Any, argument: str = JOB, *, eventer: Any = None) -> None:
    """Handle a message as a worker does, in a pool that runs it at once."""
    pool, eventer = TaskPool(app=app), eventer or stage
    request = create_request_cls(symbol_by_name(task.Request), task, pool, "worker@here", eventer, app=app)
    headers = {
        "task": task.name,
        "id": argument,
        "argsrepr": f"('{argument}',)",
        "kwargsrepr": "{}",
        "ignore_result": True,
    }
    message = Message(
        body=json.dumps([[argument], {}, {}]),
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        delivery_info={"exchange": "", "routing_key": "openai"},
    )
    request(message, app=app, hostname="worker@here", eventer=eventer, task=task).execute_using_pool(pool)


def test_a_succeeded_job_is_reported_by_celery_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, tasks, "run_job", [Ended(JOB, "succeeded"), WAKE, OTHER])
    deliver(stage, tasks.run)
    assert stage.kinds() == ["task-started", "published", "task-succeeded"]
    assert stage.of("published") == [WAKE, OTHER]
    assert wiring.publisher().events.has_ended(JOB)


def test_a_job_that_goes_on_stays_started(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, tasks, "run_job", [WAKE])
    deliver(stage, tasks.run)
    assert stage.log[1:] == [("published", [WAKE])]


def test_a_cancelled_job_is_reported_by_our_sender(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, tasks, "run_job", [Ended(JOB, "cancelled"), WAKE])
    deliver(stage, tasks.run)
    assert stage.log[1:] == [("published", [Ended(JOB, "cancelled"), WAKE])]


def test_a_retried_job_is_reported_before_its_next_start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, tasks, "run_job", [Ended(JOB, "retried", code="rate_limited"), WAKE])
    deliver(stage, tasks.run)
    assert stage.kinds() == ["task-started", "task-retried", "published"]
    retried = stage.of("task-retried")
    assert (retried["exception"], retried["traceback"]) == ("rate_limited", "")
    assert stage.of("published") == [WAKE]


class Batching(BatchingDispatcher):
    """A dispatcher as in a worker: events are buffered until they are sent."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.enabled = stage, True

    def send(self, kind: str, **fields: Any) -> None:
        self.stage.send(kind, **fields)

    def send_now(self) -> None:
        self.stage.log.append(("sent", None))


def test_a_retry_is_sent_and_not_only_buffered_before_the_next_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(monkeypatch, tasks, "run_job", [Ended(JOB, "retried", code="rate_limited"), WAKE])
    deliver(stage, tasks.run, eventer=Batching(stage))
    assert stage.kinds() == ["task-started", "task-retried", "sent", "published"]


def test_no_retry_is_reported_after_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    wiring.publisher().events.reported_by_celery(JOB)
    outcome(monkeypatch, tasks, "run_job", [Ended(JOB, "retried", code="rate_limited"), WAKE])
    deliver(stage, tasks.run)
    assert stage.kinds() == ["task-started", "published"]


def test_a_failed_job_is_ended_by_the_hook_and_reported_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = JobFailedError(JOB, "content_refused", job=object(), learned=[lambda: None])  # cannot be pickled
    outcome(monkeypatch, tasks, "run_job", failure)
    ended = outcome(monkeypatch, give_up, "end_failed", [Ended(JOB, "failed", code="content_refused"), WAKE])
    deliver(stage, tasks.run)
    assert ended == [failure]
    assert stage.kinds() == ["task-started", "published", "task-failed"]
    assert stage.of("published") == [WAKE]
    failed = stage.of("task-failed")
    assert (failed["exception"], failed["traceback"]) == ("content_refused", "")


@pytest.mark.parametrize(
    "trouble", [DatabaseAwayError(""), DatabaseChangedError(""), StaleJobError(JOB), RuntimeError()]
)
def test_a_hook_that_could_not_end_the_job_reports_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    outcome(monkeypatch, tasks, "run_job", JobFailedError(JOB, "content_refused"))
    called = outcome(monkeypatch, give_up, "end_failed", trouble)
    deliver(stage, tasks.run)
    assert len(called) == 1  # an exception in the hook would make Celery call it again
    assert stage.kinds() == ["task-started"]
    outcome(monkeypatch, tasks, "run_job", JobFailedError(JOB, "content_refused"))
    outcome(monkeypatch, give_up, "end_failed", [Ended(JOB, "failed")])
    deliver(stage, tasks.run)  # the next start is reported
    assert stage.kinds()[1:] == ["task-started", "task-failed"]


def test_a_job_that_changed_before_the_hook_ran_is_not_reported_as_failed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(monkeypatch, tasks, "run_job", JobFailedError(JOB, "content_refused"))
    outcome(monkeypatch, give_up, "end_failed", [Ended(JOB, "cancelled"), WAKE])
    deliver(stage, tasks.run)
    assert stage.log[1:] == [("published", [Ended(JOB, "cancelled"), WAKE])]


def test_a_crashed_step_is_handled_in_the_task_body(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = run.CrashedStepError(JOB, 7)
    outcome(monkeypatch, tasks, "run_job", crash)
    handled = outcome(monkeypatch, give_up, "after_crash", [Ended(JOB, "retried", code="internal_error"), WAKE])
    deliver(stage, tasks.run)
    assert handled == [crash]
    assert stage.kinds() == ["task-started", "task-retried", "published"]


def test_a_crash_at_the_last_attempt_fails_the_job(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, tasks, "run_job", run.CrashedStepError(JOB, 7))
    outcome(monkeypatch, give_up, "after_crash", JobFailedError(JOB, "internal_error"))
    outcome(monkeypatch, give_up, "end_failed", [Ended(JOB, "failed", code="internal_error")])
    deliver(stage, tasks.run)
    assert stage.kinds() == ["task-started", "task-failed"]


@pytest.mark.parametrize(
    "trouble", [DatabaseAwayError(""), DatabaseChangedError(""), StaleJobError(JOB), KeyError("x")]
)
@pytest.mark.parametrize("where", ["run", "crashed"])
def test_an_error_that_is_not_the_jobs_reports_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, trouble: Exception, where: str
) -> None:
    outcome(monkeypatch, tasks, "run_job", trouble if where == "run" else run.CrashedStepError(JOB, 7))
    outcome(monkeypatch, give_up, "after_crash", trouble)
    deliver(stage, tasks.run)
    assert stage.kinds() == ["task-started"]


def test_a_step_interrupted_by_a_migration_runs_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Callable[[], list[Signal]]] = [_changed, lambda: [Ended(JOB, "succeeded")]]
    monkeypatch.setattr(tasks, "run_job", lambda _context, _job: answers.pop(0)())
    deliver(stage, tasks.run)
    assert stage.kinds() == ["task-started", "task-succeeded"]


def _changed() -> list[Signal]:
    raise DatabaseChangedError("")


def test_revoke_and_terminate_from_flower_stop_no_job(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    state.revoked.add(JOB)
    ran = outcome(monkeypatch, tasks, "run_job", [Ended(JOB, "succeeded")])
    deliver(stage, tasks.run)
    assert ran == [JOB]
    assert stage.kinds() == ["task-started", "task-succeeded"]
    tasks.run.Request.terminate(SimpleNamespace(id=JOB), TaskPool(app=app), "KILL")
    assert stage.kinds() == ["task-started", "task-succeeded"]


def test_a_draining_worker_hands_the_job_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = outcome(monkeypatch, tasks, "run_job", [])
    handed_back: list[list[str]] = []
    monkeypatch.setattr(drain, "draining", lambda: True)
    monkeypatch.setattr(tasks.publishing, "mark_unpublished", lambda _connection, jobs: handed_back.append(jobs))
    monkeypatch.setattr(stage, "database", SimpleNamespace(autocommit=_Nothing), raising=False)
    deliver(stage, tasks.run)
    assert (ran, handed_back, stage.kinds()) == ([], [[JOB]], ["task-started"])


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_polls_send_no_events_and_publish_all_signals(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Signal] = [Ended(JOB, "succeeded"), Ended("job_2", "failed"), WAKE]
    outcome(monkeypatch, tasks, "poll_provider", found)
    deliver(stage, tasks.poll, "openai")
    assert stage.log == [("published", found)]


def test_a_job_that_a_poll_finds_failed_is_ended_and_reported(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, tasks, "poll_provider", JobFailedError(JOB, "result_unavailable"))
    outcome(monkeypatch, give_up, "end_failed", [Ended(JOB, "failed"), WAKE])
    deliver(stage, tasks.poll, "openai")
    assert stage.log == [("published", [Ended(JOB, "failed"), WAKE])]
