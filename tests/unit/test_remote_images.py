"""Images by URL: accounts in turns, one account's slow servers delay no other, and nothing of our network shows."""

from __future__ import annotations

import threading
import time

import pytest

from core.outbound.untrusted import Policy, fetch
from core.outbound.urls import UnsafeUrlError
from jobs.errors import FieldFault
from jobs.submission.remote_images import RemoteImages
from storage.base import MediaBusyError


def test_bytes_and_faults_come_in_the_order_of_the_urls() -> None:
    def fetch_one(url: str) -> bytes:
        if "late" in url:
            raise UnsafeUrlError("url_too_slow")
        return url.encode()

    found = RemoteImages(fetch_one).fetch_all("acc", [("a", "x"), ("b", "late"), ("c", "y")])
    assert found == [b"x", FieldFault("b", "url_too_slow", "did not arrive within 10 s"), b"y"]


def test_an_account_with_slow_servers_delays_no_other() -> None:
    released, at_work = threading.Event(), threading.Semaphore(0)

    def fetch_one(url: str) -> bytes:
        if url == "slow":
            at_work.release()
            assert released.wait(60)
        return url.encode()

    images = RemoteImages(fetch_one, at_once=6, per_account=4)
    slow = threading.Thread(target=images.fetch_all, args=("greedy", [("i", "slow")] * 12))
    found: list[bytes | FieldFault] = []

    def fetch_quick() -> None:
        for _ in range(5):  # a place that an account could take from another is gone by the second time
            found.extend(images.fetch_all("other", [("i", "quick")] * 3))

    quick = threading.Thread(target=fetch_quick)
    slow.start()
    try:
        assert all(at_work.acquire(timeout=60) for _ in range(4))
        # Answers although eight of the first account's are waiting and four are at work: two places are left.
        quick.start()
        quick.join(20)
        assert found == [b"quick"] * 15
        assert not at_work.acquire(blocking=False)
    finally:
        released.set()
        slow.join(60)
        quick.join(60)
    assert not slow.is_alive()


def test_beyond_its_queue_an_order_is_to_be_sent_later() -> None:
    with pytest.raises(MediaBusyError):
        RemoteImages(lambda url: url.encode(), waiting=3).fetch_all("acc", [("i", "x")] * 4)


def test_an_account_does_not_fill_the_queue_for_others() -> None:
    """Many orders at once, each with slow servers: its own next order is refused, another account's is not."""
    released = threading.Event()

    def fetch_one(url: str) -> bytes:
        if url == "slow":
            assert released.wait(60)
        return url.encode()

    images = RemoteImages(fetch_one, waiting=20, waiting_per_account=10)
    slow = threading.Thread(target=images.fetch_all, args=("greedy", [("i", "slow")] * 10))
    slow.start()
    while images._pool.room() > 10:
        time.sleep(0.001)
    with pytest.raises(MediaBusyError):
        images.fetch_all("greedy", [("i", "x")])
    assert images.fetch_all("other", [("i", "quick")] * 10) == [b"quick"] * 10
    released.set()
    slow.join(60)


def test_a_bug_in_one_fetch_reaches_the_caller() -> None:
    def fetch_one(url: str) -> bytes:
        raise KeyError(url)

    with pytest.raises(KeyError):
        RemoteImages(fetch_one).fetch_all("acc", [("i", "x")])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]"])
def test_a_forbidden_address_looks_like_one_where_nothing_is(host: str) -> None:
    def fetch_one(url: str) -> bytes:
        return fetch(url, Policy.user(max_bytes=100)).data

    images = RemoteImages(fetch_one)
    [forbidden] = images.fetch_all("acc", [("i", f"https://{host}/a.png")])
    [absent] = images.fetch_all("acc", [("i", "https://no-such-host.invalid/a.png")])
    assert forbidden == absent
