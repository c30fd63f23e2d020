"""Random lives of jobs on a real database, crashes included; after every step the books must balance.

Verbs come in any order, from any state, under fresh and under stale fences, and workers that were given up
answer late or twice. A crash ends the step at a random statement or at its commit. What a verb may do is
written down here once more, independently of ``jobs.lifecycle``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from job_engine import ASYNC_MODEL, SYNC_MODEL
from sqlalchemy import Connection, event, text

from accounts.accounts import create_account
from core.ids import new_id
from jobs import answers, audit, calls, decide, lifecycle, loading, steps, sweep
from jobs.answers import Answer
from jobs.calls import KeptImage
from jobs.errors import StaleJobError
from jobs.lifecycle import NewJob
from jobs.loading import LiveJob, OpenCall
from jobs.runner import _intent
from jobs.states import JobStatus, Outcome
from jobs.workbench import Workbench
from providers.registry import UnknownCredentialError
from quota import ledger
from quota.errors import InsufficientCreditsError

UNIT = 100_000
LIVE_OWNER, DEAD_OWNER = "wkr_test", "wkr_dead"
SLOTS_OF_A_CREDENTIAL = 7
_names = itertools.count(1)

# Where each verb may take a job from, and to where. Everything else must leave the row as it was.
LEGAL: dict[str, tuple[set[str], set[str]]] = {
    "claim": ({"queued"}, {"running"}),
    "park": ({"running"}, {"waiting"}),
    "found": ({"waiting"}, {"running"}),
    "retry": ({"running", "waiting"}, {"queued"}),
    "succeed": ({"running", "waiting"}, {"succeeded"}),
    "fail": ({"running", "waiting"}, {"failed"}),
    "expire": ({"queued"}, {"failed"}),
    "cancel": ({"queued", "running", "waiting"}, {"cancelled", "running", "waiting"}),
    "lapse": ({"running"}, {"waiting"}),
    "finish": ({"running", "waiting"}, {"running", "waiting", "queued", "succeeded", "failed", "cancelled"}),
    "look": ({"waiting"}, {"waiting", "queued", "succeeded", "failed", "cancelled"}),
}
TERMINAL = {"succeeded", "failed", "cancelled"}
CRASHES = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 7))
OUTCOMES = st.sampled_from([*Outcome, Outcome.KEPT, Outcome.FINISHED, Outcome.ACCEPTED])


class Crash(Exception):  # noqa: N818 - it is what it says
    """The process is gone in the middle of a transaction."""


@dataclass
class Fuse:
    """Ends a step at its n-th statement or commit."""

    left: int | None = None

    def burn(self, *_: Any, **__: Any) -> None:
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            raise Crash
        self.left -= 1


class Nobody:
    """No upstream and no store: what is decided here needs neither."""

    def by_credential(self, credential_id: str) -> Any:
        raise UnknownCredentialError(credential_id)

    def delete(self, key: str) -> None:
        pass

    def configured(self) -> list[str]:
        return []


@dataclass
class Hand:
    """A worker that believes to own a job: the job as it was when it took it."""

    job: LiveJob
    answered: int = 0


@dataclass
class World:
    """One example's account and what the machine remembers of it."""

    account_id: str
    granted: int = 0
    jobs: list[str] = field(default_factory=list)
    hands: list[Hand] = field(default_factory=list)
    ends: dict[str, tuple[Any, ...]] = field(default_factory=dict)


class Money(RuleBasedStateMachine):
    """The factory in the test below gives these."""

    bench: Workbench
    fuse: Fuse
    empty: Callable[[], None]

    # -- what happens to an account

    @initialize(credits_=st.integers(1, 30))
    def open_account(self, credits_: int) -> None:
        self.empty()
        with self.bench.database.transaction() as connection:
            account = create_account(connection, f"machine {next(_names)}")
        self.world = World(account.id)
        self._grant(credits_)

    @rule(credits_=st.integers(1, 10), crash=CRASHES)
    def grant(self, credits_: int, crash: int | None) -> None:
        with suppress(Crash), self._fused(crash):
            self._grant(credits_)

    def _grant(self, units: int) -> None:
        with self.bench.database.transaction() as connection:
            ledger.grant(connection, self.world.account_id, units * UNIT)
        self.world.granted += units * UNIT

    @rule(n=st.integers(1, 4), model=st.sampled_from([ASYNC_MODEL, SYNC_MODEL]), low=st.booleans(), crash=CRASHES)
    def submit(self, n: int, model: str, low: bool, crash: int | None) -> None:
        before = self._balance()
        job = self._new_job(n, model, low=low)
        try:
            with self._fused(crash), self.bench.database.transaction() as connection:
                lifecycle.submit(connection, job, window=2)
        except Crash:
            assert self._balance() == before
        except InsufficientCreditsError:
            assert before.spendable < job.quoted
            assert self._balance() == before
        else:
            assert before.spendable >= job.quoted
            self.world.jobs.append(job.id)

    def _new_job(self, n: int, model: str, *, low: bool) -> NewJob:
        return NewJob(
            id=new_id("job"),
            account_id=self.world.account_id,
            weight=1,
            operation="generate",
            model=model,
            provider=self.bench.catalog.resolve(model).model.provider,
            n=n,
            low_priority=low,
            start_within_s=3600,
            unit_price=UNIT,
            quoted=UNIT * n,
            request={"prompt": "money"},
            warnings=(),
            metadata={},
            inputs=(),
        )

    # -- what workers do

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), owner=st.sampled_from([LIVE_OWNER, DEAD_OWNER]), crash=CRASHES)
    def claim(self, data: st.DataObject, owner: str, crash: int | None) -> None:
        """As the runner does it: claim, intend and hold in one transaction."""

        def claim_intend_hold(connection: Connection) -> Hand | None:
            row = lifecycle.claim(connection, job_id, owner=owner, step_s=self.bench.step_s)
            job = loading.load(connection, job_id)
            assert job is not None
            groups = decide.plan(self.bench.facts(job), max_per_call=2)
            intents = [_intent(*group) for group in groups]
            seated = calls.intend(
                connection,
                job_id=job_id,
                provider=job.provider,
                model=job.model,
                credentials=self._credentials(connection, job.provider),
                intents=intents,
                deadline_s=60,
            )
            if seated is None:
                raise StaleJobError("no room")
            lifecycle.hold(connection, row)
            after = loading.load(connection, job_id)
            return Hand(after) if after else None

        job_id = self._draw(data)
        self._sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id AND status = 'queued'", job_id)
        hand = self._verb("claim", job_id, claim_intend_hold, crash)
        if hand is not None:
            self.world.hands.append(hand)

    @precondition(lambda self: self.world.hands)
    @rule(data=st.data(), forget=st.booleans(), crash=CRASHES)
    def answer(self, data: st.DataObject, forget: bool, crash: int | None) -> None:
        """A worker finishes its step with what it learned, in time or late, for the first time or again."""
        hand = data.draw(st.sampled_from(self.world.hands))
        news = self._news(data, hand.job, (None, Outcome.FINISHED))
        self._step("finish", hand.job.id, lambda: steps.finish(self.bench, hand.job, news), crash)
        hand.answered += 1
        if forget:
            self.world.hands.remove(hand)

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), crash=CRASHES)
    def look(self, data: st.DataObject, crash: int | None) -> None:
        """As the poller does it: record what was seen of the open calls, then conclude."""
        job = self._load(self._draw(data))
        if job.status is not JobStatus.WAITING:
            return
        news = self._news(data, job, (Outcome.ACCEPTED, Outcome.UNCERTAIN), keeps=False)

        def look() -> None:
            with self.bench.database.transaction() as connection:
                for one in news:
                    answers.record(connection, one)
            steps.conclude(self.bench, job.id)

        self._step("look", job.id, look, crash)

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), crash=CRASHES, stale=st.booleans())
    def found(self, data: st.DataObject, crash: int | None, stale: bool) -> None:
        job = self._load(self._draw(data))
        if not any(call.outcome is Outcome.FINISHED for call in job.calls):
            return
        fence = job.fence - stale
        taken = self._verb(
            "found",
            job.id,
            lambda connection: lifecycle.found(connection, job.id, fence, owner=LIVE_OWNER, step_s=self.bench.step_s),
            crash,
        )
        if taken is not None:
            self.world.hands.append(Hand(replace(job, status=JobStatus.RUNNING, fence=taken)))

    # -- verbs out of turn

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), name=st.sampled_from(["park", "retry", "lapse", "fail", "succeed"]), crash=CRASHES)
    def verb(self, data: st.DataObject, name: str, crash: int | None) -> None:
        """Any verb at any job, under its fence or under one that is out of date."""
        job = self._load(self._draw(data))
        fence = job.fence - data.draw(st.integers(0, 1))
        kept = sum(call.facts.kept for call in job.calls)
        if name == "succeed" and not kept:
            return
        verbs: dict[str, Callable[[Connection], Any]] = {
            "park": lambda c: lifecycle.park(c, job.id, fence, check_after_s=0),
            "retry": lambda c: lifecycle.retry(c, job.id, fence, code="test", after_s=0),
            "lapse": lambda c: lifecycle.lapse(c, job.id, fence, code="test", give_up_s={}),
            "fail": lambda c: lifecycle.fail(c, job.id, fence, code="upstream_error"),
            "succeed": lambda c: lifecycle.succeed(c, job.id, fence, kept=kept, notes=()),
        }
        self._verb(name, job.id, verbs[name], crash)

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), crash=CRASHES)
    def cancel(self, data: st.DataObject, crash: int | None) -> None:
        job_id = self._draw(data)
        self._verb("cancel", job_id, lambda c: lifecycle.cancel(c, self.world.account_id, job_id), crash)

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data(), crash=CRASHES)
    def expire(self, data: st.DataObject, crash: int | None) -> None:
        job_id = self._draw(data)
        self._sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id AND status = 'queued'", job_id)
        self._verb("expire", job_id, lambda c: lifecycle.expire(c, job_id), crash)

    @rule(crash=CRASHES, steady=st.booleans())
    def sweep(self, crash: int | None, steady: bool) -> None:
        """Dead owners' jobs lapse, overdue ones expire, windows are filled."""
        sweeper = sweep.Sweeper(self.bench, steady=lambda: steady, epoch=lambda: "epoch")
        with suppress(Crash), self._fused(crash):
            sweeper.sweep()

    # -- what must always hold

    @invariant()
    def the_books_balance(self) -> None:
        with self.bench.database.transaction() as connection:
            assert audit.check(connection) == []

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        if not hasattr(self, "world"):
            return
        balance = self._balance()
        captured = self._one(
            "SELECT coalesce(sum(captured), 0) FROM jobs WHERE account_id = :id", self.world.account_id
        )
        assert balance.available + balance.held + captured == self.world.granted
        assert balance.queued <= balance.available

    @invariant()
    def an_end_is_an_end(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.bench.database.autocommit() as connection:
            rows = connection.execute(
                text(
                    "SELECT id, status, captured, released, finished_at,"
                    " (SELECT count(*) FROM images WHERE job_id = id)"
                    " FROM jobs WHERE account_id = :id AND finished_at IS NOT NULL"
                ),
                {"id": self.world.account_id},
            ).all()
        for row in rows:
            assert row.status in TERMINAL
            assert self.world.ends.setdefault(row.id, tuple(row)) == tuple(row)

    # -- means

    def _draw(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(self.world.jobs)))

    def _news(
        self, data: st.DataObject, job: LiveJob, of: Sequence[Outcome | None], *, keeps: bool = True
    ) -> list[Answer]:
        return [self._answer(data, job, call, keeps=keeps) for call in job.calls if call.outcome in of]

    def _answer(self, data: st.DataObject, job: LiveJob, call: OpenCall, *, keeps: bool) -> Answer:
        outcome = data.draw(OUTCOMES)
        if outcome is Outcome.KEPT and not keeps:
            outcome = Outcome.FINISHED
        retryable = outcome is Outcome.NOT_RUN or (outcome is Outcome.FAILED and data.draw(st.booleans()))
        kept = data.draw(st.integers(1, call.facts.pictures)) if outcome is Outcome.KEPT else 0
        bad = outcome not in (Outcome.KEPT, Outcome.FINISHED, Outcome.ACCEPTED)
        return Answer(
            replace(call.facts, code="upstream_error" if bad else None, retryable=retryable),
            outcome,
            upstream_id="up" if outcome is Outcome.ACCEPTED else None,
            result=[] if outcome is Outcome.FINISHED else None,
            images=[_image(job.id, call.facts.slot + offset) for offset in range(kept)],
        )

    def _verb(self, name: str, job_id: str, verb: Callable[[Connection], Any], crash: int | None) -> Any:
        """Run a verb in its transaction; its result, or None where it did not happen."""
        result = None

        def act() -> None:
            nonlocal result
            with self.bench.database.transaction() as connection:
                result = verb(connection)

        return result if self._step(name, job_id, act, crash, all_or_nothing=True) else None

    def _step(
        self, name: str, job_id: str, act: Callable[[], Any], crash: int | None, *, all_or_nothing: bool = False
    ) -> bool:
        """Do it, and hold what it did to the job against the table; whether it came to its end."""
        before, done = self._row(job_id), False
        try:
            with self._fused(crash):
                act()
            done = True
        except (Crash, StaleJobError):
            assert not all_or_nothing or self._row(job_id) == before
        after = self._row(job_id)
        sources, targets = LEGAL[name]
        moved = (before.status, before.fence) != (after.status, after.fence)
        if moved:
            assert before.status in sources
            assert after.status in targets
        assert after.fence >= before.fence
        return done

    @contextmanager
    def _fused(self, crash: int | None) -> Iterator[None]:
        self.fuse.left = crash
        try:
            yield
        finally:
            self.fuse.left = None

    def _load(self, job_id: str) -> LiveJob:
        with self.bench.database.autocommit() as connection:
            job = loading.load(connection, job_id)
        assert job is not None
        return job

    def _row(self, job_id: str) -> Any:
        with self.bench.database.autocommit() as connection:
            return connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()

    def _sql(self, statement: str, id_: str) -> None:
        with self.bench.database.autocommit() as connection:
            connection.execute(text(statement), {"id": id_})

    def _one(self, statement: str, id_: str) -> Any:
        with self.bench.database.autocommit() as connection:
            return connection.execute(text(statement), {"id": id_}).scalar_one()

    def _balance(self) -> ledger.Balance:
        with self.bench.database.autocommit() as connection:
            return ledger.balance(connection, self.world.account_id)

    def _credentials(self, connection: Connection, provider: str) -> dict[str, str]:
        rows = connection.execute(text("SELECT id FROM credentials WHERE provider = :p"), {"p": provider})
        return {row.id: "http://upstream" for row in rows}


def _image(job_id: str, index: int) -> KeptImage:
    return KeptImage(index, f"jobs/{job_id}/{index}/x.png", "image/png", 1, 1, 1, "x")


@pytest.fixture
def fuse(bench: Workbench) -> Iterator[Fuse]:
    fuse, engine = Fuse(), bench.database.engine
    event.listen(engine, "before_cursor_execute", fuse.burn)
    event.listen(engine, "commit", fuse.burn)
    yield fuse
    event.remove(engine, "before_cursor_execute", fuse.burn)
    event.remove(engine, "commit", fuse.burn)


def _empty(bench: Workbench) -> None:
    """Each example begins alike, for its choices follow from what it finds."""
    with bench.database.transaction() as connection:
        connection.execute(text("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final"))
        for table in ("jobs", "transfers", "balances", "accounts", "marks"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final"))
        # One provider's credential has an end, so that claims find no room, too.
        connection.execute(
            text("UPDATE credentials SET active = 0, max_active = CASE provider WHEN 'chatgpt2api' THEN :most END"),
            {"most": SLOTS_OF_A_CREDENTIAL},
        )
        connection.execute(text("UPDATE workers SET heartbeat_at = clock_timestamp() + interval '1 hour'"))


def test_the_books_balance_whatever_happens_in_whatever_order(bench: Workbench, fuse: Fuse) -> None:
    alone = replace(bench, registry=Nobody(), store=Nobody())

    def machine() -> Money:
        built = Money()
        built.bench, built.fuse, built.empty = alone, fuse, lambda: _empty(bench)
        return built

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
