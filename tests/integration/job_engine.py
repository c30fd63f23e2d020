"""A whole job engine in the test's own process: real database, real files, the sandbox over HTTP.

Only the broker is left out: nudges are recorded, and ``Engine.drive`` does what workers would do with
them. Nothing sleeps to wait for work; what would be due later is made due in the database.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import Row, text

from accounts.accounts import create_account
from accounts.keys import Caller
from core.db import Database
from jobs import states
from jobs.dispatch import due, heartbeats
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.errors import JobFailedError
from jobs.execution import collect, give_up, poll, run
from jobs.execution.context import WorkerContext
from jobs.lifecycle import Submitted
from jobs.maintenance import audit, sweep
from jobs.reads import funds, tasks
from jobs.reads.funds import Funds
from jobs.reads.tasks import Task
from jobs.states import Ended, Nudge, Signal
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order, ReferenceImage
from jobs.submission.service import SubmissionService
from providers import registry
from providers.catalog.catalog import CatalogSource
from quota import ledger
from storage.base import StorageUnavailableError
from storage.local import LocalStore
from storage.media import Media

CREDIT = 1_000_000
ASYNC_MODEL = "chatgpt2api-gpt-image-2"  # one image a call, polled, class A
SYNC_MODEL = "gpt-image-2"  # several images a call, class C
ASYNC_PRICE = 100_000  # the least an image costs here
_names = itertools.count(1)


class Recorder:
    """Stands where the broker's door is; can be told to be away."""

    def __init__(self) -> None:
        self.waiting: list[Nudge] = []
        self.ended: list[Ended] = []
        self.messages = 0  # tasks sent: wake-ups are no Celery messages
        self.away = False

    def __call__(self, signals: Sequence[Signal]) -> bool:
        self.ended += [each for each in signals if isinstance(each, Ended)]
        nudges = [each for each in signals if isinstance(each, Nudge)]
        if self.away and nudges:
            return False
        self.waiting += nudges
        self.messages += sum(1 for nudge in nudges if nudge.task != states.WAKE)
        return True

    def take(self) -> list[Nudge]:
        taken, self.waiting = self.waiting, []
        return [nudge for nudge in taken if nudge.task != states.WAKE]


@dataclass
class Engine:
    """The parts, and short words for what tests do with them again and again."""

    context: WorkerContext
    submission: SubmissionService
    sent: Recorder
    steady: bool = False
    epoch: str | None = "first"
    sweeper: sweep.Sweeper = field(init=False)

    def __post_init__(self) -> None:
        self.sweeper = sweep.Sweeper(self.context, steady=lambda: self.steady, epoch=lambda: self.epoch)

    # -- the database

    @property
    def database(self) -> Database:
        return self.context.database

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
        """Announce the provider's credentials with these limits; none: no limits."""
        with self.database.transaction() as connection:
            for each in self.context.registry.of(provider):
                announce(connection, each.credential_id, provider, CredentialLimits(**limits))

    # -- accounts

    def account(self, credits_: float = 1000, *, weight: int = 1) -> Caller:
        with self.database.transaction() as connection:
            account = create_account(connection, f"account {next(_names)}", weight=weight)
            if credits_:
                ledger.grant(connection, account.id, round(credits_ * CREDIT))
        return Caller(account.id, weight=weight)

    def balance(self, customer: Caller) -> Funds:
        with self.database.autocommit() as connection:
            return funds.funds(connection, customer.account_id)

    def transfers(self, job_id: str) -> dict[str, int]:
        """Amount by kind; a kind that happened twice would have broken the unique index."""
        return {
            row.kind: row.amount for row in self.rows("SELECT kind, amount FROM transfers WHERE job_id=:id", id=job_id)
        }

    # -- jobs

    def order(
        self,
        customer: Caller,
        prompt: str = "a small fox",
        *,
        operation: str = "generate",
        references: Sequence[ReferenceImage] = (),
        key: IdempotencyKey | None = None,
        publish: bool = True,
        **fields: Any,
    ) -> Submitted:
        asked: dict[str, Any] = {"prompt": prompt, "model": ASYNC_MODEL, **fields}
        if asked["model"] == ASYNC_MODEL:
            asked.setdefault("size", "64x64")
        done = self.submission.submit(customer, Order(operation, asked, references), key=key)
        if publish:
            self.context.publish(done.nudges)
        return done

    def job(self, job_id: str) -> Row[Any]:
        [row] = self.rows("SELECT * FROM jobs WHERE id = :id", id=job_id)
        return row

    def task(self, customer: Caller, job_id: str) -> Task:
        with self.database.autocommit() as connection:
            return tasks.find_task(connection, customer.account_id, job_id)

    def calls(self, job_id: str) -> list[Row[Any]]:
        return self.rows("SELECT * FROM upstream_calls WHERE job_id = :id ORDER BY slot, try", id=job_id)

    def events(self, job_id: str) -> list[str]:
        return [row.type for row in self.rows("SELECT type FROM job_events WHERE job_id=:id ORDER BY id", id=job_id)]

    # -- doing what workers do

    def handle(self, nudge: Nudge) -> None:
        """What ``workers.tasks`` does with a message, the failure hook included."""
        work: dict[str, Callable[[WorkerContext, str], list[Signal]]] = {
            "jobs.run": run_step,
            "jobs.poll": poll.poll_provider,
            "webhooks.deliver": lambda _context, _job_id: [],  # a test of callbacks has a sender of its own
        }
        self.context.publish(work[nudge.task](self.context, nudge.argument))

    def run(self, job_id: str) -> None:
        self.handle(states.run("", job_id))

    def poll(self, provider: str = "chatgpt2api") -> None:
        """Make every waiting job of the provider due and look at one batch."""
        self.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'waiting' AND provider=:p", p=provider)
        self.context.publish(poll.poll_provider(self.context, provider))

    def step(self) -> bool:
        """Work off what was nudged; False when nothing was."""
        nudges = self.sent.take()
        for nudge in nudges:
            self.handle(nudge)
        return bool(nudges)

    def drive(self, *, hurry: bool = True, until: Callable[[], bool] | None = None, at_most_s: float = 30) -> None:
        """Run messages, polls and sweeps until every job has ended, or ``until`` holds.

        ``hurry`` makes back-offs and check intervals pass at once.
        """
        over = until or (lambda: not self.one("SELECT count(*) FROM jobs WHERE finished_at IS NULL"))
        deadline = time.monotonic() + at_most_s
        while not over():
            if time.monotonic() > deadline:
                live = self.rows("SELECT id, status, due_at FROM jobs WHERE finished_at IS NULL")
                raise AssertionError(f"still not over after {at_most_s} s: {live}")
            if self.step():
                continue
            if hurry:
                self.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status IN ('queued', 'waiting')")
                self.sql("UPDATE credentials SET not_before = NULL")
                self.sql("UPDATE providers SET open_until = clock_timestamp() WHERE open_until IS NOT NULL")
            self.tick()
            self.context.publish(self.sweeper.sweep())

    def tick(self) -> None:
        """What the clock's tick does."""
        with self.database.autocommit() as connection:
            providers = due.providers_due(connection, self.context.registry.configured())
        self.context.publish([states.poll(provider) for provider in providers])

    def assert_books_balance(self, *, image_count: bool = True) -> None:
        """``pictures=False`` where a test moves jobs by the verbs alone and no image was ever made."""
        about_images = () if image_count else ("captured_is_pictures_kept", "only_pictures_are_charged")
        with self.database.transaction() as connection:
            assert [finding for finding in audit.check(connection) if finding.invariant not in about_images] == []


def run_step(context: WorkerContext, job_id: str) -> list[Signal]:
    """What the task ``jobs.run`` does, its failure hook included."""
    try:
        try:
            return run.run_job(context, job_id)
        except run.CrashedStepError as crash:
            return give_up.after_crash(context, crash)
    except JobFailedError as failed:
        return give_up.end_failed(context, failed)


def refuse_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is away while images are fetched: what is finished is left to a later look."""

    def away(*args: object, **kwargs: object) -> None:
        raise StorageUnavailableError("away")

    monkeypatch.setattr(collect, "keep", away)


def make_context(
    *,
    database: Database,
    models: CatalogSource,
    media: Media,
    store: LocalStore,
    environ: Mapping[str, str],
    sent: Callable[[Sequence[Signal]], bool],
    owner: str,
    **changed: Any,
) -> WorkerContext:
    with database.autocommit() as connection:
        heartbeats.beat(connection, owner)
    values: dict[str, Any] = {
        "owner": owner,
        "database": database,
        "catalogs": models,
        "registry": registry.load(environ),
        "media": media,
        "store": store,
        "publish": sent,
        "max_attempts": 3,
        "cancel_charge": "full",
        "publish_window": 32,
    }
    return WorkerContext(**{**values, **changed})


def image_bytes(width_px: int = 64, height_px: int = 64, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width_px, height_px), 128 if mode == "L" else None).save(out, "PNG")
    return out.getvalue()


def root() -> Path:
    return Path(__file__).resolve().parents[2]
