"""Clients that behave as they should: they keep their key, try again, follow, and sometimes cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests

from chaos.orders import MixedOrder
from chaos.target import Target, session

ENDED = ("succeeded", "failed", "cancelled")
CLIENTS = 48
TRY_AGAIN_S = 0.7
PATIENCE_S = 60  # a connection of ours to PostgreSQL that was just black-holed costs a request its time-outs
# Status, micro-credits captured, hashes of the images.
Ending = tuple[str, int, tuple[str, ...]]


@dataclass(frozen=True)
class Customer:
    """An account with a key, and what it was granted."""

    account_id: str
    token: str = field(repr=False)
    granted_microcredits: int


@dataclass
class Placed:
    """An order and what its client was told. Times are the wall clock's, in seconds."""

    order: MixedOrder
    posted_at: float
    task_id: str | None = None
    refused: int | None = None  # the status of a final no
    first_end: Ending | None = None
    faults: list[str] = field(default_factory=list)


class Load:
    """Posts a stream of orders at a fixed rate, from many clients at the same time, until it is stopped."""

    def __init__(
        self, target: Target, customers: Sequence[Customer], orders: Iterable[MixedOrder], *, per_s: float
    ) -> None:
        self._target = target
        self._customers = customers
        self._orders = orders
        self._every_s = 1.0 / per_s
        self._local = threading.local()
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._pace, self._follow)]
        self.placed: list[Placed] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new orders; those being posted are finished."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown(wait=False)

    def give_up(self) -> None:
        """Clients whose order has no answer yet stop trying."""
        self._give_up.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def undecided(self) -> int:
        """Orders whose client has got neither a task nor a refusal."""
        return sum(1 for placed in self.placed if placed.task_id is None and placed.refused is None)

    def accepted(self) -> list[Placed]:
        return [placed for placed in self.placed if placed.task_id is not None]

    def get(self, customer: int, path: str, **params: Any) -> requests.Response:
        return self._client(customer).get(self._target.url + path, params=params, timeout=(5, PATIENCE_S))

    def _pace(self) -> None:
        for order in self._orders:
            if self._stop.wait(self._every_s):
                return
            placed = Placed(order, time.time())
            self.placed.append(placed)
            self._pool.submit(self._place, placed)

    def _place(self, placed: Placed) -> None:
        self._post(placed)
        if placed.order.doubled:
            self._post(placed)
        if placed.order.cancel_after_s is not None and placed.task_id is not None:
            time.sleep(placed.order.cancel_after_s)
            with suppress(requests.RequestException):
                self._client(placed.order.customer).post(
                    f"{self._target.url}/api/images/tasks/{placed.task_id}/cancel", timeout=(5, 20)
                )

    def _post(self, placed: Placed) -> None:
        """Post until there is a definite answer; the key makes that safe."""
        order = placed.order
        url = f"{self._target.url}/api/images/{order.operation}"
        headers = {"Idempotency-Key": order.key}
        while not self._give_up.is_set():
            with suppress(requests.RequestException, ValueError):
                answer = self._client(order.customer).post(url, json=order.body, headers=headers, timeout=(5, 20))
                if answer.status_code in (200, 202):
                    return _note(placed, str(answer.json()["id"]))
                if answer.status_code < 500 and answer.status_code != 429:
                    placed.refused = answer.status_code
                    if placed.task_id is not None:
                        placed.faults.append(f"accepted, then refused by {answer.status_code}: {answer.text[:200]}")
                    return None
            self._give_up.wait(TRY_AGAIN_S)
        return None

    def _follow(self) -> None:
        """Look at tasks as clients do, and remember how the ended ones looked at first."""
        while not self._stop.wait(1.0):
            live = [placed for placed in self.accepted() if placed.first_end is None][:25]
            for placed in live:
                with suppress(requests.RequestException, ValueError):
                    answer = self.get(placed.order.customer, f"/api/images/tasks/{placed.task_id}")
                    if answer.status_code == 200 and answer.json()["status"] in ENDED:
                        placed.first_end = ending(answer.json())
                if self._stop.is_set():
                    return

    def _client(self, customer: int) -> requests.Session:
        clients: dict[int, requests.Session] = self._local.__dict__.setdefault("clients", {})
        if customer not in clients:
            clients[customer] = session()
            clients[customer].headers["Authorization"] = f"Bearer {self._customers[customer].token}"
        return clients[customer]


def ending(task: Mapping[str, Any]) -> Ending:
    """What must never change once a task has ended."""
    return task["status"], task["price"]["captured_microcredits"], tuple(one["sha256"] for one in task["images"])


def _note(placed: Placed, task_id: str) -> None:
    if placed.task_id not in (None, task_id):
        placed.faults.append(f"one key, two tasks: {placed.task_id} and {task_id}")
    placed.task_id = task_id
