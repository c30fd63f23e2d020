"""/readyz names a broker that is another server than Redis and does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from app_doubles import settings_of

from app import services
from app.http.readiness import OPTIONAL, Check, checks_of
from core.embedded.ports import free_ports
from tests.odd_brokers import IS_FULL, rabbit, rubbish
from workers.enqueue import Publisher

NOWHERE = "redis://127.0.0.1:1/0"


def checks(broker_url: str) -> Mapping[str, Check]:
    part: Any = None  # the other parts are not asked here
    return checks_of(part, part, part, part, broker_answers=Publisher(broker_url, NOWHERE).broker_answers)


def test_a_rabbitmq_that_answers_is_well() -> None:
    with rabbit(IS_FULL) as port:
        assert checks(f"amqp://127.0.0.1:{port}//")["broker"]() is None


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_is_away_or_none_is_named_and_only_degrades(scheme: str) -> None:
    with rubbish() as port:
        for where in (port, free_ports(1)[0]):
            said = checks(f"{scheme}://127.0.0.1:{where}//")["broker"]()
            assert said == "does not answer; tasks are kept and start when it is back"
    assert "broker" in OPTIONAL


@pytest.mark.parametrize(("broker", "is_asked"), [(None, False), (NOWHERE, False), ("amqp://127.0.0.1:1//", True)])
def test_only_a_broker_of_its_own_is_asked(broker: str | None, is_asked: bool, tmp_path: Any) -> None:
    env = {
        "DATABASE_URL": "postgresql://u@127.0.0.1:1/x",
        "REDIS_URL": NOWHERE,
        "DARKROOM_VAR": str(tmp_path),
        **({"CELERY_BROKER_URL": broker} if broker else {}),
    }
    assert ("broker" in services.build(settings_of(env), env).checks) is is_asked
