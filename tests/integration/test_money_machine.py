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
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from job_engine import ASYNC_MODEL, SYNC_MODEL
from sqlalchemy import Connection, event, text

from accounts.accounts import create_account
from core.ids import new_id
from jobs import answers, audit, calls, capacity, decide, lifecycle, loading, steps, sweep
from jobs.answers import Answer
from jobs.calls import KeptImage
from jobs.capacity import Limits
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
PERMITS_OF_A_CREDENTIAL = 7
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
    "crashed": ({"running"}, {"waiting"}),
    "finish": ({"running", "waiting"}, {"running", "waiting", "queued", "succeeded", "failed", "cancelled"}),
    "look": ({"waiting"}, {"waiting", "queued", "succeeded", "failed", "cancelled"}),
}
WEIGHTS = [*["move"] * 9, *["answer"] * 2, *["disturb"] * 2, *["submit"] * 2, "keep house"]
TERMINAL = {"succeeded", "failed", "cancelled"}
CRASHES = st.sampled_from([None] * 18 + list(range(6)))


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

    @initialize(credits_=st.integers(6, 30))
    def open_account(self, credits_: int) -> None:
        self.empty()
        with self.bench.database.transaction() as connection:
            account = create_account(connection, f"machine {next(_names)}")
        self.world = World(account.id)
        self._grant(credits_)
        for n, model in ((4, ASYNC_MODEL), (2, SYNC_MODEL)):
            self._submit(self._new_job(n, model, low=False), None)

    def _grant(self, units: int) -> None:
        with self.bench.database.transaction() as connection:
            ledger.grant(connection, self.world.account_id, units * UNIT)
        self.world.granted += units * UNIT

    @rule(data=st.data(), crash=CRASHES)
    def live_on(self, data: st.DataObject, crash: int | None) -> None:
        """One rule with weights of its own: left alone, Hypothesis tries few jobs for long enough to be paid for."""
        {
            "move": self._move,
            "answer": self._answer_late,
            "disturb": self._disturb,
            "submit": self._order,
            "keep house": self._keep_house,
        }[data.draw(st.sampled_from(WEIGHTS))](data, crash)

    def _order(self, data: st.DataObject, crash: int | None) -> None:
        n, model = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([ASYNC_MODEL, SYNC_MODEL]))
        self._submit(self._new_job(n, model, low=data.draw(st.booleans())), crash)

    def _submit(self, job: NewJob, crash: int | None) -> None:
        before = self._balance()
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

    def _move(self, data: st.DataObject, crash: int | None) -> None:
        """What a live job waits for."""
        job = self._load(self._draw(data, "queued", "running", "waiting"))
        match job.status:
            case JobStatus.QUEUED:
                self._claim(job.id, data.draw(st.sampled_from([LIVE_OWNER, LIVE_OWNER, DEAD_OWNER])), crash)
            case JobStatus.RUNNING:
                mine = [hand for hand in self.world.hands if hand.job.id == job.id]
                if mine:
                    self._answer(data, mine[-1], crash)
                else:  # who had it has died before it could say so
                    self._verb("lapse", job.id, lambda c: self._lapse(c, job), crash)
            case JobStatus.WAITING:
                self._look(data, job, crash)

    def _claim(self, job_id: str, owner: str, crash: int | None) -> None:
        """As the runner does it: claim, intend and hold in one transaction."""

        def claim_intend_hold(connection: Connection) -> Hand | None:
            row = lifecycle.claim(connection, job_id, owner=owner, step_s=self.bench.step_s)
            job = loading.load(connection, job_id)
            assert job is not None
            groups = decide.plan(self.bench.facts(job), max_per_call=2)
            seated = calls.intend(
                connection,
                job_id=job_id,
                provider=job.provider,
                model=job.model,
                credentials=self._credentials(connection, job.provider),
                intents=[_intent(*group) for group in groups],
                deadline_s=60,
            )
            if seated is None:
                raise StaleJobError("no room")  # and with the transaction the claim is undone
            lifecycle.hold(connection, row)
            after = loading.load(connection, job_id)
            return Hand(after) if after else None

        self._sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id AND status = 'queued'", job_id)
        hand = self._verb("claim", job_id, claim_intend_hold, crash)
        if hand is not None:
            self.world.hands.append(hand)

    def _answer_late(self, data: st.DataObject, crash: int | None) -> None:
        """Any worker that ever had a job, again or for the first time."""
        if self.world.hands:
            self._answer(data, data.draw(st.sampled_from(self.world.hands)), crash)

    def _answer(self, data: st.DataObject, hand: Hand, crash: int | None) -> None:
        """A worker finishes its step with what it learned."""
        news = self._news(data, hand.job, (None, Outcome.FINISHED))
        self._step("finish", hand.job.id, lambda: steps.finish(self.bench, hand.job, news), crash)

    def _look(self, data: st.DataObject, job: LiveJob, crash: int | None) -> None:
        """As the poller does it: take what is finished to be kept; else record what was seen, and conclude."""
        if any(call.outcome is Outcome.FINISHED for call in job.calls):
            self._found(job, crash, stale=data.draw(st.sampled_from((False, False, False, True))))
            return
        news = self._news(data, job, (Outcome.ACCEPTED, Outcome.UNCERTAIN), keeps=False)
        news = [one for one in news if one.outcome is not Outcome.KEPT]  # who looks keeps nothing

        def look() -> None:
            with self.bench.database.transaction() as connection:
                for one in news:
                    answers.record(connection, one)
            steps.conclude(self.bench, job.id)

        self._step("look", job.id, look, crash)

    def _found(self, job: LiveJob, crash: int | None, *, stale: bool) -> None:
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

    def _disturb(self, data: st.DataObject, crash: int | None) -> None:
        """Any verb at any job, under its fence or under one that is out of date."""
        job = self._load(self._draw(data, "queued", "running", "waiting"))
        fence = job.fence - data.draw(st.integers(0, 1))
        kept = sum(call.facts.kept for call in job.calls)
        verbs: dict[str, Callable[[Connection], Any]] = {
            "claim": lambda c: lifecycle.claim(c, job.id, owner=LIVE_OWNER, step_s={}) and self._undo(),
            "park": lambda c: lifecycle.park(c, job.id, fence, check_after_s=0),
            "lapse": lambda c: self._lapse(c, replace(job, fence=fence)),
            "crashed": lambda c: lifecycle.crashed(c, job.id, fence, give_up_s={}),
            "cancel": lambda c: lifecycle.cancel(c, self.world.account_id, job.id),
            "expire": lambda c: self._expire(c, job.id),
            "fail": lambda c: lifecycle.fail(c, job.id, fence, code="upstream_error"),
        }
        if kept:
            verbs["succeed"] = lambda c: lifecycle.succeed(c, job.id, fence, kept=kept, notes=())
        if not any(call.outcome in decide.OPEN for call in job.calls):  # it waits, else
            verbs["retry"] = lambda c: lifecycle.retry(c, job.id, fence, code="test", after_s=0)
        name = data.draw(st.sampled_from(sorted(verbs)))
        self._verb(name, job.id, verbs[name], crash)

    def _undo(self) -> None:
        """A claim alone is never committed: its hold and its calls belong to it."""
        raise Crash

    def _lapse(self, connection: Connection, job: LiveJob) -> Any:
        return lifecycle.lapse(connection, job.id, job.fence, code="test", give_up_s={})

    def _expire(self, connection: Connection, job_id: str) -> Any:
        connection.execute(text("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = :id"), {"id": job_id})
        return lifecycle.expire(connection, job_id)

    def _keep_house(self, data: st.DataObject, crash: int | None) -> None:
        """Dead owners' jobs lapse, overdue ones expire, windows are filled; and now and then comes money."""
        with suppress(Crash), self._fused(crash):
            if data.draw(st.booleans()):
                self._grant(data.draw(st.integers(1, 6)))
            else:
                sweep.Sweeper(self.bench, steady=lambda: True, epoch=lambda: "epoch").sweep()

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
        assert balance.spendable + balance.reserved + captured == self.world.granted
        live = "SELECT coalesce(sum(quoted), 0) FROM jobs WHERE account_id = :id AND finished_at IS NULL"
        assert balance.reserved == self._one(live, self.world.account_id)

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

    def _draw(self, data: st.DataObject, *likely: str) -> str:
        """A job, mostly one in a ``likely`` state, for elsewhere there is little to do; but anything may be tried."""
        with self.bench.database.autocommit() as connection:
            rows = connection.execute(text("SELECT id, status FROM jobs ORDER BY id")).all()
        if all(row.status in TERMINAL for row in rows):
            self._grant(3)
            self._submit(self._new_job(3, ASYNC_MODEL, low=False), None)
            return self.world.jobs[-1]
        if data.draw(st.sampled_from((True, True, True, True, False))):
            rows = [row for row in rows if row.status in likely] or rows
        return str(data.draw(st.sampled_from([row.id for row in rows])))

    def _news(
        self, data: st.DataObject, job: LiveJob, of: Sequence[Outcome | None], *, keeps: bool = True
    ) -> list[Answer]:
        good, later = ([Outcome.KEPT] if keeps else [Outcome.FINISHED]), [Outcome.ACCEPTED]
        # All goes well, or all goes on, or each call has an outcome of its own.
        mood = st.sampled_from(data.draw(st.sampled_from([good, good, later, later, list(Outcome)])))
        return [self._one_answer(data, job, call, data.draw(mood)) for call in job.calls if call.outcome in of]

    def _one_answer(self, data: st.DataObject, job: LiveJob, call: OpenCall, outcome: Outcome) -> Answer:
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
        for table in ("jobs", "transfers", "balances", "accounts", "marks", "permits"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final"))
        # One provider's credential has an end, so that claims find no room, too.
        for row in connection.execute(text("SELECT id, provider FROM credentials")).all():
            most = PERMITS_OF_A_CREDENTIAL if row.provider == "chatgpt2api" else None
            capacity.announce(connection, row.id, row.provider, Limits(max_active=most))
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
            max_examples=14,
            stateful_step_count=45,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            # On a database each try costs seconds, and shrinking makes hundreds: take Phase.shrink in to debug.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
