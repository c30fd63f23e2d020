"""One at a time for each key."""

from __future__ import annotations

import threading

import pytest

from core.turns import Turns


def test_the_second_of_a_key_waits_and_another_key_does_not() -> None:
    turns, order = Turns(60), []

    def second() -> None:
        with turns.turn("a"):
            order.append("second")

    with turns.turn("a"):
        thread = threading.Thread(target=second)
        thread.start()
        with turns.turn("b"):
            order.append("other")
        order.append("first")
    thread.join(60)
    assert order == ["other", "first", "second"]


def test_a_turn_that_does_not_come_is_a_timeout_and_leaves_nothing_behind() -> None:
    turns = Turns(0.01)
    with turns.turn("a"), pytest.raises(TimeoutError), turns.turn("a"):
        raise AssertionError("two at once")
    with turns.turn("a"):
        pass
    assert not turns._turns
