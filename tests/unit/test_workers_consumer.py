"""How long a worker's consumer waits between two tries to connect to its broker."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.utils.imports import symbol_by_name

from workers.broker.consumer import LONGEST_S, Consumer


class Broker:
    """A fake connection that records how it was asked to connect."""

    alt = None

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def ensure_connection(self, *_: Any, **asked: Any) -> Broker:
        self.asked = asked
        return self


def test_reconnect_pauses_stay_short() -> None:
    consumer = Consumer.__new__(Consumer)
    consumer.app = Celery()
    consumer.first_connection_attempt = True
    broker = Broker()
    assert consumer.ensure_connected(broker) is broker
    assert broker.asked["interval_max"] == LONGEST_S <= 3
    assert broker.asked["interval_start"] < 1


def test_workers_run_this_consumer() -> None:
    tree = ast.parse((Path(__file__).resolve().parents[2] / "celeryconfig.py").read_text())
    settings = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    assert symbol_by_name(ast.literal_eval(settings["worker_consumer"])) is Consumer
