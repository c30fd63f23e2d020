"""Every promise, checked from outside after the drain: API, sandbox, database, logs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from chaos.load import ENDED, Customer, Load, Placed, ending
from chaos.orders import prompt_start
from chaos.target import Target
from jobs.maintenance import audit
from sandbox.counts import prompt_hash

# A new call for a slot may only follow one that certainly did not run, or certainly failed.
SURE = ("not_run", "failed")


@dataclass(frozen=True)
class Violation:
    """A broken promise. ``promise`` is lost, stuck, double, drift, picture, idempotency, callback, stream or secret."""

    promise: str
    subject: str
    detail: str


@dataclass
class Judged:
    """What was found, and the tasks as their owners see them."""

    violations: list[Violation] = field(default_factory=list)
    tasks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    images: int = 0

    def count(self, *promises: str) -> int:
        return sum(1 for violation in self.violations if violation.promise in promises)


def judge(target: Target, load: Load, customers: Sequence[Customer], *, canary: str) -> Judged:
    """Check everything once. Call it after heal and drain."""
    judged = Judged()
    with ThreadPoolExecutor(4) as pool:
        for found, task, images in pool.map(lambda placed: _look(load, placed), load.accepted()):
            judged.violations += found
            judged.images += images
            if task is not None:
                judged.tasks[str(task["id"])] = task
    judged.violations += _rows(target, load)
    judged.violations += _purchases(target, load)
    judged.violations += _books(load, customers, judged.tasks.values())
    with target.database.transaction() as connection:
        judged.violations += [
            Violation("drift", f.subject, f"{f.invariant}: {f.detail}") for f in audit.check(connection)
        ]
    judged.violations += _secrets(target, canary, [customer.token for customer in customers])
    return judged


def _look(load: Load, placed: Placed) -> tuple[list[Violation], Mapping[str, Any] | None, int]:
    """One accepted order as its owner sees it: ended, unchanged since, every image there and complete."""
    task_id = str(placed.task_id)
    found = [Violation("idempotency", task_id, fault) for fault in placed.faults]
    answer = load.get(placed.order.customer, f"/api/images/tasks/{task_id}")
    if answer.status_code != 200:
        return [*found, Violation("lost", task_id, f"accepted, and now {answer.status_code}")], None, 0
    task = answer.json()
    if task["status"] not in ENDED:
        found.append(Violation("stuck", task_id, f"{task['status']} after the drain: {placed.order.prompt}"))
    elif placed.first_end is not None and placed.first_end != ending(task):
        found.append(Violation("drift", task_id, f"ended as {placed.first_end}, now {ending(task)}"))
    if task["status"] == "succeeded" and not task["images"]:
        found.append(Violation("picture", task_id, "succeeded without an image"))
    for image in task["images"]:
        path = f"/api/images/tasks/{task_id}/image"
        got = load.get(placed.order.customer, path, index=image["index"])
        if got.status_code != 200 or hashlib.sha256(got.content).hexdigest() != image["sha256"]:
            found.append(Violation("picture", f"{task_id}#{image['index']}", f"{got.status_code}, or other bytes"))
    return found, task, len(task["images"])


def _rows(target: Target, load: Load) -> Iterator[Violation]:
    """What only the rows show: orders whose answer was lost, and permits that were never given back."""
    known = [str(placed.task_id) for placed in load.accepted()]
    with target.database.autocommit() as connection:
        for row in connection.execute(
            text("SELECT id, status FROM jobs WHERE finished_at IS NULL AND NOT id = ANY(:known)"), {"known": known}
        ):
            yield Violation("stuck", row.id, f"{row.status}, its client heard nothing of it")
        for row in connection.execute(
            text(
                "SELECT credential_id, count(*) AS taken FROM permits WHERE call_id IS NOT NULL GROUP BY credential_id"
            )
        ):
            yield Violation("drift", row.credential_id, f"{row.taken} permits taken, and no call is open")
        for row in connection.execute(
            text(
                "SELECT u.id, u.outcome FROM upstream_calls AS u JOIN jobs AS j ON j.id = u.job_id WHERE j.finished_at"
                " IS NOT NULL AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain', 'finished'))"
            )
        ):
            yield Violation("stuck", row.id, f"call {row.outcome or 'unanswered'} of a job that has ended")


def _purchases(target: Target, load: Load) -> Iterator[Violation]:
    """Nothing bought twice, by the sandbox's own counts and by the order of the calls."""
    with target.database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT job_id, id, slot, try, outcome, dedupe_key FROM upstream_calls ORDER BY job_id, slot, try")
        ).all()
    calls: dict[str, int] = {}
    before: Any = None
    for row in rows:
        calls[row.job_id] = calls.get(row.job_id, 0) + 1
        again = before is not None and (before.job_id, before.slot) == (row.job_id, row.slot)
        if again and before.outcome not in SURE:
            yield Violation("double", row.job_id, f"call {row.id} was made after one that ended {before.outcome}")
        before = row
    counts = target.counts()
    for key, times in counts.get("chatgpt2api", {}).get("repeated_accepts", {}).items():
        yield Violation("double", key, f"one dedupe key bought {times} times")
    # Providers without a key: at most as many purchases of a prompt as there were calls.
    for placed in load.accepted():
        of_provider = counts.get(placed.order.provider, {})
        hashed = prompt_hash(placed.order.prompt)
        bought = of_provider.get("accepted_by_prompt", {}).get(hashed, 0)
        if bought > calls.get(str(placed.task_id), 0):
            yield Violation(
                "double", str(placed.task_id), f"{bought} bought by {calls.get(str(placed.task_id), 0)} calls"
            )
        sent = of_provider.get("submits_by_prompt", {}).get(hashed, 0)
        # Only a provider that deduplicates may be sent the same call again.
        if placed.order.provider != "chatgpt2api" and sent > calls.get(str(placed.task_id), 0):
            yield Violation(
                "double", str(placed.task_id), f"sent {sent} times by {calls.get(str(placed.task_id), 0)} calls"
            )


def _books(load: Load, customers: Sequence[Customer], tasks: Collection[Mapping[str, Any]]) -> Iterator[Violation]:
    """Each account's balance, recomputed from its own ledger and from its tasks, all over HTTP.

    Where something is stuck its credits are rightly held, and it has been reported already.
    """
    stuck = any(task["status"] not in ENDED for task in tasks)
    captured_by_task = {task["id"]: task["price"]["captured_microcredits"] or 0 for task in tasks}
    for number, customer in enumerate(customers):
        sums: dict[str, int] = {}
        for entry in _ledger(load, number):
            sums[entry["kind"]] = sums.get(entry["kind"], 0) + entry["amount_microcredits"]
            if entry["kind"] == "capture" and entry["amount_microcredits"] != captured_by_task.get(
                entry["task_id"], -1
            ):
                yield Violation("drift", str(entry["task_id"]), "the ledger captured another sum than the task says")
        quota = load.get(number, "/api/quota").json()
        available = customer.granted_microcredits - sums.get("hold", 0) + sums.get("release", 0)
        figures = (quota["available_microcredits"], quota["held_microcredits"], quota["queued_microcredits"])
        if figures[0] != available or (not stuck and figures != (available, 0, 0)):
            yield Violation(
                "drift", customer.account_id, f"available, held, queued are {figures}, not {available}, 0, 0"
            )
        if not stuck and sums.get("hold", 0) != sums.get("release", 0) + sums.get("capture", 0):
            yield Violation("drift", customer.account_id, f"holds are not captures and releases: {sums}")


def _ledger(load: Load, customer: int) -> Iterator[Mapping[str, Any]]:
    cursor: dict[str, Any] = {}
    while True:
        page = load.get(customer, "/api/quota/ledger", limit=100, **cursor).json()
        yield from page["data"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


def _secrets(target: Target, canary: str, tokens: Sequence[str]) -> Iterator[Violation]:
    """No prompt and no key in what the processes wrote, where there is a log on disk."""
    log = target.var / "run" / "log"
    if not log.exists():
        return
    with log.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if prompt_start(canary) in line or any(token in line for token in tokens):
                yield Violation("secret", f"log line {number}", "holds a prompt or a key")
                return
