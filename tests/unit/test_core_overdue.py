"""Uses of a connection that take too long are cut, and no others."""

from __future__ import annotations

import socket

from core.overdue import Overdue


def test_a_wait_that_is_overdue_ends_and_a_use_that_is_over_is_left_alone() -> None:
    overdue = Overdue(0.2)
    waiting, silent = socket.socketpair()
    idle, other = socket.socketpair()
    waiting.settimeout(60)
    with overdue.use(idle):
        pass
    with overdue.use(waiting):
        assert waiting.recv(1) == b""  # the end, which the other side never sent
    other.settimeout(60)
    idle.sendall(b"x")
    assert other.recv(1) == b"x"
    for each in (waiting, silent, idle, other):
        each.close()


def test_a_connection_that_was_closed_meanwhile_disturbs_nothing() -> None:
    overdue = Overdue(0.1)
    closed, _ = socket.socketpair()
    waiting, silent = socket.socketpair()
    waiting.settimeout(60)
    closed.close()
    with overdue.use(closed), overdue.use(waiting):
        assert waiting.recv(1) == b""
    silent.close()
