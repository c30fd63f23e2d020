"""Every kind of broker gets bounds in its own words."""

from __future__ import annotations

import pytest

from workers.broker import is_redis, transport_options


@pytest.mark.parametrize(
    "url", ["redis://h/0", "rediss://:pw@h:6380/0", "redis+socket:///run/r.sock", "sentinel://h:26379"]
)
def test_a_half_open_redis_is_noticed_within_seconds(url: str) -> None:
    options = transport_options(url, timeout_s=5)
    assert is_redis(url)
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 5
    assert options["socket_keepalive"] is True
    assert options["health_check_interval"] <= 5


def test_rabbitmq_counts_a_message_as_sent_when_the_broker_has_it() -> None:
    options = transport_options("amqp://guest@h//", timeout_s=1)
    assert options["confirm_publish"] is True
    assert not any(name.startswith("socket") for name in options)
