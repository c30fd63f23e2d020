"""Connections of one address, and clients that leave while their answer waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import gevent
import pytest
from app_doubles import make_task
from gevent import socket
from gevent.event import Event

from app.http import waits as waits_module
from app.http.waits import Waits
from app.serving import seats
from app.serving.seats import Seats
from jobs.reads.tasks import Task


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


def test_an_address_has_so_many_connections_without_those_that_wait() -> None:
    counted = Seats(1)
    with connected() as (ours, _):
        with counted.taken("a", ours):
            assert counted.full("a")
            assert not counted.full("b")
            with seats.current().waiting(lambda: None):
                assert not counted.full("a")
            assert counted.full("a")
        assert not counted.open
    assert not Seats(0).full("a")  # no limit


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n"], ids=["leaves", "sends the next request"])
def test_a_client_that_leaves_is_noticed_and_one_that_goes_on_is_not(sent: bytes) -> None:
    woken = Event()

    def wait(ours: socket.socket) -> bool:
        with Seats(1).taken("a", ours):
            seat = seats.current()
            with seat.waiting(woken.set):
                begun.set()
                woken.wait(0.05 if sent else 30)
            return seat.gone

    with connected() as (ours, theirs):
        begun = Event()
        waiting = gevent.spawn(wait, ours)
        begun.wait(30)
        if sent:
            theirs.sendall(sent)
        else:
            theirs.close()
        assert waiting.get(timeout=30) is (not sent)
        if sent:
            assert ours.recv(100) == sent  # looked at, and left where it was


def test_a_wait_whose_client_has_left_ends_and_a_loop_over_it_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(waits_module, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    task = make_task()
    waits = Waits(lambda ids: {}, None, poll_s=3600)
    monkeypatch.setattr(waits, "_start", lambda: None)
    with connected() as (ours, _), Seats(1).taken("a", ours):
        seats.current().gone = True  # type: ignore[misc]
        assert waits.until(lambda: task, lambda found: found.ended, account_id="a", timeout_s=30) is task
    assert pauses == [waits_module.EARLY_PAUSE_S]


def test_a_stop_ends_every_wait() -> None:
    task = make_task()
    found: list[Task] = []
    read = threading.Event()

    def find() -> Task:
        read.set()
        return task

    waits = Waits(lambda ids: {}, None, poll_s=3600)
    thread = threading.Thread(
        target=lambda: found.append(waits.until(find, lambda each: each.ended, account_id="a", timeout_s=3600))
    )
    thread.start()
    assert read.wait(30)
    waits.stop()
    thread.join(30)
    assert (found, waits.stopping) == ([task], True)


def test_a_loop_over_waits_does_not_spin_while_the_process_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(waits_module, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    waits = Waits(lambda ids: {}, None)
    monkeypatch.setattr(waits, "_start", lambda: None)
    waits.stop()
    assert not waits.until(make_task, lambda each: each.ended, account_id="a", timeout_s=30).ended
    assert pauses == [waits_module.EARLY_PAUSE_S]
