"""Doubles of what the routes use, and the app over them: no database, no Redis, no network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlencode

from flask import Flask
from flask.testing import FlaskClient

from accounts.keys import Caller
from app import create_app
from app.connections import Connections
from app.enhancement import Enhancer
from app.http.limits import RateLimits
from app.http.signing import Signer
from app.http.waits import Waits
from app.services import Services
from app.shapes.render import Renderer
from app.shapes.status_json import StatusJson
from app.streams.following import Following
from app.task_reads import TaskReads
from core.db import Database, Hot, Statement
from core.outbound.urls import UnsafeUrlError
from core.settings import Settings
from jobs import lifecycle
from jobs.dispatch import publishing
from jobs.documents import StoredInput
from jobs.errors import (
    IdempotencyMismatchError,
    ImageGoneError,
    ImageNotFoundError,
    ImageNotReadyError,
    JobNotFoundError,
    NotEndedError,
)
from jobs.execution.callbacks import Callbacks
from jobs.lifecycle import Cancellation, Submitted
from jobs.lifecycle.submit import SUBMIT
from jobs.maintenance import audit, audit_check
from jobs.maintenance.audit import Finding
from jobs.reads import events, funds, tasks
from jobs.reads.brief import Brief
from jobs.reads.funds import Funds
from jobs.reads.made import Made, find_made
from jobs.reads.tasks import Image, Step, Task
from jobs.states import Nudge
from jobs.submission import sdk_attempts, unanswered
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order
from jobs.submission.quoting import Quote, Quoting
from jobs.submission.references import References
from jobs.submission.remote_images import RemoteImages
from jobs.submission.sdk_attempts import SdkAttempt
from jobs.submission.service import SubmissionService
from providers.catalog import catalog as catalogue
from providers.orders.schema import order_schema
from quota import ledger
from quota.ledger import Entry
from storage.base import BlobNotFoundError, StoredImage
from webhooks import installation_key

KEYS = {
    "dk_a_secret": Caller("acct_a", "a", "a", frozenset({"jobs:read", "jobs:write"})),
    "dk_b_secret": Caller("acct_b", "b", "b", frozenset({"jobs:read", "jobs:write"})),
    "dk_r_secret": Caller("acct_a", "a", "r", frozenset({"jobs:read"})),
    "dk_w_secret": Caller("acct_a", "a", "w", frozenset({"jobs:write"})),
    "dk_admin_secret": Caller("acct_a", "a", "admin", frozenset({"admin"})),
}
MINE = {"Authorization": "Bearer dk_a_secret"}
THEIRS = {"Authorization": "Bearer dk_b_secret"}
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CATALOG = catalogue.load()
PNG = b"\x89PNG\r\n\x1a\n" + b"0123456789" * 20


def job_id(number: int) -> str:
    return f"job_{number:026d}"


def make_task(number: int = 1, **changes: Any) -> Task:
    task = Task(
        id=job_id(number),
        account_id="acct_a",
        status="queued",
        operation="generate",
        model="gpt-image-2",
        provider="openai",
        n=1,
        priority="normal",
        attempt=0,
        created_at=NOW,
        started_at=None,
        finished_at=None,
        start_deadline_at=NOW,
        version=1,
        quoted_microcredits=5_300_000,
        captured_microcredits=None,
        released_microcredits=None,
        queue_position=3,
        failure_code=None,
        failure_detail=None,
        failure_stage=None,
        cancel_requested_at=None,
        cancel_outcome=None,
        request={"prompt": "a fox", "n": 1, "size": {}, "params": {}, "normalised": {}},
        warnings=[],
        metadata={},
    )
    return replace(task, **changes)


def make_image(index: int = 0, **changes: Any) -> Image:
    image = Image(index, f"k/{index}", "image/png", 64, 32, len(PNG), "ab" * 32, 7)
    return replace(image, **changes)


def done_task(number: int = 1, **changes: Any) -> Task:
    return make_task(
        number, status="succeeded", version=5, finished_at=NOW, captured_microcredits=5_300_000,
        released_microcredits=0, images=[make_image()], queue_position=None, **changes,
    )  # fmt: skip


def status_json_of(task: Task) -> StatusJson:
    """As the database would write it; tests/integration/test_status_json.py asks the real one."""
    whole = Renderer(Signer({"k1": b"s" * 32})).task(task)

    def piece(first: str, last: str) -> str:
        names = list(whole)
        return json.dumps({name: whole[name] for name in names[names.index(first) : names.index(last) + 1]})

    return StatusJson(
        id=task.id,
        account_id=task.account_id,
        version=task.version,
        status=task.status,
        provider=task.provider,
        model=task.model,
        queue_position=task.queue_position,
        ended=task.ended,
        keep_s=task.keep_s,
        head=piece("id", "progress"),
        body=piece("created_at", "request"),
        tail=piece("chosen", "parent_id"),
        images=task.images,
        waiting=task.waiting,
    )


class Rows(Connections, TaskReads):
    """The database as the routes know it: each function they lend a connection to has its answer here.

    ``away`` raises from everything.
    """

    def __init__(self) -> None:
        self.known: dict[str, Task] = {}
        self.lives: dict[str, events.Life] = {}
        self.away: Exception | None = None
        self.findings: list[Finding] = []
        self.filters: list[Any] = []
        self.earlier_task: Task | None = None
        self.unpublished: list[str] = []
        self.made = Made({}, [])
        self.answered: list[str] = []  # jobs whose SDK has got its whole answer
        self.reports: list[tuple[str, object]] = []
        self.cancelled = Cancellation("freed_in_queue", [])
        self.unanswered: dict[bytes, str] = {}
        self.answers: dict[Callable[..., Any], Callable[..., Any]] = {
            tasks.list_tasks: self._list,
            tasks.newest_before: self._newest_before,
            tasks.find_image: self._image,
            tasks.timeline: self._timeline,
            tasks.versions: self._versions,
            events.lives: self._lives,
            lifecycle.cancel: self._cancel,
            publishing.mark_unpublished: self.unpublished.extend,
            lifecycle.reported: self._heard,
            find_made: lambda account_id, job_id: self.made,
            sdk_attempts.answered: self.answered.append,
            audit.check: lambda timeout_s, facts_at_most: self.findings,
            audit_check.remember: lambda findings: None,
            funds.funds: lambda account_id: Funds(spendable=7_000_000, queued=2_000_000, held=1_000_000),
            ledger.entries: self._entries,
            unanswered.note: lambda account_id, attempt, job_id: self.unanswered.update({attempt: job_id}),
            unanswered.take: lambda account_id, attempt, life_s: self.unanswered.pop(attempt, None),
            installation_key.seed: lambda: b"e" * 32,
        }

    def autocommit(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return self.answers[function](*args, **kwargs)

    transaction = autocommit

    def add(self, task: Task) -> Task:
        self.known[task.id] = task
        return task

    def task(self, account_id: str, job_id: str) -> Task:
        self._check()
        task = self.known.get(job_id)
        if task is None or task.account_id != account_id:
            raise JobNotFoundError("no such task")
        return task

    def brief(self, account_id: str, job_id: str, *, events: bool = False) -> Brief:
        """As the database would read it; tests/integration/test_briefs.py asks the real one."""
        task = self.task(account_id, job_id)
        spent = task.finished_at - task.started_at if task.finished_at and task.started_at else None
        return Brief(
            task.id,
            task.account_id,
            task.status,
            task.version,
            task.queue_position or 0,
            spent.total_seconds() if spent is not None else None,
            task.failure_code,
            task.failure_detail,
            task.cancel_outcome,
            [{"at": "2026-11-20T12:00:00.000Z", "type": "queued"}] if events else None,
        )

    def status_json(self, account_id: str, job_id: str) -> StatusJson:
        return status_json_of(self.task(account_id, job_id))

    def delete_images(self, account_id: str, job_id: str) -> None:
        task = self.task(account_id, job_id)
        if not task.ended:
            raise NotEndedError("still going on")
        self.add(replace(task, images=[replace(image, deleted_at=NOW) for image in task.images]))

    def _check(self) -> None:
        if self.away:
            raise self.away

    def _list(self, account_id: str, filters: Any) -> list[Task]:
        self.filters.append(filters)
        cursor = filters.cursor or "k"
        mine = [task for task in self.known.values() if task.account_id == account_id and task.id < cursor]
        return sorted(mine, key=lambda task: task.id, reverse=True)[: filters.limit]

    def _newest_before(self, account_id: str, job_id: str, limit: int) -> str | None:
        newer = sorted(task.id for task in self.known.values() if task.account_id == account_id and task.id > job_id)
        return newer[:limit][-1] if newer else None

    def _image(self, account_id: str, job_id: str, index: int) -> Image:
        task = self.task(account_id, job_id)
        if not task.ended:
            raise ImageNotReadyError("not yet")
        found = next((image for image in task.images if image.index == index), None)
        if found is None:
            raise ImageNotFoundError("no such image")
        if found.deleted_at:
            raise ImageGoneError("deleted")
        return found

    def _timeline(self, account_id: str, job_id: str) -> list[Step]:
        self.task(account_id, job_id)
        return [Step(1, NOW, "queued", {"attempt": 0})]

    def _versions(self, job_ids: Any) -> dict[str, tuple[int, bool]]:
        return {each: (self.known[each].version, self.known[each].ended) for each in job_ids}

    def _lives(self, wanted: Any) -> dict[Any, events.Life]:
        """The lives of known tasks, each without the events that are known already."""
        return {
            each: replace(life, events=[event for event in life.events if event.id > each[2]])
            for each in wanted
            if (life := self.lives.get(each[1])) and self.known[each[1]].account_id == each[0]
        }

    def _cancel(self, account_id: str, job_id: str, *, charge: str) -> Cancellation:
        self.task(account_id, job_id)
        return self.cancelled

    def _heard(self, call_id: str, upstream_id: object) -> list[Nudge]:
        self.reports.append((call_id, upstream_id))
        return [Nudge("jobs.poll", "control", "replicate")]

    def _entries(self, account_id: str, *, before_id: int | None, limit: int) -> list[Entry]:
        every = [Entry(n, "grant", "house:issued", "acct:available", 1_000_000, None, "", NOW) for n in (3, 2, 1)]
        return [each for each in every if before_id is None or each.id < before_id][:limit]


class OrdersTable(Hot):
    """The two statements of a submit: one takes the key, one inserts the job."""

    def __init__(self) -> None:
        pass

    def execute(self, statement: Any, values: Mapping[str, Any]) -> Any:
        return SimpleNamespace(one_or_none=lambda: SimpleNamespace(taken=1))

    def one_or_none(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        assert statement is SUBMIT
        return SimpleNamespace(
            created_at=NOW, start_deadline_at=NOW, published=True, ahead=3, told=0, spendable=1_700_000
        )


class OrdersDatabase(Database):
    """A database that takes new jobs and keeps nothing."""

    def __init__(self) -> None:
        pass

    @contextmanager
    def hot(self) -> Iterator[Any]:
        yield OrdersTable()

    transaction = hot


class KeptReferences(References):
    """The real reading of images, which are kept in a list instead of a store."""

    contents: ClassVar[list[bytes]] = []

    def keep(self, account_id: str, job_id: str, images: Any, contents: Sequence[bytes]) -> list[StoredInput]:
        self.contents[:] = contents
        return []


class Submissions(SubmissionService):
    """The real service over :class:`OrdersDatabase`, which remembers what was submitted."""

    def __init__(self, rows: Rows, quoting: Quoting, references: References) -> None:
        super().__init__(OrdersDatabase(), quoting, references, default_deadline_s=3600, publish_window=32)
        self.rows = rows
        self.orders: list[tuple[Any, ...]] = []  # caller, operation, fields, images with their bytes, request id
        self.kept: dict[str, tuple[bytes, str]] = {}
        self.attempts: dict[str, SdkAttempt] = {}
        self.becomes: Callable[[Task], Task] = lambda task: task  # what a new job is by the time it is read
        self.refuse: Exception | None = None

    def submit(
        self,
        caller: Caller,
        order: Order,
        *,
        key: IdempotencyKey | SdkAttempt | None = None,
        request_id: str = "",
    ) -> Submitted:
        if self.refuse:
            raise self.refuse
        submitted = super().submit(caller, order, key=key, request_id=request_id)
        if submitted.replayed:
            return submitted
        self.rows.add(self.becomes(submitted.task))
        if isinstance(key, SdkAttempt):
            self.attempts[submitted.task.id] = key
        elif key:
            self.kept[key.key] = (key.fingerprint, submitted.task.id)
        images = [
            replace(image, data=data)
            for image, data in zip(order.images, KeptReferences.contents if order.images else [], strict=True)
        ]
        self.orders.append((caller, order.operation, dict(order.fields), images, request_id))
        return submitted

    def _earlier(self, caller: Caller, key: IdempotencyKey | SdkAttempt) -> Submitted | None:
        if isinstance(key, SdkAttempt):
            return self._joined(key)
        if self.rows.earlier_task:
            return Submitted(self.rows.earlier_task, [], replayed=True)
        if key.key not in self.kept:
            return None
        fingerprint, known = self.kept[key.key]
        if fingerprint != key.fingerprint:
            raise IdempotencyMismatchError("another order")
        return Submitted(self.rows.known[known], [], replayed=True)

    def _joined(self, attempt: SdkAttempt) -> Submitted | None:
        before = replace(attempt, retry_count=attempt.retry_count - 1)
        for known, latest in self.attempts.items():
            if latest == before and known not in self.rows.answered:
                self.attempts[known] = attempt
                return Submitted(self.rows.known[known], [], replayed=True)
        return None

    def _check_balance(self, caller: Caller, quote: Quote) -> None:
        pass


class Store:
    """Bytes by key."""

    def __init__(self) -> None:
        self.blobs = {"k/0": PNG}
        self.opened: list[io.BytesIO] = []
        self.links: str | None = None

    def open(self, key: str) -> io.BytesIO:
        if key not in self.blobs:
            raise BlobNotFoundError(key)
        self.opened.append(io.BytesIO(self.blobs[key]))
        return self.opened[-1]

    def read(self, key: str) -> bytes:
        return self.blobs[key]

    def link(self, key: str, *, content_type: str, disposition: str) -> str | None:
        return self.links and f"{self.links}/{key}?{urlencode({'type': content_type, 'as': disposition})}"


class Writer:
    """An upstream that writes ``pieces``, raising those that are errors."""

    def __init__(self) -> None:
        self.pieces: list[str | Exception] = ["A red ", "fox."]
        self.asked: list[Any] = []
        self.max_tokens: int | None = None

    def stream_text(self, messages: Any, *, temperature: float | None, max_tokens: int | None = None) -> Iterator[str]:
        self.asked.append((messages, temperature))
        self.max_tokens = max_tokens
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@dataclass
class Edge:
    """The app and everything under it that a test may want to look at."""

    app: Flask
    client: FlaskClient
    rows: Rows
    submission: Submissions
    store: Store
    writer: Writer
    published: list[Nudge]
    fetched: list[str]
    variants: list[Any]
    trouble: dict[str, str | None]
    signer: Signer
    waits: Waits


def settings_of(variables: Mapping[str, Any]) -> Settings:
    return Settings(_env_file=None, **{"DARKROOM_VAR": Path("unused"), **variables})


def make_edge(*, configured: tuple[str, ...] = ("openai",), **variables: Any) -> Edge:
    """``variables`` are settings by their environment names."""
    rows, store, writer = Rows(), Store(), Writer()
    published: list[Nudge] = []
    fetched: list[str] = []
    variants: list[Any] = []
    trouble: dict[str, str | None] = {"database": None, "redis": None, "storage": None, "migrations": None}
    signer = Signer({"k1": b"s" * 32})
    settings = settings_of(variables)
    callbacks = Callbacks(None, settings.public_url)
    callbacks.__dict__["_key"] = b"c" * 32  # else it would be read from the database

    def variant(key: str, mime: str, **asked: Any) -> StoredImage:
        variants.append((key, asked))
        store.blobs["v"] = b"variant"
        return StoredImage("v", "image/webp", 10, 5, 7, "cd" * 32)

    def fetch(url: str) -> bytes:
        fetched.append(url)
        if "private" in url:
            raise UnsafeUrlError("url_not_allowed", "address")
        return PNG

    def publish(nudges: Sequence[Nudge]) -> bool:
        published.extend(nudges)
        return not trouble["redis"]

    submission = Submissions(
        rows,
        Quoting(
            CATALOG,
            configured=configured,
            markup=Decimal(1),
            minimum_unit_price_microcredits=0,
            default_model="gpt-image-2",
        ),
        KeptReferences(
            store,
            None,
            RemoteImages(fetch),
            find_image=lambda *image: rows.autocommit(tasks.find_image, *image),
            max_bytes=settings.max_image_bytes,
        ),
    )
    waits = Waits(
        lambda job_ids: rows.autocommit(tasks.versions, job_ids),
        None,
        poll_s=0.01,
        most=settings.max_waiting,
        most_per_account=settings.max_waiting_per_account,
    )
    services = Services(
        authenticate=KEYS.get,
        knows_key=lambda token: False,
        connections=rows,
        task_reads=rows,
        submission=submission,
        publish=publish,
        catalogs=CATALOG,
        configured=configured,
        order_schema=order_schema,
        store=store,
        variant=variant,
        delete_images=rows.delete_images,
        cancel_charge="full",
        enhancer=Enhancer({"openai": "gpt-5.4-mini"}, lambda name: writer),
        limits=RateLimits(
            account=settings.rate_limit_account,
            submit=settings.rate_limit_submit,
            enhance=settings.rate_limit_enhance,
            wrong_keys=settings.rate_limit_wrong_keys,
            address=settings.rate_limit_address,
            total=settings.rate_limit_global,
            client=None,
        ),
        waits=waits,
        following=Following(rows, rows, waits),
        signer=signer,
        checks={name: (lambda name=name: trouble[name]) for name in trouble},
        callbacks=callbacks,
        uploads=None,  # they need a database: tests/integration/test_uploads.py
        delete_upload=None,
        files=None,
        feeder=None,
        file_lines=None,
    )
    app = create_app(settings, services)
    return Edge(
        app, app.test_client(), rows, submission, store, writer, published, fetched, variants, trouble, signer, waits
    )
