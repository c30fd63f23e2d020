"""Usage against SQL of our own, however much of it is rolled up; what closes an hour, and what opens it again."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from job_engine import SYNC_MODEL, Engine
from sqlalchemy import text

from accounts.keys import Caller
from core.db import Database
from jobs.maintenance import audit
from jobs.maintenance.usage_rollup import UsageRollup, add_up_next, drop_step
from jobs.reads import usage as usages
from jobs.reads.usage import DIMENSIONS, Amounts, Usage, usage

MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)
DAYS = 3
JOBS = 120


def seed(connection: Any, dice: random.Random) -> None:
    """Jobs of every kind, settled at and next to the hour, hours after they were made, or over midnight."""
    for name in ("a", "b"):
        connection.execute(text("INSERT INTO accounts (id, name) VALUES (:id, :id)"), {"id": f"acct_{name}"})
    for number in range(JOBS):
        hour = MIDNIGHT + timedelta(hours=dice.randrange(24 * DAYS))
        at = hour + dice.choice([timedelta(0), timedelta(microseconds=-1), timedelta(seconds=dice.randrange(3600))])
        _job(connection, dice, f"job_{number:026d}", at)


def _job(connection: Any, dice: random.Random, job_id: str, at: datetime) -> None:
    price = dice.choice([0, 100, 530])
    n = dice.randint(1, 3)
    status = dice.choice(["succeeded", "succeeded", "failed", "cancelled"])
    kept = dice.randint(1, n) if status == "succeeded" or dice.random() < 0.2 else 0
    held = status == "succeeded" or kept > 0 or dice.random() < 0.7
    captured = kept * price
    if status == "failed":
        captured = 0
    released = n * price - captured
    account, model = dice.choice(["acct_a", "acct_b"]), dice.choice(["m1", "m2"])
    values = {
        "id": job_id, "account": account, "key": dice.choice([None, "k1", "k2"]), "model": model,
        "operation": dice.choice(["generate", "edit"]), "provider": f"p-{model}", "n": n, "status": status,
        "price": price, "quoted": n * price, "captured": captured, "released": released, "at": at,
        "code": "x" if status == "failed" else None, "made": at - timedelta(hours=dice.randrange(30)),
    }  # fmt: skip
    connection.execute(
        text(
            "INSERT INTO jobs (id, account_id, key_id, operation, model, provider, n, status, money, unit_price,"
            " quoted, captured, released, failure_code, created_at, finished_at) VALUES (:id, :account, :key,"
            " :operation, :model, :provider, :n, :status, 'settled', :price, :quoted, :captured, :released, :code,"
            " :made, :at)"
        ),
        values,
    )
    for slot in range(dice.randint(0, 2)):
        connection.execute(
            text(
                "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,"
                " dedupe_key, outcome, give_up_at, intended_at, expected_cost, reported_cost, written_off) VALUES"
                " (:call, :id, :slot, 1, 1, :provider, :model, 'c', '', :call, :outcome, :at, :made, :expected,"
                " :reported, :off)"
            ),
            {
                **values, "call": f"call_{job_id}_{slot}", "slot": slot, "off": dice.random() < 0.2,
                "outcome": dice.choice(["kept", "failed", "lost", "not_run"]),
                "expected": dice.choice([None, 40, 70]), "reported": dice.choice([None, None, 55]),
                # Some of it fell back from another model.
                "model": dice.choice([model, "m3"]), "provider": dice.choice([f"p-{model}", "p-other"]),
            },
        )  # fmt: skip
    for index in range(kept):
        connection.execute(
            text(
                "INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256) VALUES (:id, :index, '',"
                " 'k', 'image/png', 1, '')"
            ),
            {"id": job_id, "index": index},
        )
    ledger = [("hold", "acct:available", "acct:held", n * price, values["made"])] if held else []
    if held and captured:
        ledger.append(("capture", "acct:held", "house:revenue", captured, at))
    if held and released:
        # Its own clock reading, which may be on the next day.
        ledger.append(("release", "acct:held", "acct:available", released, at + timedelta(microseconds=1)))
    for kind, source, target, amount, moment in ledger:
        connection.execute(
            text(
                "INSERT INTO transfers (account_id, job_id, kind, source, target, amount, created_at)"
                " VALUES (:account, :id, :kind, :source, :target, :amount, :moment)"
            ),
            {**values, "kind": kind, "source": source, "target": target, "amount": amount, "moment": moment},
        )


# ---------------------------------------------------------------- the same by other means


def counted_by_hand(
    connection: Any, *, from_at: datetime, to_at: datetime, by: Sequence[str], account_id: str | None
) -> dict[tuple[str | None, ...], Amounts]:
    """Usage by plain SELECTs of whole tables, added up in Python."""
    jobs = {row.id: row for row in connection.execute(text("SELECT * FROM jobs"))}
    images = dict(connection.execute(text("SELECT job_id, count(*) FROM images GROUP BY 1")).all())
    calls = defaultdict(list)
    for row in connection.execute(text("SELECT * FROM upstream_calls")):
        calls[row.job_id].append(row)
    settled: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in connection.execute(text("SELECT * FROM transfers WHERE kind IN ('capture', 'release')")):
        settled[row.job_id][row.kind] = row
    groups: dict[tuple[str | None, ...], list[Amounts]] = defaultdict(list)

    def add(at: datetime, job: Any, amounts: Amounts, call: Any = None) -> None:
        if not from_at <= at < to_at or account_id not in (None, job.account_id):
            return
        of = {
            "day": at.astimezone(UTC).date().isoformat(), "account": job.account_id, "key": job.key_id or "",
            "operation": job.operation, "model": (call or job).model, "provider": (call or job).provider,
            "outcome": job.status,
        }  # fmt: skip
        groups[tuple(of[name] if name in by else None for name in DIMENSIONS)].append(amounts)

    for job in jobs.values():
        moves = settled[job.id]
        for kind, move in moves.items():
            add(move.created_at, job, Amounts(**{f"{kind}d": move.amount}))
        first = moves.get("capture") or moves.get("release")
        at = first.created_at if first else job.finished_at
        sold = images.get(job.id, 0) if job.status == "succeeded" or job.captured else 0
        add(at, job, Amounts(jobs=1, images=sold))
        for call in calls[job.id]:
            paid = call.outcome in ("kept", "lost") or call.reported_cost is not None or call.written_off
            if paid:
                cost, guess = call.reported_cost, call.expected_cost
                amounts = Amounts(
                    calls=1, reported_cost=cost or 0, computed_cost=0 if cost is not None else guess or 0,
                    uncosted_calls=int(cost is None and guess is None),
                )  # fmt: skip
                add(at, job, amounts, call)
    return {group: Amounts.sum(parts) for group, parts in groups.items()}


def groups_of(found: Sequence[Usage]) -> dict[tuple[str | None, ...], Amounts]:
    return {tuple(getattr(each, name) for name in DIMENSIONS): each.amounts for each in found}


@pytest.fixture
def ledger(database: Database) -> Database:
    with database.transaction() as connection:
        seed(connection, random.Random(18))
    return database


def roll_up(database: Database, until: datetime) -> int:
    hours = 0
    while True:
        with database.transaction() as connection:
            if not add_up_next(connection, until):
                return hours
        hours += 1


def findings(database: Database) -> list[audit.Finding]:
    with database.transaction() as connection:
        return [each for each in audit.check(connection) if each.invariant.startswith("usage")]


STAGES = [
    pytest.param([], id="nothing rolled up"),
    pytest.param([timedelta(hours=31)], id="a day and some hours"),
    pytest.param([timedelta(hours=5), timedelta(days=DAYS + 1)], id="everything, in two goes"),
]


@pytest.mark.parametrize("stages", STAGES)
def test_usage_is_what_our_own_sql_finds_however_much_is_rolled_up(ledger: Database, stages: list[timedelta]) -> None:
    dice = random.Random(len(stages))
    for each in stages:
        roll_up(ledger, MIDNIGHT + each)
    with ledger.transaction() as connection:
        for _ in range(8):
            since, until = sorted(MIDNIGHT + timedelta(minutes=dice.choice([1, 30, 60]) * dice.randrange(-60, 90 * 60))
                                  for _ in range(2))  # fmt: skip
            asked: dict[str, Any] = {
                "from_at": since, "to_at": until + timedelta(minutes=1),
                "by": dice.sample(DIMENSIONS, dice.randint(0, 4)), "account_id": dice.choice([None, "acct_a"]),
            }  # fmt: skip
            found = groups_of(usage(connection, **asked, costs=True))
            assert found == counted_by_hand(connection, **asked), asked
    assert findings(ledger) == []


def test_a_day_that_is_rolled_up_is_one_step(ledger: Database) -> None:
    roll_up(ledger, MIDNIGHT + timedelta(hours=25))
    with ledger.autocommit() as connection:
        steps = connection.execute(text("SELECT to_at - from_at FROM usage_steps ORDER BY from_at")).scalars().all()
    assert steps[-2:] == [timedelta(days=1), timedelta(hours=1)]
    assert sum(steps, timedelta()) in (timedelta(hours=25), timedelta(hours=26))  # a microsecond before midnight


def test_what_only_cost_is_told_to_no_one_but_who_may_see_cost(ledger: Database) -> None:
    asked: dict[str, Any] = {"from_at": MIDNIGHT, "to_at": MIDNIGHT + timedelta(days=DAYS), "account_id": None}
    with ledger.autocommit() as connection:
        seen = {each.model for each in usage(connection, **asked, by=("model",), costs=False)}
        assert seen == {"m1", "m2"}
        assert {each.model for each in usage(connection, **asked, by=("model",), costs=True)} == {"m1", "m2", "m3"}


def test_more_groups_than_one_answer_has_are_refused(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usages, "MAX_GROUPS", 1)
    asked: dict[str, Any] = {"from_at": MIDNIGHT, "to_at": MIDNIGHT + timedelta(days=1), "account_id": None}
    with ledger.autocommit() as connection:
        assert len(usage(connection, **asked, by=(), costs=True)) == 1
        with pytest.raises(usages.TooManyGroupsError):
            usage(connection, **asked, by=("model",), costs=True)


def test_retention_changes_no_usage(ledger: Database) -> None:
    asked: dict[str, Any] = {"from_at": MIDNIGHT, "to_at": MIDNIGHT + timedelta(days=DAYS), "account_id": None}
    with ledger.transaction() as connection:
        before = usage(connection, **asked, by=DIMENSIONS, costs=True)
        connection.execute(text("UPDATE images SET deleted_at = now()"))
        assert usage(connection, **asked, by=DIMENSIONS, costs=True) == before
    roll_up(ledger, MIDNIGHT + timedelta(days=DAYS + 1))
    with ledger.transaction() as connection:
        # Not what retention does today: the sums of closed days stand even without their jobs.
        connection.execute(text("DELETE FROM jobs"))
        assert usage(connection, **asked, by=DIMENSIONS, costs=True) == before


# ---------------------------------------------------------------- closing and opening


@pytest.fixture
def rollup(database: Database) -> UsageRollup:
    return UsageRollup(database, clock=iter(range(0, 10_000_000, 61)).__next__)


@pytest.fixture
def old(engine: Engine, account: Caller) -> Iterator[str]:
    """A job that was settled two hours ago, by the database's own clock."""
    job_id = engine.order(account, model=SYNC_MODEL, size="1024x1024").task.id
    engine.drive()
    engine.sql("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final")
    engine.sql("UPDATE transfers SET created_at = created_at - interval '2 hours'")
    engine.sql("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final")
    engine.sql("UPDATE jobs SET finished_at = finished_at - interval '2 hours'")
    engine.sql("UPDATE upstream_calls SET intended_at = intended_at - interval '2 hours'")
    yield job_id
    assert findings(engine.database) == []


def seen(engine: Engine, *by: str) -> list[Usage]:
    now = datetime.now(UTC)
    with engine.database.autocommit() as connection:
        return usage(
            connection, from_at=now - timedelta(days=1), to_at=now + timedelta(hours=1), by=by, account_id=None,
            costs=True,
        )  # fmt: skip


def test_a_job_is_seen_at_once_by_the_key_that_ordered_it(engine: Engine, account: Caller) -> None:
    caller = Caller(account.account_id, key_id="0123456789ab")
    kept = engine.order(caller, model=SYNC_MODEL, size="1024x1024", n=2).task.id
    engine.order(account, "no [sandbox:refuse]", model=SYNC_MODEL, size="1024x1024")
    engine.drive()
    refused, sold = seen(engine, "key", "outcome")
    [call] = engine.calls(kept)
    job = engine.job(kept)
    assert (sold.key, sold.outcome, refused.key, refused.outcome) == ("0123456789ab", "succeeded", "", "failed")
    assert sold.amounts == Amounts(1, 2, job.captured, 0, 1, call.reported_cost, 0, 0)
    assert refused.amounts.released == engine.rows("SELECT amount FROM transfers WHERE kind = 'release'")[0].amount
    assert (refused.amounts.jobs, refused.amounts.images, refused.amounts.cost) == (1, 0, 0)


def test_the_sweep_adds_up_an_hour_that_has_ended_and_no_other(engine: Engine, old: str, account: Caller) -> None:
    engine.order(account)
    engine.drive()
    before = seen(engine, *DIMENSIONS)
    engine.sweeper.sweep()
    [step] = engine.rows("SELECT from_at, to_at FROM usage_steps ORDER BY from_at LIMIT 1")
    [settled_at] = engine.rows("SELECT created_at FROM transfers WHERE job_id = :id AND kind = 'capture'", id=old)
    assert step.from_at <= settled_at.created_at < step.to_at == step.from_at + timedelta(hours=1)
    assert engine.one("SELECT count(*) FROM usage_sums") == 1
    assert engine.one("SELECT max(to_at) < now() - interval '5 minutes' FROM usage_steps")
    assert seen(engine, *DIMENSIONS) == before


def test_no_hour_is_added_up_while_a_writer_from_before_is_under_way(
    engine: Engine, old: str, rollup: UsageRollup
) -> None:
    with engine.database.transaction() as writer:
        writer.execute(text("UPDATE balances SET spendable = spendable"))  # from here on it has its id
        assert rollup.work() == 0
        assert rollup.work() == 0
    assert rollup.work() > 0
    assert engine.one("SELECT sum(jobs) FROM usage_sums") == 1, old


def test_a_writer_from_after_the_barrier_holds_nothing_up(engine: Engine, old: str, rollup: UsageRollup) -> None:
    with engine.database.transaction() as before:
        before.execute(text("UPDATE balances SET spendable = spendable"))
        assert rollup.work() == 0
    with engine.database.transaction() as after:
        after.execute(text("UPDATE balances SET spendable = spendable"))
        assert rollup.work() > 0, old


def test_a_cost_that_is_told_late_opens_its_hour_again(engine: Engine, old: str, rollup: UsageRollup) -> None:
    assert rollup.work() > 0
    engine.sql("UPDATE upstream_calls SET reported_cost = 123456 WHERE job_id = :id", id=old)
    assert engine.one("SELECT count(*) FROM usage_sums") == 0
    assert seen(engine)[0].amounts.reported_cost == 123456
    assert rollup.work() > 0
    assert engine.one("SELECT sum(reported_cost) FROM usage_sums") == 123456
    assert seen(engine)[0].amounts.reported_cost == 123456


def test_a_change_that_is_of_no_account_opens_nothing(engine: Engine, old: str, rollup: UsageRollup) -> None:
    assert rollup.work() > 0
    engine.sql("UPDATE upstream_calls SET upstream_id = 'x' WHERE job_id = :id", id=old)
    assert engine.one("SELECT count(*) FROM usage_sums") == 1


def test_sums_that_are_wrong_are_found_and_made_again(engine: Engine, old: str, rollup: UsageRollup) -> None:
    assert rollup.work() > 0
    engine.sql("UPDATE usage_sums SET captured = captured + 1")
    [by_facts, by_money] = findings(engine.database)
    assert by_facts.subject == by_money.subject
    with engine.database.transaction() as connection:
        assert drop_step(connection, datetime.fromisoformat(by_facts.subject))
        assert not drop_step(connection, datetime.fromisoformat(by_facts.subject))
    assert rollup.work() > 0
    assert engine.job(old).captured == engine.one("SELECT sum(captured) FROM usage_sums")


def test_amounts_add_up() -> None:
    one = Amounts(*range(1, 9))
    assert astuple(Amounts.sum([one, one])) == tuple(2 * each for each in range(1, 9))
    assert Amounts.sum([]) == Amounts()
