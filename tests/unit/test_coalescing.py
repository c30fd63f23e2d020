"""Questions asked at the same time share a query, and none gets an answer older than its question."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from core.coalescing import Coalescing

WAIT_S = 10.0


class Database:
    """Answers ``key -> value`` when told to; remembers what each query asked."""

    def __init__(self) -> None:
        self.values = {"a": 1, "b": 1}
        self.asked: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.fault: BaseException | None = None

    def look(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(list(keys))
        found = {key: self.values[key] for key in keys if key in self.values}
        self.begun.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return found


def joined(coalescing: Coalescing[str, int], count: int) -> None:
    """Wait until so many stand in the open batch."""
    until = threading.Event()
    while coalescing._open is None or len(coalescing._open.keys) < count:
        until.wait(0.001)


def started(database: Database) -> None:
    assert database.begun.acquire(timeout=WAIT_S)


def test_a_single_question_is_a_query_of_its_own() -> None:
    database = Database()
    database.go_on.release(2)
    coalescing = Coalescing(database.look)

    assert (coalescing.ask("a"), coalescing.ask("nobody")) == (1, None)
    assert database.asked == [["a"], ["nobody"]]


def test_who_asks_during_a_query_shares_the_next_and_sees_what_was_written_meanwhile() -> None:
    database = Database()
    coalescing = Coalescing(database.look)
    with ThreadPoolExecutor(8) as threads:
        first: Future[int | None] = threads.submit(coalescing.ask, "a")
        started(database)
        database.values["a"] = 2
        late = [threads.submit(coalescing.ask, key) for key in ("a", "b", "a")]
        joined(coalescing, 3)
        database.go_on.release(2)

        assert first.result(WAIT_S) == 1
        assert [each.result(WAIT_S) for each in late] == [2, 1, 2]
    assert [len(keys) for keys in database.asked] == [1, 3]


def test_a_fault_reaches_the_whole_batch_and_no_one_after() -> None:
    database = Database()
    coalescing = Coalescing(database.look)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(coalescing.ask, "a")
        started(database)
        late = [threads.submit(coalescing.ask, "b") for _ in range(2)]
        joined(coalescing, 2)
        database.go_on.release()
        assert first.result(WAIT_S) == 1
        started(database)
        database.fault = ConnectionError("away")
        database.go_on.release()
        for each in late:
            with pytest.raises(ConnectionError):
                each.result(WAIT_S)
    database.go_on.release()
    assert coalescing.ask("b") == 1


def test_when_the_leader_is_killed_the_others_ask_again() -> None:
    class Killed(BaseException):
        pass

    database = Database()
    coalescing = Coalescing(database.look)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(coalescing.ask, "a")
        started(database)
        late = [threads.submit(coalescing.ask, "b") for _ in range(2)]
        joined(coalescing, 2)
        database.go_on.release()
        assert first.result(WAIT_S) == 1
        started(database)
        database.fault = Killed()
        database.go_on.release(3)
        outcomes = [each.exception(WAIT_S) or each.result(WAIT_S) for each in late]

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Killed", "int"]
