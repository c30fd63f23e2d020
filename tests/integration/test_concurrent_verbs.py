"""Verbs that run at the same time on one job, on a real PostgreSQL.

A statement sees the rows as they were when it began. It may wait for a locked row and then find that row changed, but
all other rows it reads are still the old ones. So each verb checks the version that its caller has read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from job_engine import ASYNC_PRICE, Engine
from sqlalchemy import Connection

from accounts.keys import Caller
from jobs import lifecycle
from jobs.call import Call, KeptImage
from jobs.dispatch import due, health, publishing
from jobs.errors import StaleJobError
from jobs.execution import claim, collect, give_up, outcomes, poll, run
from jobs.execution import finish as finishing
from jobs.execution.outcomes import CallOutcome
from jobs.lifecycle import calls
from jobs.maintenance import sweep
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import Outcome
from quota.errors import LedgerMismatchError
from storage.local import LocalStore

BALANCE_GONE = "DELETE FROM balances WHERE account_id = :id"


def in_progress(engine: Engine, customer: Caller, n: int = 1) -> LiveJob:
    """Return a WAITING job with every call accepted, as a poller reads it."""
    job_id = engine.order(customer, "two hands [sandbox:never]", n=n, publish=False).task.id
    engine.run(job_id)
    return read(engine, job_id)


def read(engine: Engine, job_id: str) -> LiveJob:
    with engine.database.hot() as hot:
        job = worker.load(hot, job_id)
    assert job is not None
    return job


def kept(job: LiveJob, call: Call) -> CallOutcome:
    slot = call.slot
    return CallOutcome(call, Outcome.KEPT, images=[KeptImage(slot, f"jobs/{job.id}/{slot}", "image/png", 1, 1, 1, "")])


@contextmanager
def at_once(*acts: Callable[[], object]) -> Iterator[list[object]]:
    """Start functions at the same time; the list has what they returned or raised once the block ends."""
    line = threading.Barrier(len(acts))
    results: list[object] = [None] * len(acts)

    def run(number: int, act: Callable[[], object]) -> None:
        line.wait()
        try:
            results[number] = act()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        for thread in threads:
            thread.join(30)


def until_blocked(engine: Engine) -> None:
    """Return once a statement of another connection waits for a row."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 10
    while not engine.one(waiting):
        assert time.monotonic() < deadline, "no one waits"


def made(engine: Engine, job_id: str) -> int:
    return int(engine.one("SELECT count(*) FROM images WHERE job_id = :id", id=job_id))


# ------------------------------------------------------------------ two steps with partial knowledge


def test_two_calls_of_one_job_end_at_once_and_the_job_ends(engine: Engine, account: Caller) -> None:
    """Each step has read the other's call as open. Without the version check both would park the job forever."""
    for _ in range(6):
        job = in_progress(engine, account, n=2)
        first, second = job.calls
        with at_once(
            lambda j=job, c=first: finishing.finish(engine.context, j, [kept(j, c)]),
            lambda j=job, c=second: finishing.finish(engine.context, j, [kept(j, c)]),
        ):
            pass
        row = engine.job(job.id)
        assert (row.status, row.captured, made(engine, job.id)) == ("succeeded", 2 * ASYNC_PRICE, 2)
    engine.assert_books_balance()


def test_the_second_of_two_ends_waits_for_the_first_and_finds_the_job_changed(engine: Engine, account: Caller) -> None:
    """The same in a fixed order: the second statement is running and waits when the first one commits."""
    job = in_progress(engine, account, n=2)
    first, second = job.calls
    with engine.database.engine.begin() as connection:
        row = outcomes.row_of(kept(job, first))
        images = [(first.id, image) for image in kept(job, first).images]
        lifecycle.park(connection, job.id, job.version, check_after_s=1, calls=[row], images=images)
        with at_once(lambda: finishing.finish(engine.context, job, [kept(job, second)])):
            until_blocked(engine)
            connection.commit()
    assert engine.job(job.id).status == "succeeded"
    assert made(engine, job.id) == 2
    engine.assert_books_balance()


def test_an_end_cannot_miss_an_image_kept_at_the_same_time(engine: Engine, account: Caller) -> None:
    """The end began before the other image was committed and cannot see it, so it would charge one image too few."""
    job = in_progress(engine, account, n=2)
    first, second = job.calls
    given_up = outcomes.lost(second)
    with engine.database.engine.begin() as connection:
        assert outcomes.record(connection, kept(job, second))
        with at_once(lambda: finishing.finish(engine.context, job, [kept(job, first), given_up])):
            until_blocked(engine)
            connection.commit()
    row = engine.job(job.id)
    assert (row.status, row.captured, made(engine, job.id)) == ("succeeded", 2 * ASYNC_PRICE, 2)
    engine.assert_books_balance()


def test_a_verb_refuses_an_outdated_version(engine: Engine, account: Caller) -> None:
    job = in_progress(engine, account, n=2)
    with engine.database.engine.begin() as connection:
        assert outcomes.record(connection, kept(job, job.calls[1]))
        with at_once(lambda: end(engine, job)) as results:
            until_blocked(engine)
            connection.commit()
    assert isinstance(results[0], StaleJobError)
    assert engine.job(job.id).status == "waiting"


def end(engine: Engine, job: LiveJob) -> object:
    with engine.database.hot() as hot:
        return lifecycle.end(hot, job.id, job.version, lifecycle.succeed())


def test_two_pollers_that_collect_one_job_make_one_end_and_lose_no_image(
    engine: Engine, account: Caller, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both fetch the image before either records it. It is charged once, and the second one deletes nothing."""
    job_id = engine.order(account, "one fox", publish=False).task.id
    engine.run(job_id)
    both_have_it, whole = threading.Barrier(2, timeout=20), collect.collect

    def keep(*args: Any) -> list[CallOutcome]:
        news = whole(*args)
        both_have_it.wait()
        return news

    monkeypatch.setattr(collect, "collect", keep)
    batches = []
    for owner in ("wkr_one", "wkr_two"):
        engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=job_id)
        with engine.database.hot() as hot:
            batch = due.take_due(hot, "chatgpt2api", limit=10, interval_s=5, interval_max_s=10)
        batches.append((replace(engine.context, owner=owner), batch))
    with at_once(*[lambda b=context, j=jobs: poll._follow(b, j) for context, jobs in batches]):
        pass
    row = engine.job(job_id)
    assert (row.status, row.captured) == ("succeeded", ASYNC_PRICE)
    assert engine.events(job_id).count("succeeded") == 1
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
    [(key,)] = engine.rows("SELECT key FROM images WHERE job_id = :id", id=job_id)
    assert store.read(key)
    engine.assert_books_balance()


@pytest.mark.parametrize("writer", ["record", "park", "progress", "resend", "heard", "cancel"])
def test_every_writer_of_a_jobs_calls_or_images_raises_its_version(
    engine: Engine, account: Caller, writer: str
) -> None:
    job = in_progress(engine, account)
    [call] = job.calls
    if writer == "resend":
        engine.sql("UPDATE upstream_calls SET outcome = 'uncertain' WHERE id = :id", id=call.id)
    acts: dict[str, Callable[[Connection], object]] = {
        "record": lambda c: outcomes.record(c, CallOutcome(call, Outcome.FINISHED, result=[])),
        "park": lambda c: lifecycle.park(c, job.id, job.version, check_after_s=1),
        "progress": lambda c: calls.note_progress(calls.Hot.of(c), {job.id: 0.5}),
        "resend": lambda c: calls.note_resend(c, call.id, most=2, deadline_s=60, backoff_s=60),
        "heard": lambda c: heard_of(c, engine, call),
        "cancel": lambda c: lifecycle.cancel(c, account.account_id, job.id),
    }
    with engine.database.transaction() as connection:
        acts[writer](connection)
    assert engine.job(job.id).version > job.version
    with pytest.raises(StaleJobError):
        end(engine, job)


def heard_of(connection: Connection, engine: Engine, call: Call) -> object:
    """A callback of the upstream has the id of a call whose answer was lost."""
    engine.sql("UPDATE upstream_calls SET outcome = 'uncertain', upstream_id = NULL WHERE id = :id", id=call.id)
    return lifecycle.reported(connection, call.id, "up-1")


def test_an_outcome_is_recorded_however_often_its_job_changes_meanwhile(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job changes before every decision; after some tries only the outcome is recorded."""
    job_id = engine.order(account, model="gpt-image-2", size="1024x1024", publish=False).task.id
    reads, whole = [], finishing._read_again

    def changed_again(*args: Any) -> LiveJob | None:
        seen = whole(*args)
        reads.append(seen)
        engine.sql("UPDATE jobs SET version = version + 1 WHERE id = :id", id=job_id)
        return seen

    claimed = claim.claim(engine.context, job_id)
    assert claimed is not None
    with engine.database.transaction() as connection:
        lifecycle.cancel(connection, account.account_id, job_id)
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "_read_again", changed_again)
        finishing.finish(engine.context, claimed.job, [kept(claimed.job, claimed.job.calls[0])], in_task=True)
    assert len(reads) == finishing.READ_AGAIN_AT_MOST
    assert (engine.calls(job_id)[0].outcome, made(engine, job_id)) == ("kept", 1)
    engine.sql("UPDATE jobs SET step_deadline_at = clock_timestamp()")
    engine.steady = True
    engine.drive()
    row = engine.job(job_id)
    assert (row.status, row.cancel_outcome, row.captured) == ("cancelled", "too_late", row.quoted)
    engine.assert_books_balance()


def test_a_repeated_cancel_does_not_change_the_version(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "on [sandbox:never]").task.id
    engine.run(job_id)
    versions = []
    for _ in range(3):
        with engine.database.transaction() as connection:
            lifecycle.cancel(connection, account.account_id, job_id)
        versions.append(engine.job(job_id).version)
    assert len(set(versions)) == 1


def test_an_expired_job_that_was_retried_meanwhile_goes_on(engine: Engine, account: Caller) -> None:
    """The sweep's list becomes outdated while it is processed: the job has a new deadline by then."""
    job_id = engine.order(account, "soon [sandbox:fail=500 times=2]").task.id
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt == 1)
    engine.sql("UPDATE jobs SET deadline_at = clock_timestamp()")
    with engine.database.hot() as hot:
        [found] = hot.all(sweep.EXPIRED, {"page": 10})
    engine.sql("UPDATE jobs SET due_at = clock_timestamp()")
    engine.run(job_id)
    engine.poll()
    assert (engine.job(job_id).status, engine.job(job_id).attempt) == ("queued", 2)
    assert give_up.expire(engine.context, job_id, found.version) == []
    assert engine.job(job_id).status == "queued"
    engine.drive()
    assert engine.job(job_id).status == "succeeded"


# ------------------------------------------------------------------ money without a balance


@pytest.mark.parametrize("again", [False, True], ids=["one statement", "the longer way"])
def test_a_hold_without_a_balance_raises_and_changes_nothing(engine: Engine, account: Caller, again: bool) -> None:
    engine.limit("chatgpt2api", max_active=3)
    job_id = engine.order(account, publish=False).task.id
    engine.sql(BALANCE_GONE, id=account.account_id)
    if again:
        engine.sql("UPDATE jobs SET attempt = 1")
    before = engine.job(job_id)
    # The job cannot even fail, because there is no balance to return its price to.
    with pytest.raises(LedgerMismatchError):
        run.run_job(engine.context, job_id)
    assert engine.job(job_id) == before
    assert (engine.calls(job_id), engine.transfers(job_id), engine.events(job_id)) == ([], {}, ["queued"])
    assert engine.one("SELECT count(*) FROM permits WHERE call_id IS NOT NULL") == 0


def test_an_end_without_a_balance_raises_and_changes_nothing(engine: Engine, account: Caller) -> None:
    job = in_progress(engine, account)
    engine.sql(BALANCE_GONE, id=account.account_id)
    before, calls_before = engine.job(job.id), engine.calls(job.id)
    with pytest.raises(LedgerMismatchError):
        finishing.finish(engine.context, job, [kept(job, job.calls[0])])
    assert (engine.job(job.id), engine.calls(job.id), made(engine, job.id)) == (before, calls_before, 0)
    assert engine.transfers(job.id) == {"hold": ASYNC_PRICE}


# ------------------------------------------------------------------ accepted races


def test_a_pause_committed_while_the_claim_waits_for_its_row_still_claims(engine: Engine, account: Caller) -> None:
    """Accepted: the claim had begun when the provider was paused. The next claim finds it paused."""
    first = engine.order(account, publish=False).task.id
    second = engine.order(account, publish=False).task.id
    with engine.database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", (first,))
        with at_once(lambda: claim.claim(engine.context, first)) as results:
            until_blocked(engine)
            with engine.database.autocommit() as other:
                health.pause(other, "chatgpt2api")
            connection.commit()
    assert isinstance(results[0], claim.Claimed)
    assert engine.job(first).status == "running"
    assert claim.claim(engine.context, second) is None
    assert engine.job(second).status == "queued"


def test_the_window_may_be_exceeded_only_for_a_moment(engine: Engine, account: Caller) -> None:
    """Simultaneous claims may each publish another job; later claims count those and publish none above the window."""
    window, crowd = 4, 6
    context = replace(engine.context, publish_window=window)
    ids = [engine.order(account, f"job {number}", publish=False).task.id for number in range(40)]
    engine.sql("UPDATE jobs SET published_at = NULL")
    with engine.database.autocommit() as connection:
        assert len(publishing.fill(connection, account.account_id, "chatgpt2api", 1, window=window)) == window
    published = "SELECT count(*) FROM jobs WHERE status = 'queued' AND published_at IS NOT NULL"
    with at_once(*[lambda i=job_id: claim.claim(context, i) for job_id in ids[:crowd]]):
        pass
    assert engine.one(published) <= window + crowd * claim.PUBLISH_AT_CLAIM
    engine.sql(
        "UPDATE jobs SET published_at = clock_timestamp() WHERE status = 'queued' AND id <= :id", id=ids[crowd + 9]
    )
    out = [engine.one(published)]
    assert out[0] >= 10
    for job_id in ids[crowd : crowd + 14]:
        claim.claim(context, job_id)
        out.append(engine.one(published))
    assert all(after == max(window, before - 1) for before, after in pairwise(out)), out
    assert out[-1] == window


def test_two_sweeps_and_an_end_at_once_settle_a_job_once(engine: Engine, account: Caller) -> None:
    """An expired job is ended by exactly one of two sweeps and its caller's cancel."""
    job_id = engine.order(account, publish=False).task.id
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id", id=job_id)
    before = engine.balance(account)

    def cancel() -> object:
        with engine.database.transaction() as connection:
            return lifecycle.cancel(connection, account.account_id, job_id)

    others = [sweep.Sweeper(engine.context, steady=lambda: False, epoch=lambda: "e") for _ in range(2)]
    with at_once(cancel, *[each.sweep for each in others]):
        pass
    assert engine.job(job_id).status in {"failed", "cancelled"}
    assert engine.balance(account).spendable == before.spendable + ASYNC_PRICE
    assert engine.events(job_id)[1:] in (["failed"], ["cancelled"])
    engine.assert_books_balance()
