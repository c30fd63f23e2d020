"""Regression tests of defects that were found by hand; each docstring says what went wrong."""

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
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from accounts.keys import Caller
from core.db import Database, make_engine
from core.errors import DatabaseAwayError, DatabaseBusyError
from jobs import lifecycle
from jobs.dispatch import health, heartbeats, permits
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.execution import claim
from jobs.lifecycle import calls
from jobs.maintenance import sweep
from jobs.maintenance.sweep import Sweeper
from jobs.states import Outcome
from providers import registry
from sandbox.testing import Sandbox

FLUX = "flux-2-pro"
SCHNELL = "replicate-flux-schnell"
OPEN_CIRCUIT = (
    "INSERT INTO providers (name, failures, trips, open_until)"
    " VALUES ('chatgpt2api', 5, 1, clock_timestamp() + interval '1 hour')"
)


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    names = ("chatgpt2api", "openai", "flux", "replicate")
    return {key: value for name in names for key, value in sandbox.environ(name).items()}


@pytest.fixture
def impatient(engine: Engine) -> Iterator[Engine]:
    """The same engine over connections with a very short lock time-out."""
    url = engine.database.engine.url.render_as_string(hide_password=False)
    database = Database(make_engine(url, pool_size=4, lock_timeout_ms=100))
    yield Engine(replace(engine.context, database=database), engine.submission, engine.sent)
    database.dispose()


def unsent(engine: Engine, customer: Caller, prompt: str = "dropped", **fields: Any) -> str:
    """Return a WAITING job whose worker died before it sent the recorded call."""
    job_id = engine.order(customer, prompt, publish=False, **fields).task.id
    assert claim.claim(engine.context, job_id) is not None
    with engine.database.autocommit() as connection:
        heartbeats.leave(connection, engine.context.owner)
    engine.sweeper.sweep()
    with engine.database.autocommit() as connection:
        heartbeats.beat(connection, engine.context.owner)
    assert engine.calls(job_id)[0].outcome == "uncertain"
    return job_id


def submits(sandbox: Sandbox, provider: str = "chatgpt2api") -> int:
    return int(sandbox.counts().get(provider, {"submits": 0})["submits"])


def time_passes_since_the_miss(engine: Engine, seconds: float = 6) -> None:
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - make_interval(secs => :s)", s=seconds)


def overdue(engine: Engine) -> None:
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() - interval '1 minute'")


def cancel(engine: Engine, customer: Caller, job_id: str) -> str:
    with engine.database.transaction() as connection:
        return lifecycle.cancel(connection, customer.account_id, job_id).outcome


@contextmanager
def locked(engine: Engine, statement: str, **values: Any) -> Iterator[Connection]:
    """Hold locks on these rows from another connection while the block runs."""
    with engine.database.engine.begin() as blocker:
        blocker.execute(text(statement), values)
        yield blocker


# ------------------------------------------------------------------ 1, 2: bought without need


def test_a_call_that_was_never_sent_is_not_sent_after_a_cancel(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    """1: it was bought after the cancel, and charged."""
    before = engine.balance(account)
    job_id = unsent(engine, account)
    assert cancel(engine, account, job_id) == "stop_requested"
    engine.poll()
    time_passes_since_the_miss(engine)
    engine.drive()
    row = engine.job(job_id)
    assert (row.status, row.captured, submits(sandbox)) == ("cancelled", 0, 0)
    [call] = engine.calls(job_id)
    assert (call.outcome, call.written_off) == ("lost", False)
    assert engine.balance(account) == before
    engine.assert_books_balance()


@pytest.mark.parametrize("missed_before", [False, True])
def test_a_call_past_its_deadline_is_not_resent(
    engine: Engine, account: Caller, sandbox: Sandbox, missed_before: bool
) -> None:
    """2: it was bought again past its deadline and thrown away at once, also where the fleet was down meanwhile."""
    job_id = unsent(engine, account)
    if missed_before:
        engine.poll()
        time_passes_since_the_miss(engine)
    overdue(engine)
    for _ in range(3):
        engine.poll()
        time_passes_since_the_miss(engine)
    row = engine.job(job_id)
    assert (row.status, row.failure_code, submits(sandbox)) == ("failed", "upstream_uncertain", 0)
    assert row.released == ASYNC_PRICE
    engine.assert_books_balance()


def test_a_resent_call_has_a_whole_new_deadline(engine: Engine, account: Caller) -> None:
    """2: it kept what was left of the first sending's, and was given up in the middle of being made."""
    job_id = unsent(engine, account)
    engine.poll()
    time_passes_since_the_miss(engine)
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() + interval '5 seconds'")
    engine.sql("UPDATE jobs SET deadline_at = clock_timestamp() + interval '5 seconds'")
    engine.poll()
    [call] = engine.calls(job_id)
    left = "SELECT extract(epoch FROM {} - clock_timestamp()) FROM {} WHERE id = :id"
    deadline_s = engine.context.spec("chatgpt2api").deadline_s
    assert call.resends == 1
    assert engine.one(left.format("give_up_at", "upstream_calls"), id=call.id) > deadline_s - 30
    assert engine.one(left.format("deadline_at", "jobs"), id=job_id) > deadline_s - 30


# ------------------------------------------------------------------ 3: stuck forever


def no_provider(engine: Engine) -> Sweeper:
    """The sweep of a fleet whose configuration no longer has the provider."""
    without = replace(engine.context, registry=registry.load({"OPENAI_API_KEY": "k"}))
    return sweep.Sweeper(without, steady=lambda: True, epoch=lambda: "first")


def paused(engine: Engine) -> Sweeper:
    with engine.database.autocommit() as connection:
        health.pause(connection, "chatgpt2api")
    return engine.sweeper


def circuit_open(engine: Engine) -> Sweeper:
    engine.sql("DELETE FROM providers")
    engine.sql(OPEN_CIRCUIT)
    return engine.sweeper


AWAY = pytest.mark.parametrize("away", [no_provider, paused, circuit_open])


@AWAY
def test_a_retrying_job_ends_at_its_own_deadline(
    engine: Engine, account: Caller, away: Callable[[Engine], Sweeper]
) -> None:
    """3: a job that waited for its retry stayed queued, its credits held, as long as its provider was away."""
    before = engine.balance(account)
    job_id = engine.order(account, "soon [sandbox:fail=500 times=1]").task.id
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt == 1)
    longest_s = engine.context.spec("chatgpt2api").deadline_s + 120
    left_s = engine.one("SELECT extract(epoch FROM deadline_at - clock_timestamp()) FROM jobs WHERE id = :i", i=job_id)
    assert 0 < left_s < longest_s
    sweeper = away(engine)
    sweeper.sweep()
    assert engine.job(job_id).status == "queued"  # not before its deadline
    engine.sql("UPDATE jobs SET deadline_at = clock_timestamp()")
    sweeper.sweep()
    row = engine.job(job_id)
    assert (row.status, row.failure_code) == ("failed", "deadline_expired")
    assert engine.balance(account) == before
    engine.assert_books_balance()


@AWAY
def test_a_job_in_progress_ends_at_its_own_deadline(
    engine: Engine, account: Caller, away: Callable[[Engine], Sweeper]
) -> None:
    """3, similar: no worker checked a waiting job whose provider was no longer configured."""
    before = engine.balance(account)
    job_id = engine.order(account, "slow [sandbox:never]").task.id
    engine.step()
    assert engine.job(job_id).status == "waiting"
    sweeper = away(engine)
    sweeper.sweep()
    assert engine.job(job_id).status == "waiting"
    overdue(engine)
    engine.sql("UPDATE jobs SET deadline_at = clock_timestamp()")
    sweeper.sweep()
    row = engine.job(job_id)
    assert (row.status, row.released) == ("failed", ASYNC_PRICE)
    assert engine.balance(account) == before
    engine.assert_books_balance()


def test_a_retrying_job_past_its_deadline_delivers_the_images_made(engine: Engine, account: Caller) -> None:
    """3: one of three images is made and the others wait for a provider that is away; one is delivered and charged."""
    job_id = engine.order(account, "three [sandbox:fail=500 skip=1]", n=3).task.id
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt > 0)
    made = engine.one("SELECT count(*) FROM images WHERE job_id = :id", id=job_id)
    assert made in {1, 2}
    engine.sql("UPDATE jobs SET deadline_at = clock_timestamp()")
    engine.sweeper.sweep()
    row = engine.job(job_id)
    assert (row.status, row.captured) == ("succeeded", made * ASYNC_PRICE)
    assert f"{made} of 3 images were made" in engine.task(account, job_id).warnings[-1]
    engine.assert_books_balance()


# ------------------------------------------------------------------ 4: busy is not away


@pytest.mark.parametrize("door", ["transaction", "autocommit", "hot"])
def test_a_lock_time_out_does_not_count_as_an_absent_database(engine: Engine, impatient: Engine, door: str) -> None:
    """4: lock time-outs (55P03) counted as the database being away."""
    engine.sql("INSERT INTO marks (name, value) VALUES ('lock', '')")
    with locked(engine, "SELECT 1 FROM marks FOR UPDATE"), pytest.raises(DatabaseBusyError):
        ask(impatient.database, door, "SELECT 1 FROM marks FOR UPDATE")


@pytest.mark.parametrize("door", ["transaction", "autocommit", "hot"])
def test_a_statement_time_out_does_not_count_as_an_absent_database(engine: Engine, door: str) -> None:
    """4: statement time-outs (57014) did, too."""
    url = engine.database.engine.url.render_as_string(hide_password=False)
    database = Database(make_engine(url, pool_size=1))
    with database.autocommit() as connection:
        connection.execute(text("SET statement_timeout = 50"))  # it stays set on the pool's only connection
    with pytest.raises(DatabaseBusyError):
        ask(database, door, "SELECT pg_sleep(10)")
    database.dispose()


def test_a_deadlock_does_not_count_as_an_absent_database(engine: Engine) -> None:
    """4: deadlocks (40P01) did, too; the statement that PostgreSQL cancels now raises DatabaseBusyError."""
    engine.sql("INSERT INTO marks (name, value) VALUES ('one', ''), ('two', '')")
    mine = "SELECT 1 FROM marks WHERE name = :name FOR UPDATE"
    both_have_one, said = threading.Barrier(2, timeout=10), []

    def want(first: str, second: str) -> None:
        try:
            with engine.database.transaction() as connection:
                connection.execute(text(mine), {"name": first})
                both_have_one.wait()
                connection.execute(text(mine), {"name": second})
        except DatabaseAwayError as error:
            said.append(error)

    threads = [threading.Thread(target=want, args=pair) for pair in (("one", "two"), ("two", "one"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in said] == [DatabaseBusyError]


@pytest.mark.parametrize("door", ["transaction", "autocommit", "hot"])
def test_a_lost_connection_counts_as_an_absent_database(engine: Engine, door: str) -> None:
    """4, the reverse: a lost connection must not count as a lock time-out."""
    url = engine.database.engine.url.render_as_string(hide_password=False)
    database = Database(make_engine(url, pool_size=1))
    with pytest.raises(DatabaseAwayError) as cut:
        ask(database, door, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert not isinstance(cut.value, DatabaseBusyError)
    ask(database, door, "SELECT 1")  # and the next one has a connection again
    database.dispose()


def ask(database: Database, door: str, question: str) -> None:
    if door == "hot":
        with database.hot() as hot:
            hot.all(calls.Statement(question), {})
        return
    with getattr(database, door)() as connection:
        connection.execute(text(question))


@pytest.mark.parametrize("attempt", [0, 1], ids=["one statement", "the longer way"])
def test_a_claim_of_locked_rows_is_repeated_soon_and_at_a_random_time(
    impatient: Engine, account: Caller, attempt: int
) -> None:
    """4: such a claim raised DatabaseAwayError, and its job waited for the sweep."""
    ids = [impatient.order(account, f"busy {number}", publish=False).task.id for number in range(4)]
    impatient.sql("UPDATE jobs SET attempt = :attempt", attempt=attempt)
    with locked(impatient, "LOCK TABLE upstream_calls IN EXCLUSIVE MODE"):
        for job_id in ids:
            impatient.run(job_id)
    rows = impatient.rows(
        "SELECT status, attempt, money, published_at, extract(epoch FROM due_at - clock_timestamp()) AS in_s FROM jobs"
    )
    assert {(row.status, row.attempt, row.money, row.published_at) for row in rows} == {
        ("queued", attempt, "queued", None)
    }
    assert all(-1 < row.in_s <= 2 for row in rows)
    assert len({round(row.in_s, 2) for row in rows}) > 1  # at different times
    impatient.drive()
    assert {impatient.job(job_id).status for job_id in ids} == {"succeeded"}
    impatient.assert_books_balance()


# ------------------------------------------------------------------ 6: one account blocks all others


def test_one_locked_account_does_not_stop_the_sweep_for_all(impatient: Engine, account: Caller) -> None:
    """6: one account's locked balance ended the sweep, and no jobs of any account were published or ended."""
    other = impatient.account()
    overdue_jobs = [impatient.order(account, "late", publish=False).task.id for _ in range(3)]
    also_late = impatient.order(other, "late", publish=False).task.id
    waiting = impatient.order(other, "mine", publish=False).task.id
    late = [*overdue_jobs, also_late]
    impatient.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = ANY(:ids)", ids=late)
    impatient.sql("UPDATE jobs SET published_at = NULL")
    with (
        locked(impatient, "SELECT 1 FROM balances WHERE account_id = :a FOR UPDATE", a=account.account_id),
        capture_logs() as said,
    ):
        signals = impatient.sweeper.sweep()
    assert impatient.job(also_late).failure_code == "deadline_expired"
    assert impatient.job(waiting).published_at is not None
    assert waiting in {getattr(signal, "argument", None) for signal in signals}
    assert {impatient.job(job_id).status for job_id in overdue_jobs} == {"queued"}
    # The sweep waits for the locked account once, and not once per job.
    assert [line["event"] for line in said].count("sweep_passes_by_a_locked_job") == 1
    impatient.sweeper.sweep()
    assert {impatient.job(job_id).failure_code for job_id in overdue_jobs} == {"deadline_expired"}
    impatient.assert_books_balance()


def test_one_locked_job_does_not_stop_the_takeover_of_others(impatient: Engine, account: Caller) -> None:
    """6: the same among the jobs of a dead worker."""
    customers = [account, impatient.account()]
    ids = [impatient.order(customer, publish=False).task.id for customer in customers]
    for job_id in ids:
        assert claim.claim(impatient.context, job_id) is not None
    with impatient.database.autocommit() as connection:
        heartbeats.leave(connection, impatient.context.owner)
    with locked(impatient, "SELECT 1 FROM jobs WHERE id = :id FOR UPDATE", id=ids[0]):
        impatient.sweeper.sweep()
    assert [impatient.job(job_id).status for job_id in ids] == ["running", "waiting"]
    impatient.sweeper.sweep()
    assert impatient.job(ids[0]).status == "waiting"


# ------------------------------------------------------------------ 7: a resend is a submit


def pause_provider(engine: Engine) -> None:
    with engine.database.autocommit() as connection:
        health.pause(connection, "chatgpt2api")


def pause_credential(engine: Engine) -> None:
    engine.sql("UPDATE credentials SET paused_at = clock_timestamp() WHERE provider = 'chatgpt2api'")


def open_circuit(engine: Engine) -> None:
    engine.sql(OPEN_CIRCUIT)


def pause_asked(engine: Engine) -> None:
    engine.sql("UPDATE credentials SET not_before = clock_timestamp() + interval '1 minute'")


def rate_used_up(engine: Engine) -> None:
    with engine.database.transaction() as connection:
        announce(connection, "chatgpt2api/default", "chatgpt2api", CredentialLimits(max_per_minute=1))
    with engine.database.transaction() as connection:
        assert permits.take_submit(connection, "chatgpt2api/default")


@pytest.mark.parametrize("limit", [pause_provider, pause_credential, open_circuit, pause_asked, rate_used_up])
def test_a_call_is_resent_only_where_a_new_one_may_be_sent(
    engine: Engine, account: Caller, sandbox: Sandbox, limit: Callable[[Engine], None]
) -> None:
    """7: a resend made a paid submit although the provider was paused, its circuit open or its rate used up."""
    job_id = unsent(engine, account)
    limit(engine)
    engine.poll()
    for _ in range(3):
        time_passes_since_the_miss(engine)
        engine.poll()
    assert (submits(sandbox), engine.job(job_id).status, engine.calls(job_id)[0].resends) == (0, "waiting", 0)
    engine.sql("DELETE FROM providers")
    engine.sql("UPDATE credentials SET paused_at = NULL, not_before = NULL")
    engine.sql("UPDATE submit_tokens SET free_at = clock_timestamp()")
    engine.drive()
    assert (submits(sandbox), engine.job(job_id).status) == (1, "succeeded")
    engine.assert_books_balance()


# ------------------------------------------------------------------ 8: a webhook and a late answer


def test_a_webhook_waits_for_a_late_answer_without_holding_a_lock(engine: Engine, account: Caller) -> None:
    """8: the answer locked the job, then the call, the webhook the other way round, which was a deadlock."""
    job_id = unsent(engine, account)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() + interval '1 hour'")
    [call] = engine.calls(job_id)
    failed: list[Exception] = []

    def webhook() -> None:
        try:
            with engine.database.transaction() as connection:
                lifecycle.reported(connection, call.id, "up-2")
        except Exception as error:  # noqa: BLE001 - the test looks at it
            failed.append(error)

    hook = threading.Thread(target=webhook)
    with locked(engine, "SELECT 1 FROM jobs WHERE id = :id FOR UPDATE", id=job_id) as connection:
        hook.start()
        until_blocked(engine)
        assert calls.record(connection, calls.call_row(call.id, Outcome.ACCEPTED, upstream_id="up-1"))
    hook.join()
    assert failed == []
    [after] = engine.calls(job_id)
    assert (after.outcome, after.upstream_id) == ("accepted", "up-1")


def test_webhooks_and_late_answers_at_once_do_not_deadlock(engine: Engine, account: Caller) -> None:
    """8, in random order: eight rounds, with either one first."""
    for _ in range(8):
        job_id = unsent(engine, account)
        engine.sql("UPDATE jobs SET due_at = clock_timestamp() + interval '1 hour' WHERE id = :id", id=job_id)
        [call] = engine.calls(job_id)
        line, failed = threading.Barrier(2), []

        def act(
            verb: Callable[[Connection], object],
            line: threading.Barrier = line,
            failed: list[Exception] = failed,
        ) -> None:
            line.wait()
            try:
                with engine.database.transaction() as connection:
                    verb(connection)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                failed.append(error)

        accepted = calls.call_row(call.id, Outcome.ACCEPTED, upstream_id="up-1")
        verbs: list[Callable[[Connection], object]] = [
            lambda c, row=accepted: calls.record(c, row),  # type: ignore[misc]
            lambda c, call_id=call.id: lifecycle.reported(c, call_id, "up-1"),  # type: ignore[misc]
        ]
        threads = [threading.Thread(target=act, args=(verb,)) for verb in verbs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        [after] = engine.calls(job_id)
        assert (after.outcome, after.upstream_id) == ("accepted", "up-1")


def until_blocked(engine: Engine) -> None:
    """Return once a statement of another connection waits for a row."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 10
    while not engine.one(waiting):
        assert time.monotonic() < deadline, "no one waits"


# ------------------------------------------------------------------ 13: a search that never ended


def test_a_search_ends_after_three_tries_over_two_minutes(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    """13: a call that was never made was searched for during the provider's whole twenty minutes."""
    before = engine.balance(account)
    job_id = unsent(engine, account, model=SCHNELL)
    engine.poll("replicate")
    time_passes_since_the_miss(engine, 300)
    engine.poll("replicate")
    assert engine.job(job_id).status == "waiting"  # long enough, but two searches are too few
    engine.poll("replicate")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, submits(sandbox, "replicate")) == ("failed", "upstream_uncertain", 0)
    assert engine.balance(account) == before
    engine.assert_books_balance()


def test_many_searches_in_a_short_time_do_not_end_the_search(engine: Engine, account: Caller) -> None:
    job_id = unsent(engine, account, model=SCHNELL)
    for _ in range(5):
        engine.poll("replicate")
    time_passes_since_the_miss(engine, 60)
    engine.poll("replicate")
    assert engine.job(job_id).status == "waiting"
    time_passes_since_the_miss(engine, 60)
    engine.poll("replicate")
    assert engine.job(job_id).status == "failed"


# ------------------------------------------------------------------ 16: endless messages


def test_messages_that_no_worker_reads_are_resent_ever_more_rarely(engine: Engine, account: Caller) -> None:
    """16: with no claims at all every message older than 10 s was sent again, 500 a sweep, without end."""
    job_id = engine.order(account).task.id
    engine.sweeper.sweep()
    engine.sent.take()
    sent_at: list[int] = []
    for second in range(0, 640, 4):
        engine.sql("UPDATE jobs SET published_at = published_at - interval '4 seconds'")
        engine.context.publish(engine.sweeper.sweep())
        sent_at += [second] * len(engine.sent.take())
    assert len(sent_at) <= 6  # after 10, 20, 40, 80, 160 and 320 s
    assert len(sent_at) >= 4  # and it is still sent
    gaps = [after - before for before, after in pairwise(sent_at)]
    assert all(after >= 2 * before - 8 for before, after in pairwise(gaps)), sent_at
    assert engine.job(job_id).status == "queued"


def test_a_put_off_job_starts_with_a_short_wait_for_its_message_again(engine: Engine, account: Caller) -> None:
    """16: a worker did read its message, so the next lost message is noticed as soon as the first."""
    job_id = engine.order(account).task.id
    engine.sql("UPDATE jobs SET lost_messages = 6")
    with engine.database.autocommit() as connection:
        lifecycle.defer(connection, job_id, after_s=0)
    assert engine.job(job_id).lost_messages == 0


# ------------------------------------------------------------------ 22, 23: what upstreams report


def test_progress_reported_by_an_upstream_is_shown_in_the_task(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    """22: it was always null, although Flux and Replicate report it."""
    sandbox.settings(latency_s=60.0)
    job_id = engine.order(account, model=FLUX, size="512x512").task.id
    engine.step()
    engine.poll("flux")
    first = engine.task(account, job_id)
    assert first.progress is not None
    assert 0 <= first.progress < 1
    assert ("wake", job_id) in {(each.task, each.argument) for each in engine.sent.waiting}
    sandbox.settings(latency_s=0.0)


def test_progress_is_stored_at_most_once_a_second(engine: Engine, account: Caller) -> None:
    """22: more often would write the row at every status check."""
    job_id = engine.order(account, "slow [sandbox:never]").task.id
    engine.step()
    with engine.database.hot() as hot:
        assert calls.note_progress(hot, {job_id: 0.25}) == [job_id]
        version = engine.job(job_id).version
        assert calls.note_progress(hot, {job_id: 0.5}) == []
        assert (engine.job(job_id).progress, engine.job(job_id).version) == (0.25, version)
        engine.sql("UPDATE jobs SET progress_at = progress_at - interval '1 second'")
        assert calls.note_progress(hot, {job_id: 0.25}) == []  # nothing new
        assert calls.note_progress(hot, {job_id: 0.5}) == [job_id]
    assert engine.task(account, job_id).progress == 0.5
    assert engine.job(job_id).version == version + 1


def test_progress_does_not_outlive_its_attempt(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "soon [sandbox:fail=500 times=1]").task.id
    engine.step()
    with engine.database.hot() as hot:
        calls.note_progress(hot, {job_id: 0.9})
    engine.drive(until=lambda: engine.job(job_id).status == "queued")
    assert engine.task(account, job_id).progress is None
    engine.drive()
    with engine.database.hot() as hot:
        assert calls.note_progress(hot, {job_id: 0.9}) == []
    assert engine.task(account, job_id).progress is None


@pytest.mark.parametrize(
    ("provider", "fields"),
    [("openai", {"model": "gpt-image-2", "size": "1024x1024"}), ("flux", {"model": FLUX, "size": "512x512"})],
)
def test_the_reported_cost_of_a_call_is_stored_with_the_expected_cost(
    engine: Engine, account: Caller, provider: str, fields: dict[str, Any]
) -> None:
    """23: the cost reported by upstreams was discarded, so the margin could not be seen."""
    job_id = engine.order(account, **fields).task.id
    engine.drive()
    [call] = engine.calls(job_id)
    assert (engine.job(job_id).status, call.provider) == ("succeeded", provider)
    assert call.expected_cost > 0
    assert call.reported_cost > 0
    assert call.usage
