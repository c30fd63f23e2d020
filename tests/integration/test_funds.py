"""What an owner is told of its money, and that telling is cheap."""

from __future__ import annotations

from job_engine import ASYNC_PRICE, Engine
from sqlalchemy import text

from accounts.keys import Caller
from jobs.reads import funds
from jobs.reads.funds import Funds


def test_an_account_without_a_balance_has_nothing(engine: Engine) -> None:
    assert engine.balance(engine.account(0)) == Funds(spendable=0, queued=0, held=0)


def test_each_job_is_counted_once_and_only_for_its_account(engine: Engine, account: Caller) -> None:
    other = engine.account()
    before = engine.balance(account)
    for prompt in ("done", "on [sandbox:never]"):
        job_id = engine.order(account, prompt).task.id
        engine.run(job_id)
        if prompt == "done":
            engine.drive()
    engine.order(account, "later", publish=False)
    after = engine.balance(account)
    assert after == Funds(
        spendable=before.spendable - 3 * ASYNC_PRICE,
        queued=ASYNC_PRICE,
        held=ASYNC_PRICE,
    )
    assert after.available == before.available - 2 * ASYNC_PRICE
    assert engine.balance(other) == before


def test_a_look_at_the_funds_reads_no_ended_and_no_queued_job(engine: Engine, account: Caller) -> None:
    """Index jobs_held has only what is held; by another index all jobs of the account would be read."""
    engine.sql(
        "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted, captured,"
        " released, finished_at) SELECT 'job_' || i, :a, 'generate', 'm', 'p', 1, 'succeeded', 'settled', 1, 1, 1, 0,"
        " clock_timestamp() FROM generate_series(1, 5000) AS i",
        a=account.account_id,
    )
    with engine.database.autocommit() as connection:
        connection.execute(text("ANALYZE jobs"))
        plan = connection.execute(text(f"EXPLAIN {funds._FUNDS.text}"), {"account_id": account.account_id}).scalars()
        assert "jobs_held" in "\n".join(plan)
