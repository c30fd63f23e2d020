"""Clients that behave as they should: they keep their key, try again, follow, and sometimes cancel."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import requests

from chaos import ways
from chaos.followers import BEAT_TIMEOUT_S, Follower
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
    parent: str | None = None  # the task that it makes again
    held: bool = False  # its call was not answered to the end yet
    told_ended: bool = False  # its own API said that it has ended
    follower: Follower | None = field(default=None, repr=False)
    faults: list[str] = field(default_factory=list)


class Load:
    """Posts a stream of orders at a fixed rate, from many clients at the same time, until it is stopped."""

    def __init__(
        self,
        target: Target,
        customers: Sequence[Customer],
        orders: Iterable[MixedOrder],
        *,
        per_s: float,
        hook: Callable[[str], str] | None = None,
    ) -> None:
        """``hook`` makes the URL of a path at a receiver; None: the service may not reach it."""
        self._target = target
        self._customers = customers
        self._orders = orders
        self._every_s = 1.0 / per_s
        self._hook = hook
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
        """Orders whose client has got neither a task nor a refusal, or waits for the rest of its answer."""
        return sum(1 for one in self.placed if one.held or (one.task_id is None and one.refused is None))

    def accepted(self) -> list[Placed]:
        return [placed for placed in self.placed if placed.task_id is not None]

    def get(self, customer: int, path: str, **params: Any) -> requests.Response:
        return self._client(customer).get(self._target.url + path, params=params, timeout=(5, PATIENCE_S))

    def stream(self, customer: int, path: str, headers: Mapping[str, str]) -> requests.Response:
        """An open stream; the caller closes it."""
        client = session()  # a connection of its own
        bearer = {"Authorization": f"Bearer {self._customers[customer].token}"}
        return client.get(self._target.url + path, headers=bearer | dict(headers), stream=True, timeout=BEAT_TIMEOUT_S)

    def _pace(self) -> None:
        for order in self._orders:
            if self._stop.wait(self._every_s):
                return
            placed = Placed(order, time.time())
            self.placed.append(placed)
            self._pool.submit(self._place, placed)

    def _place(self, placed: Placed) -> None:
        order = placed.order
        if order.way == "rerun":
            placed.parent = self._parent(order)
        if order.uploaded:
            placed.order = order = replace(order, body={**order.body, "images": [self._upload(order)]})
        self._post(placed)
        if order.doubled:
            self._post(placed)
        if order.cancel_after_s is not None and placed.task_id is not None:
            time.sleep(order.cancel_after_s)
            with suppress(requests.RequestException):
                self._client(order.customer).post(
                    f"{self._target.url}/api/images/tasks/{placed.task_id}/cancel", timeout=(5, 20)
                )

    def _post(self, placed: Placed) -> None:
        """Post until there is a definite answer; the key makes that safe, or the count of the attempts."""
        order, attempt = placed.order, 0
        hook = self._hook(f"/orders/{order.customer}/{order.key}") if self._hook and order.hooked else None
        placed.held = order.way == "openai"
        while not self._give_up.is_set():
            asked = ways.asking(order, attempt, hook=hook, parent=placed.parent)
            with suppress(requests.RequestException, ValueError):
                # Whole bodies alone: one that breaks off is no answer. Its head names the task all the same.
                answer = self._client(order.customer).post(
                    self._target.url + asked.path,
                    json=asked.body,
                    headers=asked.headers,
                    params=asked.params,
                    timeout=(5, PATIENCE_S if placed.held else 20),
                    stream=True,
                )
                with answer:
                    if placed.held and (known := ways.task_id(order, answer)):
                        self._note(placed, known)
                    answer.json()
                if ways.final(order, answer):
                    return self._decide(placed, answer)
            attempt += 1
            self._give_up.wait(TRY_AGAIN_S)
        return None

    def _decide(self, placed: Placed, answer: requests.Response) -> None:
        placed.held = False
        if task_id := ways.task_id(placed.order, answer):
            return self._note(placed, task_id)
        placed.refused = answer.status_code
        if placed.task_id is not None:
            placed.faults.append(f"accepted, then refused by {answer.status_code}: {answer.text[:200]}")
        return None

    def _note(self, placed: Placed, task_id: str) -> None:
        if placed.task_id not in (None, task_id):
            placed.faults.append(f"one order, two tasks: {placed.task_id} and {task_id}")
        if placed.task_id is None and placed.order.followed:
            path = f"/api/images/tasks/{task_id}/events"
            customer, seed = placed.order.customer, len(self.placed)
            placed.follower = Follower(lambda last: self.stream(customer, path, last), seed=seed, whole=False)
        placed.task_id = task_id

    def _parent(self, order: MixedOrder) -> str | None:
        """The latest task that this order could have been made from; None: it is made as others are."""
        fits = (
            one.task_id
            for one in reversed(self.placed)
            if one.task_id
            and one.order.operation == order.operation
            and (one.order.customer, one.order.provider) == (order.customer, order.provider)
        )
        return next(fits, None)

    def _upload(self, order: MixedOrder) -> str:
        """The id of the order's image as an upload; the image itself where the run is given up first."""
        image = str(order.body["images"][0])
        part = {"file": ("image.png", base64.b64decode(image.partition(",")[2]), "image/png")}
        while not self._give_up.is_set():
            with suppress(requests.RequestException, ValueError):
                answer = self._client(order.customer).post(
                    f"{self._target.url}/api/uploads", files=part, timeout=(5, 20)
                )
                if answer.ok:
                    return str(answer.json()["id"])
            self._give_up.wait(TRY_AGAIN_S)
        return image

    def _follow(self) -> None:
        """Look at tasks as clients do, and remember how the ended ones looked at first."""
        while not self._stop.wait(1.0):
            live = [placed for placed in self.accepted() if placed.first_end is None][:25]
            for placed in live:
                with suppress(requests.RequestException, ValueError):
                    if not placed.told_ended and placed.order.way in ("replicate", "fal"):
                        said = self.get(placed.order.customer, ways.status_path(placed.order, str(placed.task_id)))
                        placed.told_ended = said.ok and ways.says_ended(said.json())
                    answer = self.get(placed.order.customer, f"/api/images/tasks/{placed.task_id}")
                    if placed.told_ended and answer.ok and answer.json()["status"] not in ENDED:
                        placed.faults.append(f"ended at its own API, here {answer.json()['status']}")
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
