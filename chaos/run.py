"""One run: customers, load and faults; then heal, drain and judge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text

from accounts.accounts import create_account
from accounts.keys import create_key
from chaos.load import Customer, Load
from chaos.monkey import DoneFault, Monkey
from chaos.orders import stream
from chaos.proxy import Proxy
from chaos.receiver import Receiver
from chaos.report import Report
from chaos.target import NoTargetError, Target, until
from chaos.told import callbacks, follow_accounts, streams, subscribe
from chaos.verdict import Judged, judge
from core.errors import DatabaseAwayError
from quota import ledger
from quota.prices import MICROCREDITS_PER_CREDIT

# The last one runs out, so that refusals for lack of credits are part of the run.
GRANTS_CREDITS = (100_000, 100_000, 100_000, 20)
GENTLE_BELOW_MINUTES = 1.0


@dataclass(frozen=True)
class Options:
    """``gentle`` (below a minute) leaves out faults that take minutes to settle."""

    minutes: float
    seed: int
    per_s: float = 3.0
    pause_s: tuple[float, float] = (2.0, 8.0)
    drain_s: float = 300.0
    proxies: Mapping[str, Proxy] = field(default_factory=dict)

    @property
    def gentle(self) -> bool:
        return self.minutes < GENTLE_BELOW_MINUTES


def run(target: Target, options: Options, say: Callable[[str], None]) -> Report:
    """Attack ``target`` and judge it. Raises NoTargetError when it is not ready at the start."""
    if target.await_ready() is None:
        raise NoTargetError("the service does not become ready")
    canary = f"canary-{options.seed}-{int(time.time())}"
    customers = _customers(target, canary)
    receiver = Receiver(gentle=options.gentle)
    hook = subscribe(target, customers, receiver)
    if hook is None:
        say("without callbacks: DARKROOM_WEBHOOK_ALLOWED_HOSTS of the service does not name 127.0.0.1")
    orders = stream(options.seed, customers=len(customers), canary=canary, gentle=options.gentle)
    load = Load(target, customers, orders, per_s=options.per_s, hook=hook)
    monkey = Monkey(
        target,
        seed=options.seed,
        pause_s=options.pause_s,
        say=_clocked(say),
        proxies=options.proxies,
        gentle=options.gentle,
    )
    feeds = follow_accounts(load, len(customers))
    load.start()
    monkey.start()
    time.sleep(options.minutes * 60)
    monkey.stop()
    load.stop()
    say("healed; draining")
    drain_s = _drain(target, load, options.drain_s)
    load.give_up()
    say(f"drained in {drain_s:.0f} s; judging")
    judged = judge(target, load, customers, canary=canary)
    judged.violations += callbacks(load, judged.tasks, receiver, hooked=hook is not None)
    judged.violations += streams(load, judged.tasks, feeds)
    receiver.close()
    return _report(target, options, load, done=monkey.done, judged=judged, drain_s=drain_s)


def _customers(target: Target, canary: str) -> list[Customer]:
    customers = []
    for number, credits_ in enumerate(GRANTS_CREDITS):
        with target.database.transaction() as connection:
            account = create_account(connection, f"{canary}-{number}")
            ledger.grant(connection, account.id, credits_ * MICROCREDITS_PER_CREDIT, note="chaos")
            key = create_key(connection, account.id, name="chaos", scopes=("jobs:write", "jobs:read", "webhooks"))
        customers.append(Customer(account.id, key.token, credits_ * MICROCREDITS_PER_CREDIT))
    return customers


def _drain(target: Target, load: Load, within_s: float) -> float:
    """Wait until every order is decided and every job has ended; how long that took."""
    began = time.monotonic()
    target.await_ready()
    until(lambda: load.undecided() == 0 and _at_rest(target), within_s)
    return time.monotonic() - began


def _at_rest(target: Target) -> bool:
    try:
        with target.database.autocommit() as connection:
            live = connection.execute(
                text(
                    "SELECT (SELECT count(*) FROM jobs WHERE finished_at IS NULL)"
                    " + (SELECT count(*) FROM webhook_messages WHERE state = 'pending')"
                )
            ).scalar_one()
    except DatabaseAwayError:
        return False
    return not live


def _report(
    target: Target, options: Options, load: Load, *, done: Sequence[DoneFault], judged: Judged, drain_s: float
) -> Report:
    tasks = judged.tasks.values()
    return Report(
        seed=options.seed,
        minutes=options.minutes,
        ordered=len(load.placed),
        accepted=len(load.accepted()),
        refused=sum(1 for placed in load.placed if placed.refused is not None),
        ended=Counter(task["status"] for task in tasks),
        failures=Counter(task["error"]["code"] for task in tasks if task["error"]),
        images=judged.images,
        faults=Counter(one.kind for one in done),
        recovery_s=_recoveries(load, done, judged.tasks),
        takeover_s=_takeovers(target, done),
        drain_s=drain_s,
        violations=judged.violations,
    )


def _recoveries(
    load: Load, done: Sequence[DoneFault], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Per kind of fault: from its end to the first image that was ordered after it."""
    good = [
        (placed.posted_at, datetime.fromisoformat(task["finished_at"]).timestamp())
        for placed in load.accepted()
        if placed.order.plain and (task := tasks.get(str(placed.task_id))) and task["status"] == "succeeded"
    ]
    recoveries: dict[str, list[float]] = {}
    for one in done:
        after = [finished_at for posted_at, finished_at in good if posted_at >= one.ended_at]
        if after:
            recoveries.setdefault(one.kind, []).append(min(after) - one.ended_at)
    return recoveries


def _takeovers(target: Target, done: Sequence[DoneFault]) -> list[float]:
    """From a worker's kill to the moment at which each of its jobs was taken from it."""
    killed_at = {one.worker: one.began_at for one in done if one.worker and one.kind == "kill -9 worker"}
    with target.database.autocommit() as connection:
        rows = connection.execute(
            text(
                "SELECT extract(epoch FROM at) AS at, worker FROM (SELECT type, at, lag(data ->> 'worker') OVER"
                " (PARTITION BY job_id ORDER BY id) AS worker FROM job_events) AS e"
                " WHERE type = 'lapsed' AND worker = ANY(:dead)"
            ),
            {"dead": list(killed_at)},
        ).all()
    return [float(row.at) - killed_at[row.worker] for row in rows]


def _clocked(say: Callable[[str], None]) -> Callable[[str], None]:
    began = time.monotonic()
    return lambda line: say(f"{time.monotonic() - began:6.1f} s  {line}")
