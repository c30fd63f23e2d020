"""The rehearsal of an upgrade, as far as it needs no processes (docs/scaling.md tells of whole runs)."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rolling() -> Any:
    spec = spec_from_file_location("rolling_deploy", ROOT / "deploy" / "rolling_deploy.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_requests_go_to_the_hosts_in_turns_and_to_none_that_is_taken_out(rolling: Any) -> None:
    hosts = rolling.Hosts()
    for each in ("a", "b", "c"):
        hosts.take_in(each)
    assert {hosts.next() for _ in range(3)} == {"a", "b", "c"}
    hosts.take_out("b")
    assert {hosts.next() for _ in range(4)} == {"a", "c"}


def test_without_a_host_clients_meet_one_that_is_away(rolling: Any) -> None:
    hosts = rolling.Hosts()
    hosts.take_in("a")
    hosts.take_out("a")
    assert hosts.next() == "a"


def test_each_request_of_the_load_asks_for_a_host(rolling: Any, tmp_path: Path) -> None:
    hosts = rolling.Hosts()
    hosts.take_in("a")
    hosts.take_in("b")
    target = rolling.Rotation(var=tmp_path, url="", sandbox_url=None, database=None, redis_url="", hosts=hosts)
    assert {target.url, target.url} == {"a", "b"}


def test_orders_are_such_that_an_old_release_takes_them(rolling: Any) -> None:
    orders = list(islice(rolling._orders(1, "canary"), 200))
    assert {order.way for order in orders} == {"native"}
    assert not any(order.hooked or order.followed or order.uploaded for order in orders)
    assert any(order.doubled for order in orders)


def test_an_unknown_release_is_refused_before_anything_starts(
    rolling: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rolling.main(["--old", "no-such-release", "--keep", str(tmp_path)]) == 2
    assert "cannot run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
