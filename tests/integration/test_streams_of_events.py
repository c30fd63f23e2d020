"""Streams of events over the real database: what happens to jobs, in the order in which it can be told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from job_engine import Engine
from sqlalchemy import text

from accounts.keys import Caller
from app.connections import Connections
from app.http.signing import Signer
from app.http.waits import Waits
from app.shapes.render import Renderer
from app.streams import account_feed
from app.streams.following import EventReads, Following
from app.streams.position import Position
from app.streams.task_stream import TaskStream
from app.task_reads import TaskReads
from jobs.call import KeptImage
from jobs.lifecycle import calls, park
from jobs.reads import tasks
from jobs.states import Outcome

RENDERER = Renderer(Signer({"k1": b"s" * 32}))
NEWEST = "SELECT coalesce(max(id), 0) FROM job_events"


def told(record: bytes) -> dict[str, Any]:
    fields = dict(line.split(": ", 1) for line in record.decode().splitlines() if ": " in line)
    return {**json.loads(fields["data"]), "position": fields["id"]}


def names(records: list[dict[str, Any]]) -> list[str]:
    return [record["type"] for record in records]


@pytest.fixture
def following(engine: Engine) -> Iterator[Following]:
    connections = Connections(engine.database)
    waits = Waits(lambda ids: connections.autocommit(tasks.versions, ids), None, poll_s=0.01)
    found = Following(connections, TaskReads(engine.database), waits)
    found.show_with(lambda: RENDERER)
    found._feed._poll_s = 0.01
    yield found
    found.stop()


def records_of(stream: TaskStream) -> list[dict[str, Any]]:
    return [told(record) for record in stream.records(stream.read())]


def test_a_job_of_several_images_from_its_order_to_its_end(
    engine: Engine, account: Caller, following: Following
) -> None:
    """An image that is kept while the rest is made is told at once, and can be fetched."""
    job_id = engine.order(account, "two [sandbox:never]", n=2).task.id
    stream = following.task(account.account_id, job_id, None)
    engine.step()
    assert names(records_of(stream)) == ["task.queued", "task.started"]
    with engine.database.hot() as hot:
        assert calls.note_progress(hot, {job_id: 0.5}) == [job_id]
    [half] = records_of(stream)
    assert (half["type"], half["progress"], half["status"]) == ("task.progress", 0.5, "running")

    kept = KeptImage(0, f"jobs/{job_id}/0/x.png", "image/png", 64, 64, 1, "ab" * 32)
    call = engine.calls(job_id)[0]
    row = calls.call_row(call.id, Outcome.KEPT, kept=1)
    with engine.database.transaction() as connection:
        park(connection, job_id, engine.job(job_id).version, check_after_s=1, calls=[row], images=[(call.id, kept)])
    [image] = records_of(stream)
    assert (image["type"], image["image"]["index"]) == ("task.image", 0)
    assert image["image"]["signed_url"]
    with engine.database.autocommit() as connection:
        assert tasks.find_image(connection, account.account_id, job_id, 0).key == kept.key

    with engine.database.transaction() as connection:
        connection.execute(text("UPDATE upstream_calls SET give_up_at = intended_at WHERE outcome = 'accepted'"))
    engine.drive()
    [end] = records_of(stream)
    assert (end["type"], end["task"]["status"], end["task"]["id"]) == ("task.succeeded", "succeeded", job_id)
    positions = [int(each["position"]) for each in (half, image, end)]
    assert positions == sorted(set(positions))
    assert names(records_of(following.task(account.account_id, job_id, Position(int(image["position"]) // 10**6)))) == [
        "task.succeeded"
    ]


def test_the_events_of_a_job_are_read_within_its_account_alone(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account).task.id
    reads = EventReads(Connections(engine.database))
    other = engine.account()
    found = reads._find_lives([(account.account_id, job_id, 0), (other.account_id, job_id, 0), ("a", "nonsense", 0)])
    assert list(found) == [(account.account_id, job_id, 0)]


def test_events_that_were_deleted_are_a_snapshot(engine: Engine, account: Caller, following: Following) -> None:
    job_id = engine.order(account).task.id
    engine.drive()
    engine.sql("DELETE FROM job_events WHERE job_id = :id", id=job_id)
    assert names(records_of(following.task(account.account_id, job_id, None))) == ["snapshot", "task.succeeded"]


# ---------------------------------------------------------------- all jobs of an account


class Ear:
    """A listener of an account, whose records a test reads one by one."""

    def __init__(self, following: Following, account: Caller, known: Position | None = None) -> None:
        self.listener = following.listen(account.account_id)
        self.chunks = following.account(self.listener, known, resumes=known is not None).chunks()

    def hear(self) -> dict[str, Any]:
        """The next record; waits for it."""
        return told(next(chunk for chunk in self.chunks if b"\ndata: " in chunk))


def test_all_jobs_of_an_account_and_no_other(engine: Engine, account: Caller, following: Following) -> None:
    engine.order(account, publish=False)  # before: not told
    ear = Ear(following, account)
    engine.order(engine.account(), publish=False)
    first, second = engine.order(account).task.id, engine.order(account, publish=False).task.id
    assert [(each["type"], each["id"]) for each in (ear.hear(), ear.hear())] == [
        ("task.queued", first),
        ("task.queued", second),
    ]
    engine.step()
    assert (ear.hear()["type"], engine.job(first).status) == ("task.started", "waiting")
    with engine.database.hot() as hot:
        calls.note_progress(hot, {first: 0.5})
    assert ear.hear()["progress"] == 0.5
    engine.drive(until=lambda: engine.job(first).finished_at is not None)
    assert (end := ear.hear())["type"] == "task.succeeded"
    assert end["task"]["images"][0]["signed_url"]


def test_an_event_committed_late_under_a_lower_id_is_not_lost(
    engine: Engine, account: Caller, following: Following
) -> None:
    """One transaction draws its id and stays open while another draws a higher one and commits."""
    first = engine.order(account, publish=False).task.id
    second = engine.order(account, publish=False).task.id
    ear = Ear(following, account)
    insert = text("INSERT INTO job_events (job_id, type) VALUES (:id, 'started') RETURNING id")
    with engine.database.engine.connect() as slow:
        low = slow.execute(insert, {"id": first}).scalar_one()
        with engine.database.transaction() as quick:
            high = quick.execute(insert, {"id": second}).scalar_one()
        assert low < high
        read = threading.Event()
        _after_reading(following, engine, high, read)
        assert read.wait(10)
        assert list(ear.listener.taken()) == []  # the higher one is there, and not certain yet
        slow.commit()
    assert [each["id"] for each in (ear.hear(), ear.hear())] == [first, second]


def _after_reading(following: Following, engine: Engine, newest: int, read: threading.Event) -> None:
    """Set ``read`` once the feed has seen an event and has finished that reading."""
    tick: Callable[[], None] = following._feed.tick

    def watched() -> None:
        tick()
        if any(bound.newest >= newest for bound in following._feed._horizon._bounds):
            read.set()

    following._feed.tick = watched  # type: ignore[method-assign]


def test_a_client_that_was_away_hears_what_it_missed_and_then_what_comes(
    engine: Engine, account: Caller, following: Following
) -> None:
    engine.order(account, publish=False)
    known = Position(engine.one(NEWEST))
    missed = engine.order(account).task.id
    ear = Ear(following, account, known)
    assert (record := ear.hear())["id"] == missed
    assert int(record["position"]) == engine.one(NEWEST) * 10**6
    engine.step()
    assert ear.hear()["type"] == "task.started"


@pytest.mark.parametrize("gone", ["before", "ahead"])
def test_a_position_that_cannot_be_told_from_is_a_snapshot(
    engine: Engine, account: Caller, following: Following, gone: str
) -> None:
    engine.order(account)
    engine.step()
    live = engine.order(account, publish=False).task.id
    newest = engine.one(NEWEST)
    if gone == "before":
        engine.sql("DELETE FROM job_events WHERE id < :id", id=newest)
    known = Position(newest - 2) if gone == "before" else Position(newest + 50)
    snapshot = Ear(following, account, known).hear()
    assert snapshot["type"] == "snapshot"
    newest_task, _other = snapshot["tasks"]
    assert (newest_task["id"], newest_task["status"]) == (live, "queued")


def test_hundreds_who_listen_and_wait_cost_a_few_queries(
    engine: Engine, account: Caller, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the feed is for all of them; each look of the waits too."""
    ears = [Ear(following, account) for _ in range(50)]
    asked: list[int] = []
    events = following._reads.events
    monkeypatch.setattr(
        following._reads, "events", lambda ids, after, last: (asked.append(last), events(ids, after, last))[1]
    )
    job_id = engine.order(account, publish=False).task.id
    assert {ear.hear()["id"] for ear in ears} == {job_id}
    assert len(asked) == 1
    assert account_feed.MOST_QUEUED > 50
