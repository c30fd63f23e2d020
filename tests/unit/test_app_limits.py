"""Token buckets: exact in one process, kept level between processes, indifferent to Redis away."""

from __future__ import annotations

from dataclasses import replace

import fakeredis
import pytest
import redis

from accounts.keys import Caller
from app.http.buckets import DROP_IDLE_AFTER_S, Buckets, Rate
from app.http.limit_headers import Told, nearest
from app.http.limits import RateLimits


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Quiet(Buckets):
    """Without the background thread: the test says when to sync."""

    def _start(self) -> None:
        pass


RATE = Rate("submit", 10, 60)


def _spend(buckets: Buckets, times: int, who: str = "a") -> list[bool]:
    return [buckets.take(RATE, who).allowed for _ in range(times)]


def test_a_bucket_empties_and_refills_evenly() -> None:
    clock = Clock()
    buckets = Quiet(None, clock=clock)
    assert _spend(buckets, 11) == [True] * 10 + [False]
    standing = buckets.take(RATE, "a")
    assert (standing.left, standing.reset_s) == (0, 6)
    clock.now_s += 6
    assert _spend(buckets, 2) == [True, False]
    clock.now_s += 3600
    assert _spend(buckets, 11) == [True] * 10 + [False]


def test_accounts_do_not_share_a_bucket() -> None:
    buckets = Quiet(None)
    _spend(buckets, 10, "a")
    assert buckets.take(RATE, "b").left == 9


def test_processes_learn_of_each_other_through_redis() -> None:
    client, clock = fakeredis.FakeRedis(decode_responses=True), Clock()
    here, there = Quiet(client, clock=clock), Quiet(client, clock=clock)
    _spend(here, 1)
    _spend(there, 1)
    for each in (here, there, here):
        each.sync()
    _spend(there, 6)
    there.sync()
    here.sync()
    assert here.take(RATE, "a").left == 10 - 1 - 6 - 1 - 1
    here.sync()
    there.sync()
    assert there.take(RATE, "a").left <= 10 - 7 - 1 - 1


def test_own_spending_is_counted_once() -> None:
    client, clock = fakeredis.FakeRedis(decode_responses=True), Clock()
    buckets = Quiet(client, clock=clock)
    for _ in range(3):
        _spend(buckets, 1)
        buckets.sync()
    assert buckets.take(RATE, "a").left == 6


def test_redis_that_forgot_everything_takes_nothing_away() -> None:
    client, clock = fakeredis.FakeRedis(decode_responses=True), Clock()
    buckets = Quiet(client, clock=clock)
    _spend(buckets, 4)
    buckets.sync()
    client.flushall()
    _spend(buckets, 1)
    buckets.sync()
    assert buckets.take(RATE, "a").left == 4


def test_redis_away_loses_no_spending() -> None:
    server = fakeredis.FakeServer()
    client, clock = fakeredis.FakeRedis(server=server, decode_responses=True), Clock()
    buckets = Quiet(client, clock=clock)
    _spend(buckets, 3)
    server.connected = False
    with pytest.raises(redis.RedisError):
        buckets.sync()
    assert _spend(buckets, 1) == [True]
    server.connected = True
    buckets.sync()
    assert client.get("darkroom:rate:submit:a") == "4"
    assert 0 < client.ttl("darkroom:rate:submit:a") <= 120


def test_full_and_idle_buckets_are_forgotten() -> None:
    client, clock = fakeredis.FakeRedis(decode_responses=True), Clock()
    buckets = Quiet(client, clock=clock)
    _spend(buckets, 1)
    buckets.sync()
    assert buckets._buckets
    clock.now_s += DROP_IDLE_AFTER_S + 60
    buckets.sync()
    assert not buckets._buckets


def test_addresses_without_end_take_no_ones_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.buckets.MAX_BUCKETS", 2)
    clock = Clock()
    buckets = Quiet(None, clock=clock)
    _spend(buckets, 10, "a")
    assert all(_spend(buckets, 1, f"address {number}") == [True] for number in range(5))
    assert len(buckets._buckets) == 2
    assert _spend(buckets, 1, "a") == [False]
    clock.now_s += 3600
    _spend(buckets, 1, "b")
    assert ("submit", "b") in buckets._buckets  # there is room again


def test_rates_are_read_from_settings() -> None:
    assert Rate.parse("x", "600/minute") == Rate("x", 600, 60)
    assert Rate.parse("x", "20 per 10 seconds", times=2) == Rate("x", 40, 10)
    with pytest.raises(ValueError, match="parse"):
        Rate.parse("x", "often")


def test_limits_are_items_of_structured_fields() -> None:
    told = Told("submit", "requests", 10, 60, 3, 12)
    assert (told.policy, told.item) == ('"submit";q=10;w=60;qu="requests"', '"submit";r=3;t=12')
    flying = Told("key-in-flight", "concurrent-requests", 4, None, 1, 5)
    assert (flying.policy, flying.item) == ('"key-in-flight";q=4;qu="concurrent-requests"', '"key-in-flight";r=1')
    assert replace(flying, left=0).item == '"key-in-flight";r=0;t=5'


def test_the_limit_nearest_to_its_end_is_told() -> None:
    half, third = Told("a", "requests", 10, 60, 5, 3), Told("b", "images", 9, 60, 3, 2)
    assert nearest([half, third]) == third == nearest([third, half])
    assert nearest([half, third], "requests") == half
    assert nearest([half], "images") is None
    assert nearest([replace(half, left=0), replace(third, left=0, reset_s=50)]) == replace(third, left=0, reset_s=50)


def test_several_limits_are_taken_from_together_or_not_at_all() -> None:
    buckets, narrow = Quiet(None), Rate("key", 2, 60)
    for _ in range(5):
        standings = buckets.take_all([(RATE, "a"), (narrow, "k")])
    assert [(each.rate.name, each.left, each.allowed) for each in standings] == [("submit", 8, True), ("key", 0, False)]
    assert buckets.take(Rate("key", 4, 60), "k").allowed is False  # a changed limit fills no bucket


def test_limits_name_every_rate() -> None:
    limits = RateLimits(account="6/minute", submit="2/minute", client=None)
    plain = Caller("acct_a", key_id="k")
    default = [("account", 6), ("submit", 2), ("read", 20), ("enhance", 20)]
    assert [(rate.name, rate.amount) for rate in limits.of(plain)] == default
    limits = RateLimits(account="6/minute", submit="2/minute", total="90/minute", client=None)
    own = replace(plain, account_requests_per_minute=50, key_requests_per_minute=3)
    assert [(rate.name, rate.amount) for rate in limits.of(own)] == [
        ("account", 50),
        ("enhance", 20),
        ("key", 3),
        ("installation", 90),
    ]
