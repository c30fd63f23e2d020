"""One hanging provider must not fill the pool, and a small pool must still work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from workers.bulkheads import Bulkheads, paid_slots

FREE = {"control", "polls"}


class Consumer:
    """The part of Celery's consumer that bulkheads use."""

    def __init__(self) -> None:
        self.consumed = {"openai", "chatgpt2api", *FREE}

    def call_soon(self, act: Callable[[str], None], queue: str) -> None:
        act(queue)

    def cancel_task_queue(self, queue: str) -> None:
        self.consumed.discard(queue)

    def add_task_queue(self, queue: str) -> None:
        self.consumed.add(queue)


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


def fill(bulkheads: Bulkheads, queue: str, count: int) -> list[str]:
    ids = [f"{queue}-{number}" for number in range(count)]
    for task_id in ids:
        bulkheads.received(task_id, queue)
    return ids


def test_only_a_provider_at_its_cap_is_paused_and_it_resumes_below_the_cap(consumer: Consumer) -> None:
    bulkheads = Bulkheads(provider_slots=10, paid_slots=100, consumer=consumer)
    ids = fill(bulkheads, "openai", 10)
    assert consumer.consumed == {"chatgpt2api", *FREE}
    bulkheads.ended(ids[0], "openai")
    assert "openai" not in consumer.consumed  # it reopens only with some free slots, so that it does not flap
    bulkheads.ended(ids[1], "openai")
    assert "openai" in consumer.consumed


def test_paid_calls_leave_slots_for_the_control_queue(consumer: Consumer) -> None:
    bulkheads = Bulkheads(provider_slots=10, paid_slots=12, consumer=consumer)
    ids = fill(bulkheads, "openai", 8) + fill(bulkheads, "chatgpt2api", 4)
    assert "chatgpt2api" not in consumer.consumed
    for queue in FREE:
        fill(bulkheads, queue, 1000)
    assert consumer.consumed >= FREE
    for task_id in ids:
        bulkheads.ended(task_id, task_id.rpartition("-")[0])
    assert consumer.consumed == {"openai", "chatgpt2api", *FREE}


def test_an_end_reported_twice_counts_once(consumer: Consumer) -> None:
    bulkheads = Bulkheads(provider_slots=2, paid_slots=10, consumer=consumer)
    first, _ = fill(bulkheads, "openai", 2)
    bulkheads.ended(first, "openai")
    bulkheads.ended(first, "openai")
    bulkheads.ended("unknown", "openai")
    bulkheads.received("another", "openai")
    assert "openai" not in consumer.consumed


def test_a_message_received_twice_counts_twice(consumer: Consumer) -> None:
    bulkheads = Bulkheads(provider_slots=10, paid_slots=100, consumer=consumer)
    for _ in range(2):
        bulkheads.received("job_1", "openai")
    bulkheads.received("job_1", "chatgpt2api")  # the fallback's provider, while the first call is being written off
    bulkheads.ended("job_1", "openai")
    assert bulkheads.busy() == 2
    bulkheads.ended("job_1", "chatgpt2api")
    bulkheads.ended("job_1", "openai")
    assert bulkheads.busy() == 0


@pytest.mark.parametrize(("pool", "wanted"), [(1000, 800), (400, 200), (300, 150), (100, 50), (10, 5)])
def test_a_small_pool_keeps_half_its_slots_for_control(pool: int, wanted: int) -> None:
    assert paid_slots(pool, 200) == wanted


def test_the_smallest_pool_runs_one_paid_call_at_a_time(consumer: Consumer) -> None:
    bulkheads = Bulkheads(provider_slots=200, paid_slots=paid_slots(1, 200), consumer=consumer)
    [task_id] = fill(bulkheads, "openai", 1)
    assert "openai" not in consumer.consumed
    bulkheads.ended(task_id, "openai")
    assert "openai" in consumer.consumed
