"""Many jobs of one account do not delay the few of another: the order of status checks and fetches, not timed."""

from __future__ import annotations

import pytest
from job_engine import Engine, refuse_to_keep

from accounts.keys import Caller
from core.fair_pool import FairPool
from jobs.dispatch import due
from jobs.dispatch.due import Turns
from jobs.execution import poll

CROWD = 2_000
BATCH = 200


def flood(engine: Engine, customer: Caller, count: int, *, due_for_s: float = 60) -> None:
    """Insert ``count`` WAITING jobs of one account, all due for longer than those of others."""
    engine.sql(
        """
        WITH job AS (
            INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted,
                started_at, due_at, deadline_at)
            SELECT 'job_' || right(md5(:a || i), 26), :a, 'generate', 'chatgpt2api-gpt-image-2', 'chatgpt2api', 1,
                'waiting', 'held', 0, 0, clock_timestamp(),
                clock_timestamp() - make_interval(secs => :due_for_s) - i * interval '1 ms',
                clock_timestamp() + interval '1 hour'
            FROM generate_series(1, :count) AS i
            RETURNING id, account_id
        ),
        asked AS (INSERT INTO orders (job_id, request) SELECT id, '{}' FROM job),
        held AS (
            INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
            SELECT account_id, id, 'hold', 'acct:available', 'acct:held', 0 FROM job
        )
        INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,
            dedupe_key, outcome, give_up_at)
        SELECT 'call_' || id, id, 0, 1, 1, 'chatgpt2api', 'm', 'chatgpt2api/default', '', id, 'accepted',
            clock_timestamp() + interval '1 hour'
        FROM job
        """,
        a=customer.account_id,
        count=count,
        due_for_s=due_for_s,
    )


def take(engine: Engine, turns: Turns, limit: int = BATCH) -> list[str]:
    """Return the account of each job of the next batch."""
    with engine.database.hot() as hot:
        jobs = due.take_due(hot, "chatgpt2api", limit=limit, interval_s=60, interval_max_s=60, turns=turns)
    return [job.account_id for job in jobs]


def test_one_job_of_another_account_is_in_the_first_batch_among_two_thousand(engine: Engine, account: Caller) -> None:
    flood(engine, account, CROWD)
    other = engine.account()
    flood(engine, other, 1, due_for_s=0)
    batch = take(engine, Turns())
    assert other.account_id in batch
    assert len(batch) == BATCH  # the batch is full: the busy account gets what others do not need


def test_a_batch_is_shared_by_the_accounts_with_due_jobs(engine: Engine, account: Caller) -> None:
    flood(engine, account, CROWD)
    others = [engine.account() for _ in range(4)]
    for other in others:
        flood(engine, other, 30, due_for_s=0)
    batch = take(engine, Turns())
    assert all(batch.count(other.account_id) == 30 for other in others)


def test_every_account_has_a_turn_even_with_more_accounts_than_a_batch_considers(
    engine: Engine, account: Caller
) -> None:
    """With 150 accounts and 100 considered per batch, the next batch continues after them."""
    flood(engine, account, CROWD)
    others = {engine.account().account_id for _ in range(150)}
    for other in others:
        flood(engine, Caller(other), 1, due_for_s=0)
    turns = Turns()
    served = set(take(engine, turns)) | set(take(engine, turns))
    assert others <= served


def test_the_job_due_longest_is_first_within_an_account(engine: Engine, account: Caller) -> None:
    flood(engine, account, 50)
    oldest = [row.id for row in engine.rows("SELECT id FROM jobs ORDER BY due_at LIMIT 10")]
    with engine.database.hot() as hot:
        jobs = due.take_due(hot, "chatgpt2api", limit=10, interval_s=60, interval_max_s=60)
    assert {job.id for job in jobs} == set(oldest)


def test_a_batch_is_no_larger_than_what_can_be_fetched_now(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that this worker has no room for stay due for other workers."""
    flood(engine, account, 50)
    monkeypatch.setattr(engine.context.collecting, "_depth", 7)
    poll.poll_provider(engine.context, "chatgpt2api")
    assert engine.one("SELECT count(*) FROM jobs WHERE due_at > clock_timestamp()") == 7
    monkeypatch.setattr(FairPool, "room", lambda _: 0)
    assert poll.poll_provider(engine.context, "chatgpt2api") == []
    assert engine.one("SELECT count(*) FROM jobs WHERE due_at > clock_timestamp()") == 7


def test_a_quiet_accounts_image_is_fetched_before_the_last_of_a_busy_account(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All were finished while the store was away; with one fetched at a time, the quiet account's is the second."""
    crowd = [engine.order(account, f"crowd {number}", publish=False).task.id for number in range(12)]
    quiet = engine.order(engine.account(), "quiet", publish=False).task.id
    for job_id in [*crowd, quiet]:
        engine.run(job_id)
    with monkeypatch.context() as away:
        refuse_to_keep(away)
        engine.poll()
    monkeypatch.setattr(engine.context.collecting, "_size", 1)
    engine.poll()
    ended = [row.id for row in engine.rows("SELECT id FROM jobs WHERE finished_at IS NOT NULL ORDER BY finished_at")]
    assert len(ended) == 13
    assert quiet in ended[:3]
    engine.assert_books_balance()
