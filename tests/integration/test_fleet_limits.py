"""Limits and health of providers for the whole fleet: two workers, one database, counted by the sandbox."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from job_engine import run_step
from sqlalchemy import Row, text
from submissions import make_submission

from accounts.accounts import create_account
from accounts.keys import Caller
from core.db import Database
from core.embedded.ports import free_ports
from jobs.dispatch import circuit, health, heartbeats, permits, refill
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.dispatch.put_off import STAY_AWAY_MAX_S
from jobs.execution import claim, poll
from jobs.execution.context import WorkerContext
from jobs.maintenance import audit, sweep
from jobs.reads.tasks import find_task
from jobs.states import Outcome, Signal
from jobs.submission.estimates import Estimates
from jobs.submission.order import Order
from jobs.submission.service import SubmissionService
from providers import registry
from providers.catalog import catalog
from quota import ledger
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media

SYNC: dict[str, Any] = {"model": "gpt-image-2", "size": "1024x640"}
ASYNC: dict[str, Any] = {"model": "chatgpt2api-gpt-image-2", "size": "64x64"}
CREDIT = 1_000_000
_names = itertools.count(1)


@dataclass
class Fleet:
    """Workers that share only the database, with helpers for the tests."""

    benches: Sequence[WorkerContext]
    submission: SubmissionService
    sandbox: Sandbox

    @property
    def database(self) -> Database:
        return self.benches[0].database

    def sql(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def rows(self, statement: str, **values: Any) -> list[Row[Any]]:
        with self.database.autocommit() as connection:
            return list(connection.execute(text(statement), values).all())

    def one(self, statement: str, **values: Any) -> Any:
        [[value]] = self.rows(statement, **values)
        return value

    def limit(self, provider: str, **limits: int) -> None:
        with self.database.transaction() as connection:
            for each in self.benches[0].registry.of(provider):
                announce(connection, each.credential_id, provider, CredentialLimits(**limits))

    def customer(self, *, weight: int = 1) -> Caller:
        with self.database.transaction() as connection:
            account = create_account(connection, f"account {next(_names)}", weight=weight)
            ledger.grant(connection, account.id, 100_000 * CREDIT)
        return Caller(account.id, weight=weight)

    def order(self, customer: Caller, prompt: str = "a fox", **fields: Any) -> str:
        return self.submission.submit(customer, Order("generate", {"prompt": prompt, **fields})).task.id

    def orders(self, count: int, customer: Caller | None = None, **fields: Any) -> list[str]:
        who = customer or self.customer()
        return [self.order(who, f"a fox, number {number}", **fields) for number in range(count)]

    def run_all(self, job_ids: Sequence[str], *, threads: int = 8) -> None:
        """Let every worker run every job once, all at the same time."""
        pairs = [(context, job_id) for job_id in job_ids for context in self.benches]
        with ThreadPoolExecutor(threads * len(self.benches)) as pool:
            list(pool.map(lambda pair: run_step(*pair), pairs))

    def run(self, job_id: str, worker: int = 0) -> list[Signal]:
        """Run one job now, whatever its ``due_at``."""
        self.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=job_id)
        return run_step(self.benches[worker], job_id)

    def job(self, job_id: str) -> Row[Any]:
        [row] = self.rows("SELECT *, due_at - clock_timestamp() AS due_in FROM jobs WHERE id = :id", id=job_id)
        return row

    def untouched(self, job_id: str) -> bool:
        """Return whether the job was only put off: no hold, no event, no attempt."""
        job = self.job(job_id)
        events = self.one("SELECT count(*) FROM job_events WHERE job_id = :id AND type <> 'queued'", id=job_id)
        return (job.status, job.money, job.attempt, job.fence, events) == ("queued", "queued", 0, 0, 0)

    def submits(self, provider: str) -> int:
        return int((self.sandbox.counts(keys=False).get(provider) or {"submits": 0})["submits"])

    def state(self, provider: str) -> health.ProviderState:
        with self.database.autocommit() as connection:
            return {each.name: each for each in health.overview(connection)}[provider]

    def age_circuit(self, provider: str) -> None:
        """Let the open time of a circuit pass."""
        self.sql("UPDATE providers SET open_until = clock_timestamp() WHERE name = :name", name=provider)

    def age_submits(self, provider: str, seconds: int) -> None:
        """Let ``seconds`` pass for submit tokens."""
        self.sql(
            "UPDATE submit_tokens SET free_at = free_at - make_interval(secs => :s) WHERE credential_id IN"
            " (SELECT id FROM credentials WHERE provider = :name)",
            name=provider,
            s=seconds,
        )

    def audit(self) -> list[audit.Finding]:
        with self.database.transaction() as connection:
            return audit.check(connection)


@pytest.fixture
def environ(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, latency_jitter=0.0, prepared=True)
    return {
        "CHATGPT2API_BASE_URL": sandbox.chatgpt2api_url,
        "CHATGPT2API_API_KEY": "test-key",
        "OPENAI_BASE_URL": sandbox.openai_url,
        "OPENAI_API_KEY": "test-key",
    }


@pytest.fixture
def fleet(database: Database, environ: dict[str, str], sandbox: Sandbox, tmp_path: Path) -> Iterator[Fleet]:
    models, store = catalog.load(), LocalStore(tmp_path / "blobs")
    media = Media(store, tmp_path / "staging", decoders=2)
    benches = [
        WorkerContext(
            owner=f"wkr_{number}",
            database=database,
            catalogs=models,
            registry=registry.load(environ),
            media=media,
            store=store,
            publish=lambda _nudges: True,
            max_attempts=3,
            cancel_charge="full",
            publish_window=32,
        )
        for number in (1, 2)
    ]
    submission = make_submission(database, media, store, models)
    fleet = Fleet(benches, submission, sandbox)
    fleet.sql("DELETE FROM providers")
    for context in benches:
        with database.autocommit() as connection:
            heartbeats.beat(connection, context.owner)
    for provider in ("chatgpt2api", "openai"):
        fleet.limit(provider)
    yield fleet
    media.close()


def until(question: Callable[[], Any], what: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not question():
        assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
        time.sleep(0.02)


# ------------------------------------------------------------------ open calls


def test_two_workers_never_have_more_calls_open_than_the_credential_allows(fleet: Fleet) -> None:
    fleet.limit("openai", max_active=3)
    fleet.sandbox.settings(latency_s=0.05)
    # Calls that hang since another test in this process: the sandbox counts them until their connection is gone.
    hanging = fleet.sandbox.counts(keys=False).get("openai", {"in_flight": 0})["in_flight"]
    ids = fleet.orders(12, **SYNC)

    while fleet.one("SELECT count(*) FROM jobs WHERE status = 'queued'"):
        fleet.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'queued'")
        fleet.run_all(ids, threads=4)

    seen = fleet.sandbox.counts(keys=False)["openai"]
    assert seen["submits"] == 12
    assert 1 < seen["in_flight_max"] - hanging <= 3  # in parallel, never one too many; three at once is chance
    assert {fleet.job(job_id).status for job_id in ids} == {"succeeded"}
    assert fleet.state("openai").active == 0
    assert fleet.audit() == []


def test_a_full_credential_only_puts_the_job_off(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_active=1)
    first, second = fleet.orders(2, **ASYNC)
    fleet.run(first)
    fleet.run(second)
    assert fleet.job(first).status == "waiting"
    assert fleet.untouched(second)
    assert 0.5 < fleet.job(second).due_in.total_seconds() < 3.5
    assert fleet.job(second).published_at is None


# ------------------------------------------------------------------ submits per minute


def test_two_workers_submit_exactly_what_a_minute_allows(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_per_minute=10)
    ids = fleet.orders(30, **ASYNC)
    fleet.run_all(ids)
    assert fleet.submits("chatgpt2api") == 10

    fleet.age_submits("chatgpt2api", 40)  # the minute is not over
    fleet.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'queued'")
    fleet.run_all(ids)
    assert fleet.submits("chatgpt2api") == 10

    fleet.age_submits("chatgpt2api", 22)
    fleet.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'queued'")
    fleet.run_all(ids)
    assert fleet.submits("chatgpt2api") == 20
    assert fleet.state("chatgpt2api").submitted_last_minute == 10


def test_every_call_of_a_job_counts(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_per_minute=6)
    ids = fleet.orders(2, n=4, **ASYNC)
    fleet.run_all(ids)
    assert fleet.submits("chatgpt2api") == 6
    assert sorted(fleet.job(job_id).attempt for job_id in ids) == [2, 4]


def test_a_job_over_the_rate_limit_waits_until_the_minute_is_over_and_no_longer(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_per_minute=1)
    first, second = fleet.orders(2, **ASYNC)
    fleet.run(first)
    fleet.age_submits("chatgpt2api", 50)
    fleet.run(second)
    assert fleet.untouched(second)
    assert 9 < fleet.job(second).due_in.total_seconds() < 22
    fleet.age_submits("chatgpt2api", 14)
    fleet.run(second)
    assert fleet.job(second).status == "waiting"


def test_sending_a_call_again_counts_as_a_submit(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_per_minute=1)
    [credential] = [each.credential_id for each in fleet.benches[0].registry.of("chatgpt2api")]
    with fleet.database.autocommit() as connection:
        assert permits.take_submit(connection, credential)
        assert not permits.take_submit(connection, credential)
    [job_id] = fleet.orders(1, **ASYNC)
    fleet.run(job_id)
    assert fleet.untouched(job_id)


def test_a_new_worker_updates_the_rows_of_limits(fleet: Fleet) -> None:
    fleet.limit("openai", max_active=2, max_per_minute=30)
    state = fleet.state("openai")
    assert (state.max_active, state.max_per_minute, state.submitted_last_minute) == (2, 30, 0)
    fleet.limit("openai")
    state = fleet.state("openai")
    assert (state.max_active, state.max_per_minute, state.submitted_last_minute) == (None, None, None)


# ------------------------------------------------------------------ asked to retry later


def test_a_429_keeps_the_whole_fleet_away_for_as_long_as_it_asks(fleet: Fleet) -> None:
    first, second = fleet.orders(2, **ASYNC)
    fleet.sandbox.add_fault("429 retry_after=20", provider="chatgpt2api", route="submit", count=1)
    fleet.run(first, worker=0)
    assert fleet.submits("chatgpt2api") == 1
    fleet.run(second, worker=1)
    assert fleet.submits("chatgpt2api") == 1
    assert fleet.untouched(second)
    assert 15 < fleet.job(second).due_in.total_seconds() < 31
    assert fleet.state("chatgpt2api").not_before is not None
    fleet.sql("UPDATE credentials SET not_before = clock_timestamp()")
    fleet.run(second, worker=1)
    assert fleet.job(second).status == "waiting"


def test_a_very_long_retry_after_is_bounded(fleet: Fleet) -> None:
    [job_id] = fleet.orders(1, **ASYNC)
    fleet.sandbox.add_fault("429 retry_after=1000000000", provider="chatgpt2api", route="submit", count=1)
    fleet.run(job_id)
    away_s = fleet.one("SELECT max(extract(epoch FROM not_before - clock_timestamp())) FROM credentials")
    assert 0 < away_s <= STAY_AWAY_MAX_S
    assert fleet.job(job_id).due_in.total_seconds() <= 700


# ------------------------------------------------------------------ the circuit


def break_it(fleet: Fleet, provider: str = "chatgpt2api", fault: str = "502") -> None:
    """Let as many different jobs in a row as needed find the upstream away."""
    fleet.sandbox.add_fault(fault, provider=provider, route="submit")
    fields = ASYNC if provider == "chatgpt2api" else SYNC
    for number, job_id in enumerate(fleet.orders(circuit.FAILURES_TO_OPEN, **fields)):
        assert fleet.state(provider).circuit == "closed", number
        fleet.run(job_id, worker=number % 2)


def test_an_upstream_that_is_away_opens_the_circuit_for_all_workers(fleet: Fleet) -> None:
    break_it(fleet)
    assert fleet.state("chatgpt2api").circuit == "open"
    submitted = fleet.submits("chatgpt2api")
    [job_id] = fleet.orders(1, **ASYNC)
    for worker in (0, 1):
        fleet.run(job_id, worker)
        assert fleet.untouched(job_id)
        assert 0 < fleet.job(job_id).due_in.total_seconds() <= 30
    assert fleet.submits("chatgpt2api") == submitted
    assert fleet.state("openai").circuit == "closed"


@pytest.mark.parametrize("fault", ["refuse", "400", "401", "429"])
def test_a_refusing_upstream_does_not_open_the_circuit(fleet: Fleet, fault: str) -> None:
    fleet.sandbox.add_fault(fault, provider="chatgpt2api", route="submit")
    for job_id in fleet.orders(circuit.FAILURES_TO_OPEN + 1, **ASYNC):
        fleet.run(job_id)
        fleet.sql("UPDATE credentials SET not_before = NULL")
    assert (fleet.state("chatgpt2api").circuit, fleet.state("chatgpt2api").failures) == ("closed", 0)


def test_a_good_answer_resets_the_count_of_failures(fleet: Fleet) -> None:
    for round_ in range(2):
        fleet.sandbox.add_fault("502", provider="chatgpt2api", route="submit", count=circuit.FAILURES_TO_OPEN - 1)
        for job_id in fleet.orders(circuit.FAILURES_TO_OPEN, **ASYNC):
            fleet.run(job_id)
        assert (fleet.state("chatgpt2api").circuit, fleet.state("chatgpt2api").failures) == ("closed", 0), round_


def test_one_failing_order_does_not_open_the_circuit(fleet: Fleet) -> None:
    with fleet.database.autocommit() as connection:
        for number in range(2 * circuit.FAILURES_TO_OPEN):
            health.note(
                connection,
                "openai",
                call_id=f"call_{number}",
                job_id="job_same",
                outcome=Outcome.LOST,
                code="upstream_error",
                retryable=False,
            )
    assert (fleet.state("openai").circuit, fleet.state("openai").failures) == ("closed", 1)


def test_a_half_open_circuit_lets_exactly_one_call_through(fleet: Fleet) -> None:
    break_it(fleet)
    fleet.sandbox.clear_faults()
    fleet.sandbox.add_fault("hang=1", provider="chatgpt2api", route="submit", count=1)
    fleet.age_circuit("chatgpt2api")
    submitted = fleet.submits("chatgpt2api")
    ids = fleet.orders(12, n=2, **ASYNC)
    threads = ThreadPoolExecutor(16)
    asked = [threads.submit(run_step, context, job_id) for job_id in ids for context in fleet.benches]

    until(lambda: fleet.submits("chatgpt2api") == submitted + 1, "the probe")
    assert fleet.state("chatgpt2api").circuit == "half_open"
    until(lambda: sum(each.done() for each in asked) >= len(asked) - 1, "all others to be put off")
    assert sum(fleet.untouched(job_id) for job_id in ids) == len(ids) - 1
    threads.shutdown(wait=True)
    assert fleet.submits("chatgpt2api") == submitted + 1


def test_simultaneous_claims_make_one_probe(fleet: Fleet) -> None:
    break_it(fleet)
    [credential] = [each.credential_id for each in fleet.benches[0].registry.of("chatgpt2api")]
    for round_ in range(10):
        fleet.age_circuit("chatgpt2api")
        fleet.sql("UPDATE providers SET probe_call_id = NULL")
        together = threading.Barrier(8)

        def ask(number: int, barrier: threading.Barrier = together, round_: int = round_) -> bool:
            with fleet.database.autocommit() as connection:
                barrier.wait()
                ids = [f"call_{round_}_{number}", "call_more"]
                taken = permits.take(connection, "chatgpt2api", known=[credential], call_ids=ids, attempt=0)
                assert taken is None or taken.calls == 1
                return taken is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, range(8))) == 1, round_


def test_a_good_probe_closes_the_circuit_for_all(fleet: Fleet) -> None:
    break_it(fleet)
    fleet.sandbox.clear_faults()
    fleet.age_circuit("chatgpt2api")
    probe, other = fleet.orders(2, **ASYNC)
    fleet.run(probe)
    assert fleet.job(probe).status == "waiting"
    assert (fleet.state("chatgpt2api").circuit, fleet.state("chatgpt2api").failures) == ("closed", 0)
    fleet.run(other, worker=1)
    assert fleet.job(other).status == "waiting"


def test_a_failed_probe_opens_the_circuit_for_longer(fleet: Fleet) -> None:
    break_it(fleet)
    for trips in (2, 3):
        fleet.age_circuit("chatgpt2api")
        [probe] = fleet.orders(1, **ASYNC)
        fleet.run(probe)
        state = fleet.state("chatgpt2api")
        assert state.circuit == "open"
        left_s = fleet.one("SELECT extract(epoch FROM open_until - clock_timestamp()) FROM providers WHERE trips > 0")
        assert circuit.open_s(trips) - 1 < left_s <= circuit.open_s(trips)


def test_a_probe_whose_worker_died_is_followed_by_another(fleet: Fleet) -> None:
    break_it(fleet)
    fleet.sandbox.clear_faults()
    fleet.age_circuit("chatgpt2api")
    lost, other = fleet.orders(2, **ASYNC)
    claimed = claim.claim(fleet.benches[0], lost)  # and nothing after it, as by kill -9 before the POST
    assert claimed is not None
    fleet.age_circuit("chatgpt2api")
    fleet.run(other, worker=1)
    assert fleet.untouched(other), "the probe may still be out"
    fleet.sql("DELETE FROM workers WHERE boot_id = 'wkr_1'")
    sweep.Sweeper(fleet.benches[1], steady=lambda: True, epoch=lambda: "one").sweep()
    fleet.run(other, worker=1)
    assert fleet.job(other).status == "waiting"
    assert fleet.state("chatgpt2api").circuit == "closed"


def test_a_job_behind_an_open_circuit_expires_at_its_deadline_and_is_free(fleet: Fleet) -> None:
    break_it(fleet)
    customer = fleet.customer()
    job_id = fleet.order(customer, deadline_s=60, **ASYNC)
    fleet.run(job_id)
    fleet.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id", id=job_id)
    sweep.Sweeper(fleet.benches[1], steady=lambda: True, epoch=lambda: "one").sweep()
    job = fleet.job(job_id)
    assert (job.status, job.failure_code, job.captured, job.attempt) == ("failed", "deadline_expired", 0, 0)
    with fleet.database.autocommit() as connection:
        assert ledger.balance(connection, customer.account_id).spendable_microcredits == 100_000 * CREDIT


def test_an_upstream_that_refuses_connections_opens_the_circuit(fleet: Fleet, environ: dict[str, str]) -> None:
    [port] = free_ports(1)
    nowhere = registry.load({**environ, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"})
    context = WorkerContext(**{**vars(fleet.benches[0]), "registry": nowhere})
    for job_id in fleet.orders(circuit.FAILURES_TO_OPEN, **SYNC):
        run_step(context, job_id)
    assert fleet.state("openai").circuit == "open"


# ------------------------------------------------------------------ pause


def test_a_paused_provider_takes_nothing_until_it_is_resumed(fleet: Fleet) -> None:
    with fleet.database.transaction() as connection:
        health.pause(connection, "chatgpt2api")
    [job_id] = fleet.orders(1, **ASYNC)
    fleet.run(job_id)
    assert fleet.untouched(job_id)
    assert 4 < fleet.job(job_id).due_in.total_seconds() <= 30
    fleet.limit("chatgpt2api", max_active=5)  # a worker that starts does not end a pause
    fleet.run(job_id, worker=1)
    assert fleet.submits("chatgpt2api") == 0
    with fleet.database.transaction() as connection:
        health.resume(connection, "chatgpt2api")
    fleet.run(job_id)
    assert fleet.job(job_id).status == "waiting"


def test_open_calls_of_a_paused_provider_are_followed_to_their_end(fleet: Fleet) -> None:
    [job_id] = fleet.orders(1, **ASYNC)
    fleet.run(job_id)
    with fleet.database.transaction() as connection:
        health.pause(connection, "chatgpt2api")
    fleet.sql("UPDATE jobs SET due_at = clock_timestamp()")
    poll.poll_provider(fleet.benches[1], "chatgpt2api")
    assert fleet.job(job_id).status == "succeeded"


# ------------------------------------------------------------------ bulkheads


def test_a_hanging_provider_with_every_permit_taken_delays_no_other(fleet: Fleet) -> None:
    fleet.limit("openai", max_active=4)
    fleet.sandbox.add_fault("hang=6", provider="openai", route="submit")
    customer = fleet.customer()
    hanging = fleet.orders(8, customer, **SYNC)
    stuck = [threading.Thread(target=fleet.run, args=(job_id,), daemon=True) for job_id in hanging[:4]]
    for thread in stuck:
        thread.start()
    until(lambda: fleet.submits("openai") == 4, "every permit to be taken")

    began = time.monotonic()
    for job_id in hanging[4:]:
        fleet.run(job_id, worker=1)
    assert all(fleet.untouched(job_id) for job_id in hanging[4:])
    ids = fleet.orders(8, customer, **ASYNC)
    for job_id in ids:
        fleet.run(job_id)
    fleet.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'waiting'")
    poll.poll_provider(fleet.benches[0], "chatgpt2api")
    sweep.Sweeper(fleet.benches[1], steady=lambda: True, epoch=lambda: "one").sweep()
    took_s = time.monotonic() - began

    assert {fleet.job(job_id).status for job_id in ids} == {"succeeded"}
    assert took_s < 5, f"{took_s:.1f} s next to a hanging provider"
    assert fleet.state("openai").active == 4
    for thread in stuck:
        thread.join()


# ------------------------------------------------------------------ publishing for free permits


def refilled(fleet: Fleet) -> list[str]:
    with fleet.database.autocommit() as connection:
        return [nudge.argument for nudge in refill.refill_limited(connection, window=32)]


def unpublish(fleet: Fleet) -> None:
    fleet.sql("UPDATE jobs SET published_at = NULL, due_at = clock_timestamp() WHERE status = 'queued'")


def test_a_provider_without_room_is_not_sent_messages(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_active=2)
    ids = fleet.orders(6, **ASYNC)
    unpublish(fleet)
    assert len(refilled(fleet)) == 2
    assert refilled(fleet) == []  # published jobs count
    fleet.run_all(ids[:2])
    unpublish(fleet)
    sweeper = sweep.Sweeper(fleet.benches[0], steady=lambda: True, epoch=lambda: "one")
    sweeper.sweep()
    assert fleet.one("SELECT count(*) FROM jobs WHERE published_at IS NOT NULL AND status = 'queued'") == 0
    fleet.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'waiting'")
    poll.poll_provider(fleet.benches[0], "chatgpt2api")
    assert len(refilled(fleet)) == 2


def test_few_permits_are_shared_in_turns_and_not_by_queue_length(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_active=4)
    many, one = fleet.customer(), fleet.customer()
    fleet.orders(40, many, **ASYNC)
    [single] = fleet.orders(1, one, **ASYNC)
    unpublish(fleet)
    assert single in refilled(fleet)


def test_a_weight_is_a_share_of_the_turns(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_active=8)
    heavy, light = fleet.customer(weight=3), fleet.customer()
    mine = set(fleet.orders(20, heavy, **ASYNC))
    fleet.orders(20, light, **ASYNC)
    unpublish(fleet)
    assert len(mine & set(refilled(fleet))) == 6


# ------------------------------------------------------------------ estimated waits


def test_the_wait_of_a_queued_task_is_estimated_from_measured_service_times(fleet: Fleet) -> None:
    fleet.limit("chatgpt2api", max_active=2)
    customer = fleet.customer()
    done = fleet.orders(10, customer, **ASYNC)
    fleet.sql(
        "UPDATE jobs SET status = 'succeeded', money = 'settled', captured = 0, released = 0,"
        " started_at = clock_timestamp() - interval '30 s',"
        " finished_at = clock_timestamp() - interval '20 s'"
    )
    assert done
    waiting = fleet.orders(5, customer, **ASYNC)
    estimates = Estimates(fleet.database)
    with fleet.database.autocommit() as connection:
        tasks = [find_task(connection, customer.account_id, job_id) for job_id in waiting]
    waits = [estimates.of(task) for task in tasks]
    assert [wait and round(wait.p50_s) for wait in waits] == [0, 0, 5, 10, 15]
    assert all(wait and wait.p90_s >= wait.p50_s for wait in waits)
    models = catalog.load().models
    measured = estimates.service_s([models["chatgpt2api-gpt-image-2"], models["gpt-image-2"]])
    assert {model: round(seconds) for model, seconds in measured.items()} == {"chatgpt2api-gpt-image-2": 10}


def test_without_measurements_there_is_no_estimate(fleet: Fleet) -> None:
    customer = fleet.customer()
    [job_id] = fleet.orders(1, customer, **ASYNC)
    with fleet.database.autocommit() as connection:
        task = find_task(connection, customer.account_id, job_id)
    assert Estimates(fleet.database).of(task) is None
