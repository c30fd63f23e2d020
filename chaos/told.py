"""What the customers were told without asking: callbacks and streams of events, before a run and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from chaos.followers import Follower
from chaos.load import ENDED, Customer, Load, Placed
from chaos.receiver import Receiver, Told
from chaos.target import Target, session, until
from chaos.verdict import Violation

# The first customers have a webhook of their account; the others are told of single orders alone.
SUBSCRIBED = 2
LATE_S = 40.0  # a stream whose reader has just lost its connection


def subscribe(target: Target, customers: Sequence[Customer], receiver: Receiver) -> Callable[[str], str] | None:
    """Make the webhooks. Returns how a path at the receiver is written; None where the service does not call it."""
    http = session()
    for number, customer in enumerate(customers):
        http.headers["Authorization"] = f"Bearer {customer.token}"
        if number < SUBSCRIBED:
            path = f"/accounts/{number}"
            made = http.post(f"{target.url}/api/webhooks", json={"url": receiver.url(path)}, timeout=20)
            if made.status_code == 422:
                return None
            made.raise_for_status()
            receiver.secrets[path] = made.json()["secret"]
        own = http.get(f"{target.url}/api/webhooks/secret", timeout=20)
        own.raise_for_status()
        receiver.secrets[f"/orders/{number}"] = own.json()["secret"]
    receiver.fal_key = http.get(f"{target.url}/fal/.well-known/jwks.json", timeout=20).json()["keys"][0]["x"]
    return receiver.url


def follow_accounts(load: Load, customers: int) -> list[Follower]:
    """A reader of each account's stream."""

    def feed(customer: int) -> Follower:
        return Follower(lambda last: load.stream(customer, "/api/images/events", last), seed=customer, whole=True)

    return [feed(customer) for customer in range(customers)]


def callbacks(
    load: Load, tasks: Mapping[str, Mapping[str, Any]], receiver: Receiver, *, hooked: bool
) -> Iterator[Violation]:
    """Every end was told to each receiver under one id, with a true signature; nothing that is not so was told."""
    told = list(receiver.told)
    for one in told:
        if not one.genuine:
            yield Violation("callback", one.task_id, f"{one.id} to {one.path}: its signature is wrong")
        if one.ends and one.task_id in tasks and tasks[one.task_id]["status"] not in one.ends:
            yield Violation("callback", one.task_id, f"told as {one.ends[0]}, is {tasks[one.task_id]['status']}")
    for placed in load.accepted() if hooked else ():
        task = tasks.get(str(placed.task_id))
        if task is None or task["status"] not in ENDED:
            continue
        for path in _paths(placed):
            ids = {one.id for one in _ends(told, path, str(task["id"]))}
            if len(ids) != 1:
                yield Violation("callback", str(task["id"]), f"{task['status']}, told to {path} under {len(ids)} ids")


def streams(load: Load, tasks: Mapping[str, Mapping[str, Any]], feeds: Sequence[Follower]) -> Iterator[Violation]:
    """No reader missed an end, and positions only grew. Waits a little for those that are on their way back."""
    ended = {str(one.task_id): one for one in load.accepted() if tasks.get(str(one.task_id), {}).get("status") in ENDED}
    readers = [(task_id, one.follower) for task_id, one in ended.items() if one.follower]
    readers += [(task_id, feeds[one.order.customer]) for task_id, one in ended.items()]
    until(lambda: all(task_id in reader.ends for task_id, reader in readers), LATE_S)
    for reader in {id(reader): reader for _, reader in readers}.values():
        reader.stop()
        yield from (Violation("stream", "a reader", fault) for fault in reader.faults)
    for task_id, reader in readers:
        if reader.ends.get(task_id) != tasks[task_id]["status"]:
            said, whose = reader.ends.get(task_id), "account's" if reader in feeds else "task's"
            yield Violation("stream", task_id, f"{tasks[task_id]['status']}, its {whose} stream said {said}")


def _paths(placed: Placed) -> list[str]:
    order = placed.order
    account = [f"/accounts/{order.customer}"] if order.customer < SUBSCRIBED else []
    return account + ([f"/orders/{order.customer}/{order.key}"] if order.hooked else [])


def _ends(told: Sequence[Told], path: str, task_id: str) -> Iterator[Told]:
    return (one for one in told if one.path.partition("?")[0] == path and one.task_id == task_id and one.ends)
