"""Jobs in flight, images a minute and the budget of a day: kept at the submit, however many orders come at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from job_engine import ASYNC_PRICE, Engine, image_bytes
from sqlalchemy import text

from accounts.accounts import change_account
from accounts.keys import Caller, authenticate, caller_of, create_key
from core.db import Hot
from jobs import counts
from jobs.errors import InvalidOrderError
from jobs.submission import budget
from jobs.submission.admission import Admission, Installation
from jobs.submission.budget import BudgetSpentError
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.load import LoadLimitError
from jobs.submission.order import ReferenceImage
from jobs.submission.references import References

THREADS = 6
MOST = 4


@pytest.fixture
def limited(engine: Engine, account: Caller) -> Callable[..., Caller]:
    """A caller, as the guard would know it, where ``whose`` has these limits."""

    def made(whose: str, **limits: Any) -> Caller:
        if whose == "installation":
            limits = {{"max_in_flight": "in_flight"}.get(name, name): value for name, value in limits.items()}
            engine.submission.admission = Admission(Installation(**limits))
        with engine.database.transaction() as connection:
            if whose == "account":
                change_account(connection, account.account_id, limits)
            fields = limits if whose == "key" else {}
            found = authenticate(connection, create_key(connection, account.account_id, **fields).token)
        assert found is not None
        assert found.orders_by_limits == (whose != "installation")
        return found

    return made


def ordered(engine: Engine, caller: Caller, count: int, **fields: Any) -> list[BaseException | None]:
    """What each of so many submits at once has raised."""
    start = Barrier(THREADS)

    def submit(number: int) -> BaseException | None:
        if number < THREADS:
            start.wait(10)
        key = IdempotencyKey(f"k{number}", b"x") if number % 2 else None
        try:
            engine.order(caller, publish=False, key=key, **fields)
        except (LoadLimitError, BudgetSpentError) as error:
            return error
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(submit, range(count)))


@pytest.mark.parametrize("limit", ["max_in_flight", "images_per_minute"])
@pytest.mark.parametrize("whose", ["key", "account", "installation"])
def test_orders_at_once_cannot_exceed_a_limit(
    engine: Engine, account: Caller, limited: Callable[..., Caller], whose: str, limit: str
) -> None:
    caller = limited(whose, **{limit: MOST})
    policy = f"{whose}-{'in-flight' if limit == 'max_in_flight' else 'images'}"
    before = counts.LIMITED.of(policy)._value.get()
    raised = ordered(engine, caller, 3 * THREADS)
    assert raised.count(None) == MOST == engine.one("SELECT count(*) FROM jobs")
    refused = [error for error in raised if isinstance(error, LoadLimitError)]
    assert len(refused) == 3 * THREADS - MOST == counts.LIMITED.of(policy)._value.get() - before
    assert {tuple(error.facts["violated-policies"]) for error in refused} == {(policy,)}
    assert {error.standing.left for error in refused} == {0}
    assert all(error.standing.reset_s >= 1 for error in refused)
    # Nothing of a refused order is kept, and nothing is charged for it.
    assert engine.balance(account).queued == MOST * ASYNC_PRICE
    assert engine.one("SELECT count(*) FROM idempotency_keys") <= MOST
    # Another key is bound by the limits of its account and of the installation alone.
    with engine.database.transaction() as connection:
        other = authenticate(connection, create_key(connection, account.account_id).token)
    assert other is not None
    if whose == "key":
        engine.order(other)
    else:
        with pytest.raises(LoadLimitError):
            engine.order(other)


@pytest.mark.parametrize("whose", ["key", "account", "installation"])
def test_a_job_is_in_flight_from_its_acceptance_to_its_end(
    engine: Engine, limited: Callable[..., Caller], whose: str
) -> None:
    if whose == "key":
        engine.order(limited("key", max_in_flight=9))  # the jobs of another key do not count
    caller = limited(whose, max_in_flight=2)
    first = engine.order(caller)
    [standing] = first.standings
    assert (standing.policy, standing.limit, standing.left) == (f"{whose}-in-flight", 2, 1)
    engine.order(caller)
    for status in ("queued", "waiting"):
        with pytest.raises(LoadLimitError):
            engine.order(caller)
        assert engine.job(first.task.id).status == status
        engine.step()
    engine.drive()
    assert engine.order(caller).standings[0].left == 1


def test_images_are_counted_and_come_back_evenly(engine: Engine, limited: Callable[..., Caller]) -> None:
    caller = limited("account", images_per_minute=6)
    assert [(each.policy, each.left) for each in engine.order(caller, n=4).standings] == [("account-images", 2)]
    with pytest.raises(LoadLimitError) as refused:
        engine.order(caller, n=3)
    standing = refused.value.standing
    assert (standing.left, standing.unit, standing.window_s) == (2, "images", 60)
    assert 1 <= standing.reset_s <= 10
    engine.sql("UPDATE image_buckets SET at = at - interval '10 s'")  # one more is there
    assert engine.order(caller, n=3).standings[0].left == 0
    with pytest.raises(InvalidOrderError) as impossible:
        engine.order(caller, n=7)
    assert [(fault.field, fault.code) for fault in impossible.value.faults] == [("n", "out_of_range")]
    engine.sql("UPDATE image_buckets SET at = at - interval '1 day'")
    assert engine.order(caller, n=1).standings[0].left == 5  # a bucket holds no more than its limit


def test_a_repeat_and_a_refused_order_take_nothing(engine: Engine, limited: Callable[..., Caller]) -> None:
    caller, key = limited("key", images_per_minute=2, max_in_flight=1), IdempotencyKey("again", b"x")
    first = engine.order(caller, key=key)
    assert engine.order(caller, key=key).task.id == first.task.id
    with pytest.raises(LoadLimitError):  # in flight
        engine.order(caller)
    engine.drive()
    assert [each.left for each in engine.order(caller).standings] == [0, 0]


def test_no_image_is_read_for_an_order_that_has_to_wait(
    engine: Engine, limited: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = limited("installation", max_in_flight=1, images_per_minute=2)
    engine.order(caller)
    monkeypatch.setattr(References, "keep", lambda *_: pytest.fail("it was decoded and kept"))
    with pytest.raises(LoadLimitError):
        engine.order(caller, operation="edit", references=[ReferenceImage("image", image_bytes(), "images[0]")])


def test_orders_without_a_limit_take_no_lock(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        connection.execute(text("SELECT 1 FROM accounts FOR NO KEY UPDATE"))
        assert engine.order(account).standings == ()
    assert engine.one("SELECT count(*) FROM image_buckets") == 0


# ---------------------------------------------------------------- the budget of a day


def test_orders_at_once_cannot_exceed_the_budget(
    engine: Engine, account: Caller, limited: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "JOBS_READ", 0)
    caller = limited("installation", day_microcredits=MOST * ASYNC_PRICE + ASYNC_PRICE // 2)
    raised = ordered(engine, caller, 2 * THREADS)
    assert raised.count(None) == MOST == engine.one("SELECT count(*) FROM jobs")
    [error, *_] = [error for error in raised if isinstance(error, BudgetSpentError)]
    assert set(error.facts) == {"limit_of", "period", "resets_at"}  # what others spend is no one's affair
    one = engine.one("SELECT min(id) FROM jobs")
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id", id=one)
    engine.sweeper.sweep()  # it fails as deadline_expired, free: what it might have cost may be spent again
    engine.order(caller)
    with pytest.raises(BudgetSpentError):
        engine.order(engine.account())
    engine.sql("UPDATE jobs SET published_at = NULL WHERE status = 'queued'")  # no message was sent above
    engine.drive()  # made and charged
    with pytest.raises(BudgetSpentError):
        engine.order(caller)
    # What was charged until a minute ago is summed up once and for all.
    engine.sql("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final")
    engine.sql("UPDATE transfers SET created_at = created_at - interval '2 min' WHERE id % 2 = 0")
    engine.sql("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final")
    charged = "SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'capture' AND created_at >= {}"
    today = engine.one(charged.format("date_trunc('day', clock_timestamp())"))
    for _ in range(3):
        with engine.database.transaction() as connection:
            budget.check(Hot.of(connection), int(today) + 1, 1)
        with pytest.raises(BudgetSpentError), engine.database.transaction() as connection:
            budget.check(Hot.of(connection), int(today), 1)
    engine.sql("UPDATE spending_memos SET upto = upto - interval '1 day'")  # of another day: it counts no more
    assert engine.one("SELECT count(*) FROM spending_memos WHERE id = 'installation'") == 1


def test_a_batch_is_bound_by_the_limits_of_its_key(engine: Engine, limited: Callable[..., Caller]) -> None:
    caller = limited("key", max_in_flight=1)
    with engine.database.autocommit() as connection:
        assert caller_of(connection, caller.account_id, caller.key_id).orders_by_limits
