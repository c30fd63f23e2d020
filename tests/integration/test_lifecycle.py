"""Every verb: where it takes a job from and to, what it writes, and that it refuses everything else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from job_engine import ASYNC_PRICE, SYNC_MODEL, Engine
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from jobs import lifecycle
from jobs.desk import Customer
from jobs.errors import JobNotFoundError, StaleJobError
from jobs.states import JobStatus, Nudge

STEP_S = {"chatgpt2api": 120.0}
GIVE_UP_S: dict[str, float] = {}
STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
Verb = Callable[[Connection, str, int], Any]


def claim(connection: Connection, job_id: str, _fence: int) -> Any:
    row = lifecycle.claim(connection, job_id, owner="wkr_test", step_s=STEP_S)
    lifecycle.hold(connection, row)
    return row


def park(connection: Connection, job_id: str, fence: int) -> Any:
    return lifecycle.park(connection, job_id, fence, check_after_s=1)


def found(connection: Connection, job_id: str, fence: int) -> Any:
    return lifecycle.found(connection, job_id, fence, owner="wkr_test", step_s=STEP_S)


def retry(connection: Connection, job_id: str, fence: int) -> Any:
    return lifecycle.retry(connection, job_id, fence, code="upstream_failed", after_s=0)


def keep_pictures(connection: Connection, job_id: str, count: int = 1) -> None:
    """Rows of pictures kept, each by a call of its own: what a job is charged for."""
    connection.execute(
        text(
            "WITH number AS (SELECT generate_series(0, :count - 1) AS n), c AS (INSERT INTO upstream_calls (id, job_id,"
            " slot, try, pictures, provider, model, credential_id, base_url, dedupe_key, outcome, give_up_at,"
            " pictures_kept) SELECT 'call_' || :job || n, :job, n, 1, 1, 'chatgpt2api', 'm', 'chatgpt2api/default', '',"
            " :job || n, 'kept', now(), 1 FROM number ON CONFLICT DO NOTHING RETURNING id, job_id, slot)"
            " INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256)"
            " SELECT job_id, slot, id, 'k', 'image/png', 1, '' FROM c ON CONFLICT DO NOTHING"
        ),
        {"job": job_id, "count": count},
    )


def succeed(connection: Connection, job_id: str, fence: int) -> Any:
    keep_pictures(connection, job_id)
    return lifecycle.succeed(connection, job_id, fence, kept=1, notes=[])


def fail(connection: Connection, job_id: str, fence: int) -> Any:
    return lifecycle.fail(connection, job_id, fence, code="upstream_failed")


def cancelled(connection: Connection, job_id: str, fence: int) -> Any:
    return lifecycle.cancelled(connection, job_id, fence, outcome="stopped_upstream", kept=0)


def lapse(connection: Connection, job_id: str, fence: int) -> Any:
    return lifecycle.lapse(connection, job_id, fence, code="owner_gone", give_up_s=GIVE_UP_S)


VERBS: dict[str, tuple[Verb, set[str], str, str]] = {
    "claim": (claim, {"queued"}, "running", "started"),
    "park": (park, {"running"}, "waiting", "waiting"),
    "found": (found, {"waiting"}, "running", "collecting"),
    "retry": (retry, {"running", "waiting"}, "queued", "retry"),
    "succeed": (succeed, {"running", "waiting"}, "succeeded", "succeeded"),
    "fail": (fail, {"running", "waiting"}, "failed", "failed"),
    "cancelled": (cancelled, {"running", "waiting"}, "cancelled", "cancelled"),
    "lapse": (lapse, {"running"}, "waiting", "lapsed"),
}
ROADS: dict[str, list[Verb]] = {
    "queued": [],
    "running": [claim],
    "waiting": [claim, park],
    "succeeded": [claim, succeed],
    "failed": [claim, fail],
    "cancelled": [claim, cancelled],
}


def bring(engine: Engine, customer: Customer, state: str) -> str:
    """A job in this state, by the verbs alone."""
    job_id = engine.order(customer, publish=False).task.id
    for verb in ROADS[state]:
        do(engine, verb, job_id)
    assert engine.job(job_id).status == state
    return job_id


def do(engine: Engine, verb: Verb, job_id: str, fence: int | None = None) -> Any:
    with engine.database.transaction() as connection:
        return verb(connection, job_id, engine.job(job_id).fence if fence is None else fence)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_moves_from_its_states_and_from_no_other(engine: Engine, account: Customer, name: str) -> None:
    verb, sources, target, event = VERBS[name]
    for state in STATES:
        job_id = bring(engine, account, state)
        before, told = engine.job(job_id), engine.events(job_id)
        if state in sources:
            do(engine, verb, job_id)
            after = engine.job(job_id)
            assert (after.status, engine.events(job_id)) == (target, [*told, event])
            assert after.version == before.version + 1
        else:
            with pytest.raises(StaleJobError):
                do(engine, verb, job_id)
            assert (engine.job(job_id), engine.events(job_id)) == (before, told)
    engine.assert_books_balance(pictures=False)


@pytest.mark.parametrize("name", [name for name in VERBS if name != "claim"])
def test_a_verb_under_another_fence_changes_nothing(engine: Engine, account: Customer, name: str) -> None:
    verb, sources, _, _ = VERBS[name]
    for state in sorted(sources):
        job_id = bring(engine, account, state)
        before = engine.job(job_id)
        for fence in (before.fence - 1, before.fence + 1):
            with pytest.raises(StaleJobError):
                do(engine, verb, job_id, fence)
        assert engine.job(job_id) == before


@pytest.mark.parametrize("name", ["claim", "found", "lapse"])
def test_whoever_takes_a_job_gets_a_new_fence(engine: Engine, account: Customer, name: str) -> None:
    verb, sources, _, _ = VERBS[name]
    job_id = bring(engine, account, min(sources))
    before = engine.job(job_id).fence
    do(engine, verb, job_id)
    assert engine.job(job_id).fence == before + 1


def test_only_a_running_job_has_an_owner_and_a_step_deadline(engine: Engine, account: Customer) -> None:
    running = engine.job(bring(engine, account, "running"))
    assert running.owner == "wkr_test"
    assert running.step_deadline_at is not None
    for state in set(STATES) - {"running"}:
        row = engine.job(bring(engine, account, state))
        assert (row.owner, row.step_deadline_at) == (None, None)


@pytest.mark.parametrize(
    ("state", "money", "kinds"),
    [
        ("queued", (0, 1, 0), {}),
        ("running", (-1, 0, 1), {"hold": 1}),
        ("waiting", (-1, 0, 1), {"hold": 1}),
        ("succeeded", (-1, 0, 0), {"hold": 1, "capture": 1}),
        ("failed", (0, 0, 0), {"hold": 1, "release": 1}),
        ("cancelled", (0, 0, 0), {"hold": 1, "release": 1}),
    ],
)
def test_money_moves_with_the_state(
    engine: Engine, account: Customer, state: str, money: tuple[int, int, int], kinds: dict[str, int]
) -> None:
    before = engine.balance(account)
    job_id = bring(engine, account, state)
    after = engine.balance(account)
    moved = (after.available - before.available, after.queued - before.queued, after.held - before.held)
    assert moved == tuple(part * ASYNC_PRICE for part in money)
    assert engine.transfers(job_id) == {kind: part * ASYNC_PRICE for kind, part in kinds.items()}


def test_a_retry_keeps_the_hold_and_the_next_claim_does_not_hold_again(engine: Engine, account: Customer) -> None:
    job_id = bring(engine, account, "running")
    held = engine.balance(account)
    do(engine, retry, job_id)
    assert engine.balance(account) == held
    do(engine, claim, job_id)
    assert engine.balance(account) == held
    do(engine, succeed, job_id)
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
    engine.assert_books_balance(pictures=False)


def test_a_claim_needs_the_job_to_be_due_and_before_its_start_deadline(engine: Engine, account: Customer) -> None:
    job_id = bring(engine, account, "queued")
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() + interval '1 hour'")
    with pytest.raises(StaleJobError):
        do(engine, claim, job_id)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp(), start_deadline_at = clock_timestamp()")
    with pytest.raises(StaleJobError):
        do(engine, claim, job_id)
    engine.sql("UPDATE jobs SET attempt = 1")  # it was started in time
    do(engine, claim, job_id)


def test_only_a_job_never_sent_and_past_its_deadline_expires(engine: Engine, account: Customer) -> None:
    job_id = bring(engine, account, "queued")
    before = engine.balance(account).spendable
    with pytest.raises(StaleJobError), engine.database.transaction() as connection:
        lifecycle.expire(connection, job_id)
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp(), attempt = 1")
    with pytest.raises(StaleJobError), engine.database.transaction() as connection:
        lifecycle.expire(connection, job_id)
    engine.sql("UPDATE jobs SET attempt = 0")
    with engine.database.transaction() as connection:
        lifecycle.expire(connection, job_id)
    assert engine.job(job_id).failure_code == "deadline_expired"
    assert engine.balance(account).spendable == before + ASYNC_PRICE
    assert engine.transfers(job_id) == {}
    engine.assert_books_balance(pictures=False)


def test_a_wish_to_cancel_bars_success_and_retry(engine: Engine, account: Customer) -> None:
    job_id = bring(engine, account, "running")
    with engine.database.transaction() as connection:
        assert lifecycle.cancel(connection, account.account_id, job_id).outcome == "stop_requested"
    for verb in (succeed, retry):
        with pytest.raises(StaleJobError):
            do(engine, verb, job_id)
    do(engine, park, job_id)
    assert engine.one("SELECT due_at <= clock_timestamp() FROM jobs WHERE id = :id", id=job_id)


def test_cancel_in_the_queue_is_final_and_free(engine: Engine, account: Customer) -> None:
    before = engine.balance(account)
    job_id = bring(engine, account, "queued")
    answer = cancel(engine, account, job_id)
    assert answer.outcome == "freed_in_queue"
    row = engine.job(job_id)
    assert (row.status, row.cancel_outcome, row.released) == ("cancelled", "freed_in_queue", ASYNC_PRICE)
    assert engine.balance(account) == before
    assert cancel(engine, account, job_id).outcome == "too_late"
    assert engine.job(job_id) == row
    engine.assert_books_balance(pictures=False)


@pytest.mark.parametrize(("charge", "captured"), [("full", 1), ("none", 0)])
def test_cancel_between_attempts_charges_what_was_made(
    engine: Engine, account: Customer, charge: Any, captured: int
) -> None:
    """n=3 on a provider of one a call: the first is kept, the second waits for its second attempt."""
    job_id = engine.order(account, "three [sandbox:fail=500 skip=1]", n=3).task.id
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt > 0)
    assert engine.one("SELECT count(*) FROM images WHERE job_id = :id", id=job_id) == 1
    with engine.database.transaction() as connection:
        assert lifecycle.cancel(connection, account.account_id, job_id, charge=charge).outcome == "too_late"
    row = engine.job(job_id)
    assert (row.status, row.captured) == ("cancelled", captured * ASYNC_PRICE)
    assert row.captured + row.released == row.quoted
    engine.assert_books_balance()


def test_nobody_cancels_what_is_not_theirs(engine: Engine, account: Customer) -> None:
    job_id, other = bring(engine, account, "queued"), engine.account()
    before = engine.job(job_id)
    for customer, wanted in ((other, job_id), (account, "job_" + "0" * 26), (account, "job_\0")):
        with pytest.raises(JobNotFoundError):
            cancel(engine, customer, wanted)
    assert engine.job(job_id) == before


def test_cancel_and_success_at_once_have_one_outcome(engine: Engine, account: Customer) -> None:
    """Twelve races; each job ends once, and the books balance after every order of events."""
    for _ in range(12):
        job_id = bring(engine, account, "running")
        start = threading.Barrier(2)
        results: list[object] = []

        def racer(act: Callable[[], object], start: threading.Barrier = start, to: list[object] = results) -> None:
            start.wait()
            try:
                to.append(act())
            except StaleJobError as stale:
                to.append(stale)

        acts = [lambda j=job_id: cancel(engine, account, j), lambda j=job_id: do(engine, succeed, j)]
        threads = [threading.Thread(target=racer, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        row = engine.job(job_id)
        if row.status == "succeeded":
            assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
        else:
            assert (row.status, row.cancel_requested_at is not None) == ("running", True)
            assert any(isinstance(result, StaleJobError) for result in results)
            do(engine, cancelled, job_id)
    engine.assert_books_balance(pictures=False)


def test_more_pictures_than_were_held_cannot_be_captured(engine: Engine, account: Customer) -> None:
    job_id = bring(engine, account, "running")
    before = engine.job(job_id)
    with pytest.raises(ValueError, match="cannot be settled"), engine.database.transaction() as connection:
        keep_pictures(connection, job_id, 2)
        lifecycle.succeed(connection, job_id, before.fence, kept=2, notes=[])
    assert engine.job(job_id) == before
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE}


def test_nudges_say_who_is_to_look(engine: Engine, account: Customer) -> None:
    queued = engine.order(account, publish=False)
    assert queued.nudges == [Nudge("jobs.run", "chatgpt2api", queued.task.id)]
    running = bring(engine, account, "running")
    assert do(engine, lapse, running) == [Nudge("jobs.poll", "control", "chatgpt2api")]
    sync = engine.order(account, model=SYNC_MODEL, size="1024x640", publish=False)
    assert sync.nudges == [Nudge("jobs.run", "openai", sync.task.id)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET status = 'sleeping'",
        "UPDATE jobs SET status = 'succeeded'",
        "UPDATE jobs SET money = 'lent'",
        "UPDATE jobs SET money = 'queued'",
        "UPDATE jobs SET money = 'settled'",
        "UPDATE jobs SET status = 'succeeded', owner = NULL, finished_at = now()",
        "UPDATE jobs SET owner = NULL",
        "UPDATE jobs SET failure_code = 'x'",
        "UPDATE jobs SET n = 0",
        "UPDATE jobs SET n = 11",
        "UPDATE jobs SET captured = quoted, released = 1",
        "UPDATE balances SET spendable = -1",
        "UPDATE balances SET reserved = -1",
        "UPDATE balances SET queued = available + 1",
        "INSERT INTO images SELECT id, 0, 'call_none', 'k', 'image/png', 1, 1, 1, 'x' FROM jobs",
    ],
)
def test_what_must_never_be_cannot_be_written(engine: Engine, account: Customer, statement: str) -> None:
    bring(engine, account, "running")
    with pytest.raises(IntegrityError):
        engine.sql(statement)


def cancel(engine: Engine, customer: Customer, job_id: str) -> lifecycle.Cancellation:
    with engine.database.transaction() as connection:
        return lifecycle.cancel(connection, customer.account_id, job_id)


def test_the_table_knows_every_status_by_the_same_word() -> None:
    assert {str(status) for status in JobStatus} == set(STATES)
