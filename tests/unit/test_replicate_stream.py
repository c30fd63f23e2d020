"""The stream of a prediction: what it tells, in which order, and where it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.stream import EventSource

from app.dialects.replicate.stream import Place, chunks
from app.dialects.watching import Watching
from app.http.waits import Waits
from core.errors import DatabaseAwayError
from jobs.errors import JobNotFoundError
from jobs.reads.tasks import Task
from tests.unit.app_doubles import done_task, make_image, make_task


class Script(Waits):
    """Tells one state of a job after the other: a task, an error that a read raises, or None for a silence."""

    def __init__(self, *states: Task | Exception | None) -> None:
        super().__init__(lambda _: {}, None)
        self.states = list(states)

    def until(
        self, find: Callable[[], Task], done: Callable[[Task], bool], *, account_id: str, timeout_s: float
    ) -> Task:
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state or find()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dialects.watching.PAUSE_S", 0.0)


def stream(first: Task, *states: Task | Exception | None, last_id: str | None = None) -> bytes:
    service: Any = SimpleNamespace(waits=Script(*states), task_reads=SimpleNamespace(task=lambda *_: first))
    watching = Watching(service, first)
    return b"".join(chunks(watching, None, lambda index: f"https://d.example/{index}", Place.of(last_id)))


def events(raw: bytes) -> list[tuple[str, str, str]]:
    """As the package replicate reads them."""
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=raw)
    found: Any = EventSource(Client(api_token="x"), response)
    return [(event.event.value, str(event.data), event.id) for event in found]


RUNNING = make_task(1, status="running", version=2, warnings=["n was left out"])
TWO = replace(done_task(1), warnings=["n was left out"], images=[make_image(0), make_image(1)], n=2)


def test_a_stream_tells_notes_progress_outputs_and_the_end() -> None:
    told = events(stream(RUNNING, None, replace(RUNNING, progress=0.25), replace(RUNNING, progress=0.252), TWO))
    assert told == [
        ("logs", "n was left out\n", "0.1.-"),
        ("logs", " 25%|##        | 25/100\n", "0.1.25"),
        ("output", "https://d.example/0", "1.1.25"),
        ("output", "https://d.example/1", "2.1.25"),
        ("done", "{}", "2.1.25"),
    ]


@pytest.mark.parametrize(
    ("last_id", "names"),
    [
        ("0.1.25", ["output", "output", "done"]),
        ("1.1.25", ["output", "done"]),
        ("2.1.25", ["done"]),
        ("0.0.-", ["logs", "output", "output", "done"]),
        ("not ours", ["logs", "output", "output", "done"]),
    ],
)
def test_a_client_that_comes_back_hears_the_rest(last_id: str, names: list[str]) -> None:
    assert [name for name, _, _ in events(stream(TWO, last_id=last_id))] == names


def test_a_silence_is_a_comment() -> None:
    raw = stream(RUNNING, None, None, TWO)
    assert raw.split(b"\n\n").count(b": ") == 2


def test_an_outage_does_not_end_a_stream() -> None:
    raw = stream(RUNNING, DatabaseAwayError("away"), TWO)
    assert b"event: done" in raw


def test_a_failure_is_an_error_and_an_end() -> None:
    raw = stream(make_task(1, status="failed", failure_code="upstream_failed", failure_detail="it broke"))
    assert b'event: error\ndata: {"detail":"it broke"}' in raw
    assert b'event: done\ndata: {"reason":"error"}' in raw
    with pytest.raises(RuntimeError, match="it broke"):
        events(raw)


def test_a_cancelled_job_says_why_it_is_done() -> None:
    assert events(stream(make_task(1, status="cancelled")))[-1][:2] == ("done", '{"reason":"canceled"}')


def test_a_job_that_is_deleted_ends_its_stream() -> None:
    assert b"done" not in stream(RUNNING, JobNotFoundError("gone"))


def test_a_text_of_several_lines_arrives_whole() -> None:
    told = events(stream(replace(done_task(1), images=[make_image(text="a fox\nin snow", mime="text/plain")])))
    assert told[0][:2] == ("output", "a fox\nin snow")
