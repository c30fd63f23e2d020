"""Random histories of jobs on a real database, with crashes; after every step the books must balance.

Verbs come in any order, from any state, with current or outdated versions; workers that count as dead answer late or
twice, and two workers check one job. A step is cut at a random statement or commit: before it, or after it with its
answer lost; by the end of the process, or only of the connection. This file states again which moves a verb may make,
independently of ``jobs.lifecycle``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import tenacity
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
from sqlalchemy import Connection, text

from accounts.accounts import create_account
from core.db import Hot
from core.errors import DatabaseAwayError
from core.ids import new_id
from jobs import lifecycle
from jobs.call import Call, KeptImage
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.errors import StaleJobError
from jobs.execution import claim, give_up, outcomes
from jobs.execution import finish as finishing
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.lifecycle import NewJob
from jobs.maintenance import audit, sweep
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import JobStatus, Outcome
from providers.registry import UnknownCredentialError
from quota import ledger
from quota.errors import InsufficientCreditsError

UNIT = 100_000
LIVE_OWNER, DEAD_OWNER = "wkr_test", "wkr_dead"
PERMITS_OF_A_CREDENTIAL = 7
_names = itertools.count(1)

# From which state to which each verb may move a job. Everything else must leave the row unchanged.
LIVE = {"queued", "running", "waiting"}
TERMINAL = {"succeeded", "failed", "cancelled"}
LEGAL: dict[str, tuple[set[str], set[str]]] = {
    "claim": ({"queued"}, {"running"}),
    "park": ({"running", "waiting"}, {"waiting"}),
    "retry": ({"running", "waiting"}, {"queued"}),
    "succeed": (LIVE, {"succeeded"}),
    "fail": (LIVE, {"failed"}),
    "fail_over": (LIVE, {"queued"}),
    "expire": ({"queued"}, {"failed", "succeeded"}),
    "cancel": (LIVE, {"cancelled", "running", "waiting"}),
    "lapse": ({"running"}, {"waiting"}),
    "finish": ({"running", "waiting"}, LIVE | TERMINAL),
    "look": ({"waiting"}, {"waiting", "queued"} | TERMINAL),
    "give up": ({"waiting"}, {"waiting", "queued"} | TERMINAL),
}
# The fallback of the synchronous model: cheaper, so that a job may have images of two prices.
BEHIND = {
    "model": ASYNC_MODEL,
    "provider": "chatgpt2api",
    "unit_price": UNIT // 2,
    "per_call": 1,
    "unit_cost": 500,
    "request": {"prompt": "money"},
}
WEIGHTS = [*["move"] * 9, *["answer"] * 3, *["disturb"] * 3, *["submit"] * 2, "keep house"]


class Crash(Exception):  # noqa: N818 - it is what it says
    """The process ends in the middle of a step."""


@dataclass(frozen=True)
class Cut:
    """Where a step is cut: at its statement or commit number ``at``, before it or with its answer lost."""

    at: int
    after: bool
    alone: bool  # only the connection is lost and the process goes on


CUTS = st.one_of(*[st.none()] * 3, st.builds(Cut, at=st.integers(0, 5), after=st.booleans(), alone=st.booleans()))


@dataclass
class Fuse:
    """Cuts a step, once."""

    cut: Cut | None = None
    left: int = 0
    may_have_happened: bool = False

    def set(self, cut: Cut | None) -> None:
        self.cut, self.left, self.may_have_happened = cut, cut.at if cut else 0, False

    def around(self, act: Callable[[], Any]) -> Any:
        """Run a statement or commit of the step, and cut it if it is the one."""
        cut = self.cut
        if cut is None or self.left > 0:
            self.left -= 1
            return act()
        self.cut = None
        if cut.after:
            self.may_have_happened = True
            act()
        if cut.alone:
            raise psycopg.OperationalError("the connection is lost")
        raise Crash


class Upstreams:
    """Configured credentials without an upstream or a store, which these decisions do not need."""

    names = ("chatgpt2api", "openai")

    def by_credential(self, credential_id: str) -> Any:
        raise UnknownCredentialError(credential_id)

    def of(self, provider: str) -> list[Any]:
        known = provider in self.names
        return [SimpleNamespace(credential_id=f"{provider}/default", base_url="http://upstream")] if known else []

    def delete(self, key: str) -> None:
        pass

    def configured(self) -> list[str]:
        return list(self.names)

    def takes_own_keys(self, provider_name: str) -> bool:
        return False


@dataclass
class World:
    """One example's account and what the machine knows about it.

    ``seen``: jobs as workers and pollers have read them, which may still answer.
    """

    account_id: str
    granted: int = 0
    jobs: list[str] = field(default_factory=list)
    seen: list[LiveJob] = field(default_factory=list)
    ends: dict[str, tuple[Any, ...]] = field(default_factory=dict)


class Money(RuleBasedStateMachine):
    """Set by the factory in the test below."""

    context: WorkerContext
    fuse: Fuse
    empty: Callable[[], None]

    # -- what happens to an account

    @initialize(credits_=st.integers(6, 30))
    def open_account(self, credits_: int) -> None:
        self.empty()
        with self.context.database.transaction() as connection:
            account = create_account(connection, f"machine {next(_names)}")
        self.world = World(account.id)
        self._grant(credits_)
        for n, model in ((4, ASYNC_MODEL), (2, SYNC_MODEL)):
            self._submit(self._new_job(n, model, low=False), None)

    def _grant(self, units: int) -> None:
        with self.context.database.transaction() as connection:
            ledger.grant(connection, self.world.account_id, units * UNIT)
        self.world.granted += units * UNIT

    @rule(data=st.data(), crash=CUTS)
    def live_on(self, data: st.DataObject, crash: Cut | None) -> None:
        """One rule with its own weights; with separate rules, few jobs would live long enough to be charged."""
        {
            "move": self._move,
            "answer": self._answer_late,
            "disturb": self._disturb,
            "submit": self._order,
            "keep house": self._keep_house,
        }[data.draw(st.sampled_from(WEIGHTS))](data, crash)

    def _order(self, data: st.DataObject, crash: Cut | None) -> None:
        n, model = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([ASYNC_MODEL, SYNC_MODEL]))
        self._submit(self._new_job(n, model, low=data.draw(st.booleans())), crash)

    def _submit(self, job: NewJob, crash: Cut | None) -> None:
        before = self._balance()
        try:
            with self._cut_short(crash), self.context.database.transaction() as connection:
                lifecycle.submit(connection, job, window=2)
        except (Crash, DatabaseAwayError):
            if not self._one("SELECT count(*) FROM jobs WHERE id = :id", job.id):
                assert self._balance() == before
                return
            assert self.fuse.may_have_happened
        except InsufficientCreditsError:
            assert before.spendable_microcredits < job.quoted_microcredits
            assert self._balance() == before
            return
        assert before.spendable_microcredits >= job.quoted_microcredits
        self.world.jobs.append(job.id)

    def _new_job(self, n: int, model: str, *, low: bool) -> NewJob:
        return NewJob(
            id=new_id("job"),
            account_id=self.world.account_id,
            weight=1,
            operation="generate",
            model=model,
            provider=self.context.catalog.resolve(model).model.provider,
            n=n,
            low_priority=low,
            start_within_s=3600,
            unit_price_microcredits=UNIT,
            quoted_microcredits=UNIT * n,
            request={"prompt": "money"},
            warnings=(),
            metadata={},
            inputs=(),
            per_call=1 if model == ASYNC_MODEL else 2,
            unit_cost_microusd=1000,
            fallbacks=() if model == ASYNC_MODEL else [BEHIND],
        )

    # -- what workers do

    def _move(self, data: st.DataObject, crash: Cut | None) -> None:
        """Do the next thing for a live job."""
        job = self._load(self._draw(data, "queued", "running", "waiting"))
        match job.status:
            case JobStatus.QUEUED:
                self._claim(job.id, data.draw(st.sampled_from([LIVE_OWNER, LIVE_OWNER, DEAD_OWNER])), crash)
            case JobStatus.RUNNING:
                mine = [seen for seen in self.world.seen if (seen.id, seen.fence) == (job.id, job.fence)]
                if mine:
                    self._finish(data, "finish", mine[-1], crash)
                else:  # its worker has died before it recorded anything
                    self._verb("lapse", job.id, lambda c: self._lapse(c, job), crash, current=True)
            case JobStatus.WAITING:
                self._look(data, job, crash)

    def _claim(self, job_id: str, owner: str, crash: Cut | None) -> None:
        """Claim as a worker does, by ``start`` or by ``claim``."""
        self._sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id AND status = 'queued'", job_id)
        self._sql("UPDATE providers SET open_until = clock_timestamp() WHERE open_until IS NOT NULL", "")
        self._sql("UPDATE credentials SET not_before = NULL WHERE not_before IS NOT NULL", "")
        context, claimed = replace(self.context, owner=owner), None

        def take() -> None:
            nonlocal claimed
            claimed = claim.claim(context, job_id)

        self._step("claim", job_id, take, crash)
        if claimed is not None:
            row = self._row(job_id)
            assert (row.status, row.fence, row.owner) == ("running", claimed.job.fence, owner)
            self.world.seen.append(claimed.job)

    def _answer_late(self, data: st.DataObject, crash: Cut | None) -> None:
        """Let any worker that ever had or read a job answer, once more or for the first time."""
        if self.world.seen:
            self._finish(data, "finish", data.draw(st.sampled_from(self.world.seen)), crash)

    def _look(self, data: st.DataObject, job: LiveJob, crash: Cut | None) -> None:
        """Let a poller read the job; it may answer now or later."""
        self.world.seen.append(job)
        if data.draw(st.sampled_from((True, True, True, False))):
            self._finish(data, "look", job, crash)

    def _finish(self, data: st.DataObject, name: str, job: LiveJob, crash: Cut | None) -> None:
        """Record outcomes of the job's calls and move it on."""
        open_before = (None, Outcome.FINISHED, Outcome.ACCEPTED, Outcome.UNCERTAIN)
        news = self._news(data, job, open_before)
        self._step(name, job.id, lambda: finishing.finish(self.context, job, news), crash)

    # -- verbs out of turn

    def _disturb(self, data: st.DataObject, crash: Cut | None) -> None:
        """Run any verb on any job, with its current or an earlier version."""
        job = self._load(self._draw(data, "queued", "running", "waiting"))
        current = data.draw(st.booleans())
        version, fence = job.version - (not current), job.fence - (not current)
        kept = sum(call.kept for call in job.calls)
        verbs: dict[str, Callable[[Connection], Any]] = {
            "park": lambda c: lifecycle.park(c, job.id, version, check_after_s=0),
            "lapse": lambda c: self._lapse(c, replace(job, fence=fence)),
        }
        # With the current version a job may end or be retried only when no call is open, as the deciding code does.
        if not current or not any(call.is_open or call.outcome is Outcome.FINISHED for call in job.calls):
            verbs["fail"] = lambda c: lifecycle.end(c, job.id, version, lifecycle.fail("upstream_error"))
            verbs["retry"] = lambda c: lifecycle.retry(c, job.id, version, code="test", after_s=0, deadline_s=60)
            verbs["fail_over"] = lambda c: lifecycle.fail_over(c, job.id, version, code="upstream_error")
            if kept or not current:
                verbs["succeed"] = lambda c: lifecycle.end(c, job.id, version, lifecycle.succeed())
        if current:
            verbs["cancel"] = lambda c: lifecycle.cancel(c, self.world.account_id, job.id)
            verbs["expire"] = verbs["give up"] = lambda c: None  # these have their own transactions
        name = data.draw(st.sampled_from(sorted(verbs)))
        if name == "expire":
            self._step("expire", job.id, lambda: give_up.expire(self.context, job.id, version), crash)
        elif name == "give up":
            self._sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() WHERE job_id = :id", job.id)
            self._step("give up", job.id, lambda: give_up.abandon(self.context, job.id), crash)
        else:
            self._verb(name, job.id, verbs[name], crash, current=current)

    def _lapse(self, connection: Connection, job: LiveJob) -> Any:
        return lifecycle.lapse(connection, job.id, job.fence, code="test", give_up_s={})

    def _keep_house(self, data: st.DataObject, crash: Cut | None) -> None:
        """Lapse jobs of dead owners, expire overdue ones, fill windows, and sometimes grant credits."""
        if data.draw(st.booleans()):
            self._grant(data.draw(st.integers(1, 6)))
            return
        with suppress(Crash, DatabaseAwayError), self._cut_short(crash):
            sweep.Sweeper(self.context, steady=lambda: True, epoch=lambda: "epoch").sweep()

    # -- what must always hold

    @invariant()
    def the_books_balance(self) -> None:
        with self.context.database.transaction() as connection:
            assert audit.check(connection) == []

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        if not hasattr(self, "world"):
            return
        balance = self._balance()
        captured = self._one(
            "SELECT coalesce(sum(captured), 0) FROM jobs WHERE account_id = :id", self.world.account_id
        )
        assert balance.spendable_microcredits + balance.reserved_microcredits + captured == self.world.granted
        live = "SELECT coalesce(sum(quoted), 0) FROM jobs WHERE account_id = :id AND finished_at IS NULL"
        assert balance.reserved_microcredits == self._one(live, self.world.account_id)

    @invariant()
    def an_end_is_an_end(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.context.database.autocommit() as connection:
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

    @invariant()
    def no_end_leaves_a_call_open(self) -> None:
        """A job ends only after all its calls have an outcome, or an image could be lost."""
        open_calls = """
            SELECT j.id, j.status, u.outcome FROM jobs AS j JOIN upstream_calls AS u ON u.job_id = j.id
            WHERE j.finished_at IS NOT NULL
                AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain', 'finished'))
        """
        assert self._all(open_calls) == []

    @invariant()
    def no_claim_was_refused_by_the_tables(self) -> None:
        assert self._all("SELECT id FROM jobs WHERE failure_code = 'internal_error'") == []

    # -- helpers

    def _draw(self, data: st.DataObject, *likely: str) -> str:
        """Draw a job, mostly one in a ``likely`` state, because in others there is little to do."""
        with self.context.database.autocommit() as connection:
            rows = connection.execute(text("SELECT id, status FROM jobs ORDER BY id")).all()
        if all(row.status in TERMINAL for row in rows):
            self._grant(3)
            self._submit(self._new_job(3, ASYNC_MODEL, low=False), None)
            return self.world.jobs[-1]
        if data.draw(st.sampled_from((True, True, True, True, False))):
            rows = [row for row in rows if row.status in likely] or rows
        return str(data.draw(st.sampled_from([row.id for row in rows])))

    def _news(self, data: st.DataObject, job: LiveJob, of: Sequence[Outcome | None]) -> list[CallOutcome]:
        # All calls succeed, or all go on, or each call has its own outcome.
        moods: list[list[Outcome]] = [[Outcome.KEPT], [Outcome.KEPT], [Outcome.FINISHED], [Outcome.ACCEPTED]]
        mood = st.sampled_from(data.draw(st.sampled_from([*moods, list(Outcome), list(Outcome)])))
        answers = [self._one_answer(data, job, call, data.draw(mood)) for call in job.calls if call.outcome in of]
        before = {call.id: call.outcome for call in job.calls}
        return [answer for answer in answers if outcomes.may_replace(answer, before[answer.call.id])]

    def _one_answer(self, data: st.DataObject, job: LiveJob, call: Call, outcome: Outcome) -> CallOutcome:
        retryable = outcome is Outcome.NOT_RUN or (outcome is Outcome.FAILED and data.draw(st.booleans()))
        kept = data.draw(st.integers(1, call.image_count)) if outcome is Outcome.KEPT else 0
        bad = outcome not in (Outcome.KEPT, Outcome.FINISHED, Outcome.ACCEPTED)
        return CallOutcome(
            replace(call, code="upstream_error" if bad else None, retryable=retryable),
            outcome,
            upstream_id="up" if outcome is Outcome.ACCEPTED else None,
            result=[] if outcome is Outcome.FINISHED else None,
            images=[_image(job.id, call.slot + offset) for offset in range(kept)],
        )

    def _verb(
        self, name: str, job_id: str, verb: Callable[[Connection], Any], crash: Cut | None, *, current: bool
    ) -> None:
        """Run a verb in its transaction; with an outdated version it must change nothing."""
        before = self._row(job_id)

        def act() -> None:
            with self.context.database.transaction() as connection:
                verb(connection)

        done = self._step(name, job_id, act, crash, all_or_nothing=True)
        if not current:
            assert not done
            assert self._row(job_id) == before

    def _step(
        self, name: str, job_id: str, act: Callable[[], Any], crash: Cut | None, *, all_or_nothing: bool = False
    ) -> bool:
        """Run ``act`` and compare the job's move with the table; return whether it was not cut."""
        before, written_before, done = self._row(job_id), self._written(job_id), False
        try:
            with self._cut_short(crash):
                act()
            done = True
        except (Crash, DatabaseAwayError):
            assert not all_or_nothing or self.fuse.may_have_happened or self._row(job_id) == before
        except StaleJobError:
            assert not all_or_nothing or self._row(job_id) == before
        after = self._row(job_id)
        sources, targets = LEGAL[name]
        if (before.status, before.fence) != (after.status, after.fence):
            assert before.status in sources
            assert after.status in targets
        assert after.fence >= before.fence
        # The version must show that the job's calls or images have changed.
        assert after.version > before.version or self._written(job_id) == written_before
        return done

    def _written(self, job_id: str) -> Any:
        """Return the outcomes and images of a job's calls."""
        with self.context.database.autocommit() as connection:
            return connection.execute(
                text(
                    "SELECT (SELECT jsonb_agg(jsonb_build_array(id, outcome, pictures_kept) ORDER BY id)"
                    " FROM upstream_calls WHERE job_id = :id), (SELECT count(*) FROM images WHERE job_id = :id)"
                ),
                {"id": job_id},
            ).one()

    @contextmanager
    def _cut_short(self, cut: Cut | None) -> Iterator[None]:
        self.fuse.set(cut)
        try:
            yield
        finally:
            self.fuse.cut = None

    def _load(self, job_id: str) -> LiveJob:
        with self.context.database.autocommit() as connection:
            job = worker.load(connection, job_id)
        assert job is not None
        return job

    def _row(self, job_id: str) -> Any:
        with self.context.database.autocommit() as connection:
            return connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()

    def _sql(self, statement: str, id_: str) -> None:
        with self.context.database.autocommit() as connection:
            connection.execute(text(statement), {"id": id_})

    def _one(self, statement: str, id_: str) -> Any:
        with self.context.database.autocommit() as connection:
            return connection.execute(text(statement), {"id": id_}).scalar_one()

    def _all(self, statement: str) -> list[Any]:
        with self.context.database.autocommit() as connection:
            return list(connection.execute(text(statement)).all())

    def _balance(self) -> ledger.Balance:
        with self.context.database.autocommit() as connection:
            return ledger.balance(connection, self.world.account_id)


def _image(job_id: str, index: int) -> KeptImage:
    return KeptImage(index, f"jobs/{job_id}/{index}/x.png", "image/png", 1, 1, 1, "x")


@pytest.fixture
def fuse(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """A fuse around every statement and commit of the process, by SQLAlchemy and by hot connections."""
    fuse, dialect = Fuse(), context.database.engine.dialect

    def wrap(owner: Any, name: str) -> None:
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: fuse.around(lambda: whole(*a, **k)))

    for door in ("all", "scalar", "run"):  # ``one_or_none`` goes through ``all``
        wrap(Hot, door)
    for door in ("do_execute", "do_execute_no_params", "do_commit"):
        wrap(dialect, door)
    monkeypatch.setattr(finishing.finish.retry, "wait", tenacity.wait_none())  # type: ignore[attr-defined]
    return fuse


def _empty(context: WorkerContext) -> None:
    """Empty the database, so that each example starts from the same state and is reproducible."""
    with context.database.transaction() as connection:
        connection.execute(text("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final"))
        for table in ("jobs", "transfers", "balances", "accounts", "marks", "permits", "providers"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final"))
        # One provider's credential has a limit, so that some claims find no permit.
        for row in connection.execute(text("SELECT id, provider FROM credentials")).all():
            most = PERMITS_OF_A_CREDENTIAL if row.provider == "chatgpt2api" else None
            announce(connection, row.id, row.provider, CredentialLimits(max_active=most))
        connection.execute(text("UPDATE workers SET heartbeat_at = clock_timestamp() + interval '1 hour'"))


def test_the_books_balance_whatever_happens_in_whatever_order(context: WorkerContext, fuse: Fuse) -> None:
    alone = replace(context, registry=Upstreams(), store=Upstreams())

    def machine() -> Money:
        built = Money()
        built.context, built.fuse, built.empty = alone, fuse, lambda: _empty(context)
        return built

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=45,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            # Each try costs seconds and shrinking needs hundreds of them; add Phase.shrink for debugging.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
