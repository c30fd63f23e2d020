"""What a key may order from and spend: kept at the submit, however many orders come at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from threading import Barrier

import pytest
from job_engine import ASYNC_MODEL, ASYNC_PRICE, SYNC_MODEL, Engine

from accounts.accounts import change_account
from accounts.keys import Caller, authenticate, create_key
from accounts.order_limits import OrderLimits
from core.db import Hot
from jobs.errors import ModelNotAllowedError
from jobs.submission import spending
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order
from jobs.submission.spending import SpendingLimitError
from quota.errors import InsufficientCreditsError

THREADS = 8


@pytest.fixture
def caller_of(engine: Engine, account: Caller) -> Callable[..., Caller]:
    """A caller by a new key of the account, as the guard would know it."""

    def made(**fields: object) -> Caller:
        with engine.database.transaction() as connection:
            token = create_key(connection, account.account_id, **fields).token  # type: ignore[arg-type]
            found = authenticate(connection, token)
        assert found is not None
        return found

    return made


def ordered(engine: Engine, caller: Caller, count: int) -> list[BaseException | None]:
    """What each of so many submits at once has raised."""
    start = Barrier(THREADS)

    def submit(number: int) -> BaseException | None:
        if number < THREADS:
            start.wait(10)
        key = IdempotencyKey(f"k{number}", b"x") if number % 2 else None
        try:
            engine.order(caller, publish=False, key=key)
        except (SpendingLimitError, InsufficientCreditsError) as error:
            return error
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(submit, range(count)))


@pytest.mark.parametrize("limit", ["spend_day_limit", "spend_month_limit"])
@pytest.mark.parametrize("whose", ["key", "account"])
def test_orders_at_once_cannot_overspend(
    engine: Engine, account: Caller, caller_of: Callable[..., Caller], whose: str, limit: str
) -> None:
    allowed = 5
    limits = {limit: allowed * ASYNC_PRICE + ASYNC_PRICE // 2}
    if whose == "account":
        with engine.database.transaction() as connection:
            change_account(connection, account.account_id, limits)
        limits = {}
    caller = caller_of(**limits)
    assert caller.orders_by_limits
    raised = ordered(engine, caller, 3 * THREADS)
    assert raised.count(None) == allowed == engine.one("SELECT count(*) FROM jobs")
    assert {type(error) for error in raised} == {type(None), SpendingLimitError}
    assert engine.balance(account).queued == allowed * ASYNC_PRICE
    assert engine.one("SELECT count(*) FROM idempotency_keys") <= allowed  # none is kept of a refused order


def test_what_is_given_back_may_be_spent_again(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    caller = caller_of(spend_day_limit=2 * ASYNC_PRICE)
    first, _ = engine.order(caller), engine.order(caller)
    with pytest.raises(SpendingLimitError) as refused:
        engine.order(caller)
    facts = refused.value.facts
    assert (facts["limit_of"], facts["period"]) == ("key", "day")
    assert (facts["spent_microcredits"], facts["limit_microcredits"]) == (2 * ASYNC_PRICE, 2 * ASYNC_PRICE)
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id", id=first.task.id)
    engine.sweeper.sweep()  # it fails as deadline_expired, free
    assert engine.one("SELECT status FROM jobs WHERE id = :id", id=first.task.id) == "failed"
    engine.order(caller)
    with pytest.raises(SpendingLimitError):
        engine.order(caller)
    engine.drive()  # made and captured: it counts what was charged
    with pytest.raises(SpendingLimitError):
        engine.order(caller)


def test_a_period_ends(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    caller = caller_of(spend_day_limit=ASYNC_PRICE, spend_month_limit=2 * ASYNC_PRICE)
    engine.order(caller)
    engine.sql("UPDATE jobs SET created_at = date_trunc('day', clock_timestamp()) - interval '1 ms'")
    first_of_month = engine.one("SELECT date_trunc('day', clock_timestamp()) = date_trunc('month', clock_timestamp())")
    engine.order(caller)
    with pytest.raises(SpendingLimitError) as refused:
        engine.order(caller)
    assert refused.value.facts["period"] == "day"
    engine.sql("UPDATE jobs SET created_at = date_trunc('month', clock_timestamp())")
    with pytest.raises(SpendingLimitError) as refused:
        engine.order(caller)
    assert first_of_month or refused.value.facts["period"] == "month"
    engine.sql("UPDATE jobs SET created_at = date_trunc('month', clock_timestamp()) - interval '1 ms'")
    engine.order(caller)


def test_the_orders_of_another_key_do_not_count(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    one, other = caller_of(spend_day_limit=ASYNC_PRICE), caller_of(spend_day_limit=ASYNC_PRICE)
    engine.order(one)
    engine.order(other)
    for caller in (one, other):
        with pytest.raises(SpendingLimitError):
            engine.order(caller)
    assert {row.key_id for row in engine.rows("SELECT key_id FROM jobs")} == {one.key_id, other.key_id}


def test_a_repeat_of_an_accepted_order_is_no_spending(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    caller, key = caller_of(spend_day_limit=ASYNC_PRICE), IdempotencyKey("again", b"x")
    assert engine.order(caller, key=key).task.id == engine.order(caller, key=key).task.id


def test_a_limit_of_nothing(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    with pytest.raises(SpendingLimitError):
        engine.order(caller_of(spend_month_limit=0))
    assert not caller_of().orders_by_limits


@pytest.mark.parametrize("whose", ["key", "account"])
def test_what_is_noted_of_ended_jobs_is_the_sum_of_all(
    engine: Engine, account: Caller, caller_of: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Jobs of random ages end in random order; what the limit says was spent is always what SQL of its own adds up."""
    monkeypatch.setattr(spending, "JOBS_READ", 2)
    caller, chance = caller_of(), Random(7)
    limits = OrderLimits(whose, caller.key_id if whose == "key" else account.account_id, 0, 0)  # type: ignore[arg-type]
    moved = set()
    for _ in range(12):
        for _ in range(3):
            task = engine.order(caller, publish=False).task
            engine.sql(
                "UPDATE jobs SET created_at = greatest(clock_timestamp() - make_interval(hours => :h),"
                " (SELECT max(upto) + interval '1 ms' FROM spending_memos)) WHERE id = :id",
                h=chance.choice((0, 1, 5, 30, 300)), id=task.id,
            )  # fmt: skip
        engine.sql(
            "UPDATE jobs SET status = 'failed', money = 'settled', failure_code = 'x', captured = 0, released = quoted,"
            " finished_at = clock_timestamp() WHERE id IN (SELECT id FROM jobs WHERE money = 'queued'"
            " ORDER BY created_at LIMIT :n)",
            n=chance.randint(1, 4),
        )
        engine.sql("UPDATE jobs SET captured = quoted / 2, released = quoted - quoted / 2 WHERE money = 'settled'")
        with pytest.raises(SpendingLimitError) as refused, engine.database.transaction() as connection:
            spending.check(Hot.of(connection), limits, 1)
        month = replace(limits, day_microcredits=None)
        with pytest.raises(SpendingLimitError) as refused_month, engine.database.transaction() as connection:
            spending.check(Hot.of(connection), month, 1)
        told = [each.value.facts["spent_microcredits"] for each in (refused, refused_month)]
        cost = "SELECT coalesce(sum(CASE WHEN money = 'settled' THEN captured ELSE quoted END), 0) FROM jobs"
        at = "WHERE created_at >= date_trunc('{}', clock_timestamp())"
        assert told == [engine.one(f"{cost} {at.format(period)}") for period in ("day", "month")]
        with engine.database.transaction() as connection:  # a refusal is rolled back, and what it noted with it
            spending.check(Hot.of(connection), replace(limits, day_microcredits=None, month_microcredits=None), 1)
        moved |= {row.upto for row in engine.rows("SELECT upto FROM spending_memos")}
    assert len(moved) > 3


# ---------------------------------------------------------------- allow-lists


def test_only_listed_models_and_providers_are_ordered_from(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    one = caller_of(models=[ASYNC_MODEL])
    assert engine.order(one).task.model == ASYNC_MODEL
    with pytest.raises(ModelNotAllowedError) as refused:
        engine.order(one, model=SYNC_MODEL)
    assert refused.value.facts["models"] == [SYNC_MODEL]
    openai = caller_of(providers=["openai"])
    assert engine.order(openai, model=SYNC_MODEL, size="1024x1024").task.provider == "openai"
    with pytest.raises(ModelNotAllowedError):
        engine.order(openai)
    with pytest.raises(ModelNotAllowedError):
        engine.order(caller_of(models=[ASYNC_MODEL], providers=["openai"]))


def test_an_order_without_a_model_gets_an_allowed_one(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    for model in (ASYNC_MODEL, SYNC_MODEL):
        submitted = engine.submission.submit(caller_of(models=[model]), Order("generate", {"prompt": "a fox"}))
        assert submitted.task.model == model
    with pytest.raises(ModelNotAllowedError):
        engine.submission.submit(caller_of(providers=["xai"]), Order("generate", {"prompt": "a fox"}))


def test_a_fallback_is_listed_too(engine: Engine, caller_of: Callable[..., Caller]) -> None:
    with pytest.raises(ModelNotAllowedError) as refused:
        engine.order(caller_of(models=[ASYNC_MODEL]), fallback_models=[SYNC_MODEL], size="1024x1024")
    assert refused.value.facts["models"] == [SYNC_MODEL]
    with pytest.raises(ModelNotAllowedError):
        engine.submission.estimate(
            caller_of(models=[ASYNC_MODEL]), Order("generate", {"prompt": "a fox", "model": SYNC_MODEL})
        )
