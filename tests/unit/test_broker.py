"""Every kind of broker gets time-outs by its own options."""

from __future__ import annotations

import pytest

from core.embedded.ports import free_ports
from core.redis import Sentinels
from tests.odd_brokers import rubbish
from workers.broker.options import address, answers, is_redis, transport_options


@pytest.mark.parametrize(
    "url", ["redis://h/0", "rediss://:pw@h:6380/0", "redis+socket:///run/r.sock", "sentinel://h:26379"]
)
def test_a_half_open_redis_connection_is_noticed_within_seconds(url: str) -> None:
    options = transport_options(url, timeout_s=5)
    assert is_redis(url)
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 5
    assert options["socket_keepalive"] is True
    assert options["health_check_interval"] <= 5


def test_rabbitmq_counts_a_message_as_sent_when_the_broker_confirms_it() -> None:
    options = transport_options("amqp://guest@h//", timeout_s=1)
    assert options["confirm_publish"] is True
    assert not any(name.startswith("socket") for name in options)


def test_one_sentinel_url_becomes_one_url_per_sentinel_for_kombu() -> None:
    url = "sentinel://:p%40ss@a:26379;b/2?master=pictures"
    known = Sentinels.from_url(url)
    assert (known.nodes, known.database, known.master) == ((("a", 26379), ("b", 26379)), 2, "pictures")
    assert known.password == "p@ss"
    assert "p@ss" not in repr(known)
    assert address(url) == "sentinel://:p%40ss@a:26379/2;sentinel://:p%40ss@b:26379/2"
    assert transport_options(url, timeout_s=5)["master_name"] == "pictures"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("rediss://:pw@h:6380/0", "rediss://:pw@h:6380/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=ca.pem", "rediss://h/0?ssl_ca_certs=ca.pem&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis://h/0", "redis://h/0"),
        ("amqp://h//", "amqp://h//"),
    ],
)
def test_tls_is_verified_unless_the_url_turns_it_off(given: str, expected: str) -> None:
    assert address(given) == expected


def test_a_broker_that_is_away_or_sends_garbage_does_not_answer() -> None:
    away = free_ports(1)[0]
    with rubbish() as odd:
        for url in (f"redis://127.0.0.1:{away}/0", f"amqp://127.0.0.1:{away}//"):
            assert not answers(url)
        for url in (f"redis://127.0.0.1:{odd}/0", f"amqp://127.0.0.1:{odd}//"):
            assert not answers(url)


def test_a_running_broker_answers(redis_url: str) -> None:
    assert answers(redis_url)
