"""Streams of events: positions, the horizon, one task's stream, and what a listener of an account is handed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from app_doubles import NOW, done_task, job_id, make_edge, make_image, make_task

from app.http import event_stream
from app.http.signing import Signer
from app.http.waits import Waits, Watch
from app.shapes.render import Renderer
from app.shapes.schemas.events import TaskEvent, TasksSnapshot
from app.streams import account_feed, account_stream, horizon, task_stream
from app.streams.account_feed import AccountFeed
from app.streams.account_stream import AccountStream, Start, start_of
from app.streams.horizon import Horizon
from app.streams.position import START, Position, read_position
from app.streams.task_stream import Reads, TaskStream
from core.errors import DatabaseAwayError
from jobs.errors import JobNotFoundError
from jobs.reads.events import Event, InFlight, Life, Progress
from jobs.reads.tasks import Task

RENDERER = Renderer(Signer({"k1": b"s" * 32}))
JOB = job_id(1)
MINE = {"Authorization": "Bearer dk_a_secret"}


def event(number: int, kind: str, account_id: str = "acct_a", **facts: Any) -> Event:
    image = make_image(facts["index"]) if "index" in facts else None
    return Event(number, account_id, JOB, kind, NOW, facts, image)  # type: ignore[arg-type]


def reported(value: float, version: int) -> Progress:
    return Progress("acct_a", JOB, value, NOW, version)


def parsed(chunks: Iterator[bytes] | list[bytes]) -> list[dict[str, str]]:
    """The fields of each record; comments and the opening are left out."""
    blocks = b"".join(chunks).decode().split("\n\n")
    found = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if "data: " in block]
    return [fields for fields in found if "event" in fields]


def names(records: list[dict[str, str]]) -> list[str]:
    return [record["event"] for record in records]


# ---------------------------------------------------------------- positions


@pytest.mark.parametrize("position", [START, Position(1), Position(7, 42), Position(2**63 - 1, 999_999)])
def test_a_position_is_read_as_it_was_written(position: Position) -> None:
    assert read_position(str(position)) == position


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 26, str(2**63 * 10**6), "٣"])
def test_text_that_is_no_position_is_none(text: str) -> None:
    assert read_position(text) is None


def test_positions_grow_with_events_and_with_progress_between_them() -> None:
    written = [int(str(each)) for each in (Position(4), Position(4, 2), Position(4, 2_000_000), Position(5))]
    assert written == sorted(set(written))


# ---------------------------------------------------------------- the horizon


def test_events_count_once_every_transaction_that_could_add_a_lower_one_has_ended() -> None:
    known = Horizon()
    assert known.note(10, InFlight(oldest=50, next=53)) == 0  # 50 is open, and may hold a lower id
    assert known.note(12, InFlight(oldest=52, next=60)) == 0
    assert known.note(12, InFlight(oldest=53, next=61)) == 10
    assert known.note(12, InFlight(oldest=61, next=61)) == 12
    assert not known.waits


def test_with_nothing_under_way_the_newest_event_counts_at_once() -> None:
    assert Horizon().note(10, InFlight(oldest=53, next=53)) == 10


def test_a_strangers_open_transaction_holds_the_streams_up_only_so_long() -> None:
    times = iter([0.0, 1.0, horizon.HELD_MOST_S + 0.5])
    known = Horizon(lambda: next(times))
    stuck = InFlight(oldest=1, next=53)
    assert [known.note(10, stuck), known.note(10, stuck), known.note(10, stuck)] == [0, 0, 10]


# ---------------------------------------------------------------- one task


class Job:
    """A job with its events, which a test lets happen."""

    def __init__(self, *events: Event) -> None:
        self.events = list(events)
        self.task: Task = make_task(status="running")
        self.progress: Progress | None = None
        self.version = 1
        self.whole = True
        self.away = 0
        self.gone = False
        self.asked: list[int] = []

    def life(self, wanted: tuple[str, str, int]) -> Life:
        self.asked.append(wanted[2])
        if self.gone:
            raise JobNotFoundError("no such task")
        if self.away:
            self.away -= 1
            raise DatabaseAwayError("away")
        last = self.events[-1].id if self.events else 0
        later = [each for each in self.events if each.id > wanted[2]]
        return Life(self.version, self.task.ended, self.progress, later, last, self.whole)

    def happen(self, *events: Event, task: Task | None = None, progress: Progress | None = None) -> None:
        self.events += events
        self.task = task or self.task
        self.progress = progress
        self.version += 1

    def stream(self, known: Position = START, waits: Waits | None = None) -> TaskStream:
        reads = Reads(self.life, lambda _account, _job: self.task)
        return TaskStream(reads, waits or Waits(self._versions, None, poll_s=0.01), RENDERER, "acct_a", JOB, known)

    def _versions(self, ids: Any) -> dict[str, tuple[int, bool]]:
        return dict.fromkeys(ids, (self.version, self.task.ended))


def ended() -> Job:
    job = Job(event(1, "queued"), event(2, "started"), event(3, "waiting"), event(4, "image", index=0))
    job.happen(event(5, "collecting"), event(6, "succeeded"), task=done_task())
    return job


def test_an_ended_task_is_told_from_its_beginning_and_closed() -> None:
    records = parsed(ended().stream().chunks())
    assert names(records) == ["task.queued", "task.started", "task.image", "task.succeeded"]
    assert [int(record["id"]) for record in records] == [1_000_000, 2_000_000, 4_000_000, 6_000_000]
    told = [TaskEvent.model_validate_json(record["data"]) for record in records]
    assert [each.status for each in told] == ["queued", "running", "running", "succeeded"]
    assert told[2].image is not None
    assert told[2].image.signed_url is not None
    assert told[3].task is not None
    assert [each.task for each in told[:3]] == [None] * 3


def test_a_client_that_comes_back_is_told_what_came_after() -> None:
    assert names(parsed(ended().stream(Position(2)).chunks())) == ["task.image", "task.succeeded"]


def test_a_client_that_has_had_the_end_is_over() -> None:
    job = ended()
    job.happen(event(7, "pictures_deleted"))
    known = job.stream(Position(6))
    assert known.over(known.read())
    early = job.stream(Position(5))
    assert not early.over(early.read())


def test_what_is_tried_again_is_queued_again_and_says_why() -> None:
    job = Job(event(1, "queued"), event(2, "started"), event(3, "retry", code="rate_limited"))
    job.happen(event(4, "failed", code="upstream_down"), task=replace(done_task(), status="failed"))
    records = [json.loads(each["data"]) for each in parsed(job.stream().chunks())]
    assert [(each["type"], each["code"]) for each in records[2:]] == [
        ("task.queued", "rate_limited"),
        ("task.failed", "upstream_down"),
    ]


def test_what_happens_between_the_first_reading_and_the_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last event comes while the stream is about to wait: the watch was there before, and has seen it."""
    monkeypatch.setattr(event_stream, "BEAT_S", 3600)  # nothing else would make the stream read again
    job = Job(event(1, "queued"))
    waits = Waits(job._versions, None, poll_s=3600)
    chunks = job.stream(waits=waits).chunks()
    assert next(chunks) == event_stream.opening()
    assert next(chunks).startswith(b"id: 1000000\n")
    job.happen(event(2, "succeeded"), task=done_task())
    waits.wake(JOB)  # before the generator is asked for more: it does not wait yet
    rest: list[bytes] = []
    reading = threading.Thread(target=lambda: rest.extend(chunks), daemon=True)
    reading.start()
    reading.join(10)
    assert names(parsed(rest)) == ["task.succeeded"]


def test_progress_is_told_once_and_grows_the_position() -> None:
    job = Job(event(1, "queued"), event(2, "started"))
    stream = job.stream()
    assert names(parsed(list(stream.records(stream.read())))) == ["task.queued", "task.started"]
    job.happen(progress=reported(0.25, 2))
    [half] = parsed(list(stream.records(stream.read())))
    assert (half["event"], half["id"], json.loads(half["data"])["progress"]) == ("task.progress", "2000002", 0.25)
    job.happen(progress=job.progress)  # a change of something else
    assert list(stream.records(stream.read())) == []
    job.happen(progress=reported(0.5, 4))
    [half] = parsed(list(stream.records(stream.read())))
    assert half["id"] == "2000004"


def test_progress_that_a_client_knew_is_not_told_again_when_it_comes_back() -> None:
    job = Job(event(1, "queued"), event(2, "started"))
    job.happen(progress=reported(0.25, 2))
    back = job.stream(Position(2, job.version))
    assert list(back.records(back.read())) == []
    job.happen(progress=reported(0.5, 3))
    assert [each["id"] for each in parsed(list(back.records(back.read())))] == ["2000003"]


@pytest.mark.parametrize("known", [START, Position(99)], ids=["the beginning is gone", "a position of the future"])
def test_a_task_whose_events_are_gone_is_told_as_it_is(known: Position) -> None:
    job = Job(event(7, "started"))
    job.whole = known.event > 7
    stream = job.stream(known)
    [snapshot] = parsed(list(stream.records(stream.read())))
    told = TaskEvent.model_validate_json(snapshot["data"])
    assert (snapshot["event"], told.status) == ("snapshot", "running")
    assert told.task is not None
    job.happen(event(8, "retry"))
    assert names(parsed(list(stream.records(stream.read())))) == ["task.queued"]
    job.happen(event(9, "succeeded"), task=done_task())
    assert names(parsed(list(stream.records(stream.read())))) == ["task.succeeded"]


def test_the_snapshot_of_an_ended_task_is_followed_by_its_end() -> None:
    job = Job()
    job.whole, job.task = False, done_task()
    assert names(parsed(job.stream().chunks())) == ["snapshot", "task.succeeded"]


def test_a_database_that_is_away_for_a_moment_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_stream, "AWAY_PAUSE_S", 0.001)
    job = ended()
    job.away = 2
    assert names(parsed(job.stream().chunks()))[-1] == "task.succeeded"


def test_a_silence_is_filled_and_a_stop_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "BEAT_S", 0.01)
    job = Job(event(1, "queued"))
    waits = Waits(job._versions, None, poll_s=3600)
    chunks = job.stream(waits=waits).chunks()
    assert [next(chunks) for _ in range(3)][2] == event_stream.comment()
    waits.stop()
    assert list(chunks) in ([], [event_stream.comment()])


def test_changes_that_callers_do_not_see_do_not_put_the_comment_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is looked at all the time wakes its stream more often than a comment is due."""
    now = [0.0]
    monkeypatch.setattr(task_stream.time, "monotonic", lambda: now[0])
    job = Job(event(1, "queued"))
    waits = Waits(job._versions, None, poll_s=3600)
    monkeypatch.setattr(waits, "_start", lambda: None)
    waited: list[float] = []

    def wait(_watch: object, timeout_s: float) -> bool:
        waited.append(timeout_s)
        now[0] += min(timeout_s, 10.0)
        return True  # woken, for nothing

    monkeypatch.setattr(Watch, "wait", wait)
    chunks = job.stream(waits=waits).chunks()
    assert [next(chunks) for _ in range(4)][2:] == [event_stream.comment()] * 2
    assert waited == [15.0, 5.0, 15.0, 5.0]


def test_a_stream_that_is_old_ends_and_a_deleted_row_too() -> None:
    job = Job(event(1, "queued"))
    old = job.stream()
    old.longest_s = -1
    assert names(parsed(old.chunks())) == ["task.queued"]
    job.gone = True
    assert parsed(job.stream().chunks()) == []


# ---------------------------------------------------------------- an account


class House:
    """The events of all accounts, which a test commits."""

    def __init__(self) -> None:
        self.events_: list[Event] = []
        self.flight = InFlight(1, 1)
        self.reported: list[Progress] = []
        self.away = False
        self.counter: Callable[[], int] = count().__next__

    def newest(self) -> int:
        if self.away:
            raise DatabaseAwayError("away")
        return max((each.id for each in self.events_), default=0)

    def in_flight(self) -> InFlight:
        return self.flight

    def events(self, account_ids: Any, after: int, last: int) -> list[Event]:
        self.counter()
        found = [each for each in self.events_ if each.account_id in account_ids and after < each.id <= last]
        return sorted(found, key=lambda each: each.id)

    def progress(self, account_ids: Any, since: Any, overlap: Any) -> list[Progress]:
        return [each for each in self.reported if each.account_id in account_ids]

    def tasks(self, wanted: Any) -> dict[tuple[str, str], Task]:
        return {pair: done_task() for pair in wanted}


class Feed(AccountFeed):
    """Ticks when a test says so."""

    def _start(self) -> None:
        pass

    def joined(self, account_id: str) -> account_feed.Listener:
        found: list[account_feed.Listener] = []
        thread = threading.Thread(target=lambda: found.append(self.join(account_id)))
        thread.start()
        while not self._joining and thread.is_alive():
            pass
        while thread.is_alive():
            self.tick()
            thread.join(0.005)
        return found[0]


def feed_of(house: House) -> Feed:
    return Feed(house, Waits(lambda ids: {}, None), lambda: RENDERER)


def heard(listener: account_feed.Listener) -> list[str]:
    return names(parsed([record for _, record in listener.taken()]))


def test_each_listener_hears_its_own_account_from_when_it_joined() -> None:
    house = House()
    feed = feed_of(house)
    house.events_ = [event(1, "queued")]
    one, two, other = feed.joined("acct_a"), feed.joined("acct_a"), feed.joined("acct_b")
    house.events_ += [event(2, "started"), event(3, "succeeded")]
    read = house.counter()
    feed.tick()
    assert house.counter() - read == 2  # one reading for all of them
    assert [heard(one), heard(two), heard(other)] == [["task.started", "task.succeeded"]] * 2 + [[]]


def test_an_event_that_commits_late_is_told_in_its_order() -> None:
    """Its id is lower than that of one which is there already: neither is told until both are certain."""
    house = House()
    feed = feed_of(house)
    listener = feed.joined("acct_a")
    house.events_, house.flight = [event(5, "started")], InFlight(oldest=70, next=72)
    feed.tick()
    assert heard(listener) == []
    house.events_ = [event(4, "queued"), event(5, "started")]
    house.flight = InFlight(oldest=72, next=72)
    feed.tick()
    assert heard(listener) == ["task.queued", "task.started"]


def test_progress_of_an_account_is_told_once() -> None:
    house = House()
    feed = feed_of(house)
    listener = feed.joined("acct_a")
    house.reported = [reported(0.5, 3)]
    feed.tick()
    feed.tick()
    assert heard(listener) == ["task.progress"]


def test_a_reading_that_fails_is_made_again() -> None:
    house = House()
    feed = feed_of(house)
    listener = feed.joined("acct_a")
    house.events_, house.away = [event(1, "queued")], True
    with pytest.raises(DatabaseAwayError):
        feed.tick()
    house.away = False
    feed.tick()
    assert heard(listener) == ["task.queued"]


def test_who_reads_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_feed, "MOST_QUEUED", 1)
    house = House()
    feed = feed_of(house)
    slow, quick = feed.joined("acct_a"), feed.joined("acct_a")
    for number in (1, 2):
        house.events_.append(event(number, "queued"))
        feed.tick()
        assert heard(quick) == ["task.queued"]
    assert (slow.cut, quick.cut) == (True, False)
    stream = AccountStream(house, RENDERER, slow, Start(Position(slow.since or 0)))
    assert names(parsed(stream.chunks())) == ["task.queued"]  # then it ends, and the client comes back for the rest


def test_without_a_database_no_one_can_begin_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_feed, "JOIN_S", 0.01)
    feed = feed_of(House())
    with pytest.raises(DatabaseAwayError):
        feed.join("acct_a")
    assert feed._joining == []


def test_a_client_that_comes_back_is_told_what_it_missed_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_stream, "PAGE", 2)
    house = House()
    feed = feed_of(house)
    house.events_ = [event(number, "queued") for number in range(1, 6)]
    listener = feed.joined("acct_a")
    house.events_.append(event(6, "started"))
    feed.tick()
    records = parsed(AccountStream(house, RENDERER, listener, Start(Position(2)), longest_s=-1).chunks())
    assert [record["id"] for record in records] == [f"{number}000000" for number in (3, 4, 5, 6)]


def test_who_is_cut_off_while_catching_up_is_told_nothing_behind_the_gap() -> None:
    house = House()
    feed = feed_of(house)
    house.events_ = [event(number, "queued") for number in range(1, 6)]
    listener = feed.joined("acct_a")
    house.events_.append(event(6, "started"))
    feed.tick()
    listener.end()
    assert parsed(AccountStream(house, RENDERER, listener, Start(Position(2))).chunks()) == []


def test_a_process_behind_the_one_before_tells_nothing_twice() -> None:
    house = House()
    feed = feed_of(house)
    listener = feed.joined("acct_a")
    house.events_ = [event(1, "queued"), event(2, "started")]
    feed.tick()
    listener.end()
    assert names(parsed(AccountStream(house, RENDERER, listener, Start(Position(1))).chunks())) == ["task.started"]


@pytest.mark.parametrize(
    ("known", "goes_on"),
    [(Position(50), True), (Position(9), True), (Position(8), False), (Position(101), False), (None, False)],
    ids=["kept", "just kept", "not kept any more", "never was", "no position"],
)
def test_where_a_stream_goes_on(known: Position | None, *, goes_on: bool) -> None:
    assert (start_of(known, since=100, newest=100, oldest=10) is not None) is goes_on


def test_too_far_back_is_a_snapshot() -> None:
    assert start_of(Position(1), since=account_stream.REPLAYED + 2, newest=10**9, oldest=1) is None
    listener = account_feed.Listener("acct_a", since=9)
    listener.end()
    live = tuple(make_task(number, status="queued") for number in range(1, account_stream.SNAPSHOT_TASKS + 2))
    [record] = parsed(AccountStream(House(), RENDERER, listener, Start(Position(9), live)).chunks())
    told = TasksSnapshot.model_validate_json(record["data"])
    assert (record["event"], record["id"], len(told.tasks), told.more) == ("snapshot", "9000000", 100, True)


# ---------------------------------------------------------------- over HTTP


def test_another_accounts_task_has_no_stream() -> None:
    edge = make_edge()
    edge.rows.lives[JOB] = Life(1, False, None, [], 0, True)
    edge.rows.add(make_task())
    theirs = edge.client.get(f"/api/images/tasks/{JOB}/events", headers={"Authorization": "Bearer dk_b_secret"})
    assert theirs.status_code == 404
    assert edge.client.get("/api/images/tasks/nonsense/events", headers=MINE).status_code == 404
    assert edge.client.get(f"/api/images/tasks/{JOB}/events?last_event_id=x", headers=MINE).status_code == 422
    assert edge.client.get("/api/images/events?last_event_id=1&x=2", headers=MINE).status_code == 422


def test_a_stream_over_http_ends_with_the_task_and_then_there_is_no_content() -> None:
    edge = make_edge()
    edge.rows.add(done_task())
    edge.rows.lives[JOB] = Life(5, True, None, [event(1, "queued"), event(2, "succeeded")], 2, True)
    whole = edge.client.get(f"/api/images/tasks/{JOB}/events", headers=MINE)
    assert (whole.status_code, whole.headers["X-Accel-Buffering"]) == (200, "no")
    assert names(parsed([whole.data])) == ["task.queued", "task.succeeded"]
    rest = edge.client.get(
        f"/api/images/tasks/{JOB}/events?last_event_id=0", headers=MINE | {"Last-Event-ID": "1000000"}
    )
    assert names(parsed([rest.data])) == ["task.succeeded"]
    none = edge.client.get(f"/api/images/tasks/{JOB}/events?last_event_id=2000000", headers=MINE)
    assert (none.status_code, none.data) == (204, b"")


def test_beyond_the_places_of_an_account_it_is_told_when_to_come_back() -> None:
    edge = make_edge(DARKROOM_MAX_WAITING_PER_ACCOUNT=1, DARKROOM_MAX_WAITING=2)
    edge.rows.add(make_task())
    edge.rows.lives[JOB] = Life(1, False, None, [event(1, "queued")], 1, True)
    path = f"/api/images/tasks/{JOB}/events"
    first = edge.client.get(path, headers=MINE, buffered=False)
    for asked in (path, "/api/images/events"):
        refused = edge.client.get(asked, headers=MINE)
        assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
        assert refused.headers["Retry-After"] == "5"
    assert edge.waits.places.take("acct_b")
    full = edge.client.get(path, headers=MINE)
    assert full.status_code == 429
    assert not edge.waits.places.take("acct_c")
    first.close()
    assert edge.waits.places.take("acct_a")
    edge.waits.places.give_back("acct_a")
    edge.waits.places.take("acct_c")
    full = edge.client.get(path, headers=MINE)
    assert (full.status_code, full.headers["Retry-After"]) == (503, "5")


def test_head_takes_no_place() -> None:
    edge = make_edge(DARKROOM_MAX_WAITING_PER_ACCOUNT=1)
    edge.rows.add(make_task())
    edge.rows.lives[JOB] = Life(1, False, None, [event(1, "queued")], 1, True)
    for path in (f"/api/images/tasks/{JOB}/events", "/api/images/events"):
        answer = edge.client.head(path, headers=MINE)
        assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, "text/event-stream")
    assert edge.waits.places.take("acct_a")


def test_a_process_about_to_end_sends_clients_to_another() -> None:
    edge = make_edge()
    edge.rows.add(make_task())
    edge.rows.lives[JOB] = Life(1, False, None, [event(1, "queued")], 1, True)
    edge.waits.stop()
    for path in (f"/api/images/tasks/{JOB}/events", "/api/images/events"):
        assert edge.client.get(path, headers=MINE).status_code == 503
