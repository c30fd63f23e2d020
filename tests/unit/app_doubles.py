"""Stand-ins for what the edge stands on, and the app over them: no database, no Redis, no network."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from flask.testing import FlaskClient

from accounts.keys import Caller
from app import create_app
from app.enhancement import Enhancer
from app.http.limits import Limits
from app.http.signing import Signer
from app.http.waits import Waits
from app.services import Services
from app.shapes.render import Renderer
from app.shapes.status_json import TaskText
from core.settings import Settings
from jobs.errors import (
    FieldFault,
    IdempotencyMismatchError,
    ImageGoneError,
    ImageNotFoundError,
    ImageNotReadyError,
    InvalidOrderError,
    JobNotFoundError,
    NotEndedError,
)
from jobs.execution.callbacks import Callbacks
from jobs.lifecycle import Cancellation
from jobs.maintenance.audit import Finding
from jobs.reads.funds import Funds
from jobs.reads.tasks import Image, Step, Task
from jobs.states import Nudge
from jobs.submission.service import Quote, Submitted
from providers.catalog import catalog as catalogue
from providers.http.client import UnsafeUrlError
from providers.orders.rules import OrderProblems, check_order
from providers.orders.schema import order_schema
from quota.ledger import Entry
from storage.base import BlobNotFoundError, StoredImage

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
        quoted=5_300_000,
        captured=None,
        released=None,
        queue_position=3,
        failure_code=None,
        failure_detail=None,
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
        number, status="succeeded", version=5, finished_at=NOW, captured=5_300_000, released=0,
        images=[make_image()], queue_position=None, **changes,
    )  # fmt: skip


def text_of(task: Task) -> TaskText:
    """As the database would write it; tests/integration/test_status_json.py asks the real one."""
    whole = Renderer(Signer({"k1": b"s" * 32})).task(task)

    def piece(first: str, last: str) -> str:
        names = list(whole)
        return json.dumps({name: whole[name] for name in names[names.index(first) : names.index(last) + 1]})

    return TaskText(
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
        tail=piece("chosen", "metadata"),
        images=task.images,
    )


@dataclass
class Records:
    """The edge's view of the database; ``away`` raises from everything."""

    known: dict[str, Task] = field(default_factory=dict)
    away: Exception | None = None
    findings: list[Finding] = field(default_factory=list)
    filters: list[Any] = field(default_factory=list)
    earlier_task: Task | None = None
    forgotten: list[str] = field(default_factory=list)
    reports: list[tuple[str, object]] = field(default_factory=list)
    cancelled: Cancellation = field(default_factory=lambda: Cancellation("freed_in_queue", []))

    def _ask(self) -> None:
        if self.away:
            raise self.away

    def add(self, task: Task) -> Task:
        self.known[task.id] = task
        return task

    def task(self, account_id: str, job_id: str) -> Task:
        self._ask()
        task = self.known.get(job_id)
        if task is None or task.account_id != account_id:
            raise JobNotFoundError("no such task")
        return task

    def text(self, account_id: str, job_id: str) -> TaskText:
        return text_of(self.task(account_id, job_id))

    def tasks(self, account_id: str, filters: Any) -> list[Task]:
        self._ask()
        self.filters.append(filters)
        mine = [task for task in self.known.values() if task.account_id == account_id]
        return sorted(mine, key=lambda task: task.id, reverse=True)[: filters.limit]

    def image(self, account_id: str, job_id: str, index: int) -> Image:
        task = self.task(account_id, job_id)
        if not task.ended:
            raise ImageNotReadyError("not yet")
        found = next((image for image in task.images if image.index == index), None)
        if found is None:
            raise ImageNotFoundError("no such image")
        if found.deleted_at:
            raise ImageGoneError("deleted")
        return found

    def timeline(self, account_id: str, job_id: str) -> list[Step]:
        self.task(account_id, job_id)
        return [Step(1, NOW, "queued", {"attempt": 0})]

    def versions(self, job_ids: Any) -> dict[str, tuple[int, bool]]:
        self._ask()
        return {each: (self.known[each].version, self.known[each].ended) for each in job_ids}

    def cancel(self, account_id: str, job_id: str) -> Cancellation:
        self.task(account_id, job_id)
        return self.cancelled

    def unpublished(self, job_id: str) -> None:
        self.forgotten.append(job_id)

    def heard(self, call_id: str, upstream_id: object) -> list[Nudge]:
        self.reports.append((call_id, upstream_id))
        return [Nudge("jobs.poll", "control", "replicate")]

    def delete(self, account_id: str, job_id: str) -> Task:
        task = self.task(account_id, job_id)
        if not task.ended:
            raise NotEndedError("still going on")
        return self.add(replace(task, images=[replace(image, deleted_at=NOW) for image in task.images]))

    def audit(self) -> list[Finding]:
        return self.findings

    def earlier(self, account_id: str, key: Any) -> Submitted | None:
        return Submitted(self.earlier_task, [], replayed=True) if self.earlier_task else None

    def funds(self, account_id: str) -> Funds:
        self._ask()
        return Funds(spendable=7_000_000, queued=2_000_000, held=1_000_000)

    def entries(self, account_id: str, *, before_id: int | None, limit: int) -> list[Entry]:
        every = [Entry(n, "grant", "house:issued", "acct:available", 1_000_000, None, "", NOW) for n in (3, 2, 1)]
        return [each for each in every if before_id is None or each.id < before_id][:limit]


@dataclass
class Desk:
    """Checks orders by the real catalogue, and remembers what was submitted."""

    records: Records
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    kept: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    refuse: Exception | None = None

    def default_for(self, operation: str) -> Any:
        return CATALOG.models["gpt-image-2"] if operation == "generate" else None

    def quote(self, operation: str, fields: Any, *, roles: Any = ()) -> Quote:
        try:
            model = CATALOG.resolve(fields.get("model") or "gpt-image-2").model
            envelope = ("model", "priority", "deadline_s", "metadata", "extra", "lenient")
            checked = check_order(
                model,
                operation,
                {name: value for name, value in fields.items() if name not in envelope},
                image_count=list(roles).count("image"),
                has_mask="mask" in roles,
            )
        except catalogue.UnknownModelError as error:
            raise InvalidOrderError([FieldFault("model", "unknown_model", str(error))]) from None
        except OrderProblems as error:
            raise InvalidOrderError([FieldFault(p.field, p.code, p.message) for p in error.problems]) from None
        return Quote(model, operation, checked, 5_300_000, 5_300_000 * checked.n, [])

    def submit(
        self,
        customer: Any,
        operation: str,
        fields: Any,
        references: Any = (),
        *,
        idempotency_key: Any = None,
        request_id: str = "",
    ) -> Submitted:
        if self.refuse:
            raise self.refuse
        if idempotency_key and idempotency_key.key in self.kept:
            fingerprint, known = self.kept[idempotency_key.key]
            if fingerprint != idempotency_key.fingerprint:
                raise IdempotencyMismatchError("another order")
            return Submitted(self.records.known[known], [], replayed=True)
        self.quote(operation, fields, roles=[each.role for each in references])
        self.orders.append((customer, operation, dict(fields), list(references), request_id))
        number = 900 + len(self.orders)
        task = self.records.add(make_task(number, account_id=customer.account_id, operation=operation))
        if idempotency_key:
            self.kept[idempotency_key.key] = (idempotency_key.fingerprint, task.id)
        return Submitted(task, [Nudge("jobs.run", "openai", task.id)])


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

    def stream_text(self, messages: Any, *, temperature: float) -> Iterator[str]:
        self.asked.append((messages, temperature))
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@dataclass
class Edge:
    """The app and everything under it that a test may want to look at."""

    app: Flask
    client: FlaskClient
    records: Records
    desk: Desk
    store: Store
    writer: Writer
    published: list[Nudge]
    fetched: list[str]
    variants: list[Any]
    trouble: dict[str, str | None]
    signer: Signer


def settings_of(variables: Mapping[str, Any]) -> Settings:
    return Settings(_env_file=None, **{"DARKROOM_VAR": Path("unused"), **variables})


def make_edge(**variables: Any) -> Edge:
    """``variables`` are settings by their environment names."""
    records, store, writer = Records(), Store(), Writer()
    desk = Desk(records)
    published: list[Nudge] = []
    fetched: list[str] = []
    variants: list[Any] = []
    trouble: dict[str, str | None] = {"database": None, "redis": None, "storage": None, "migrations": None}
    signer = Signer({"k1": b"s" * 32})
    callbacks = Callbacks(None, settings_of(variables).public_url)
    callbacks.__dict__["_key"] = b"c" * 32  # else it would be read from the database
    settings = settings_of(variables)

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

    services = Services(
        authenticate=KEYS.get,
        records=records,
        desk=desk,
        publish=publish,
        catalogs=CATALOG,
        configured=("openai",),
        unit_price=lambda model, usd: int(usd * 100 * Decimal(1_000_000)),
        order_schema=order_schema,
        store=store,
        variant=variant,
        fetch=fetch,
        enhancer=Enhancer(["openai"], lambda name: writer),
        limits=Limits(
            account=settings.rate_limit_account,
            submit=settings.rate_limit_submit,
            client=None,
            storage_uri="memory://",
        ),
        waits=Waits(records.versions, None, poll_s=0.01),
        signer=signer,
        checks={name: (lambda name=name: trouble[name]) for name in trouble},
        callbacks=callbacks,
    )
    app = create_app(settings, services)
    return Edge(app, app.test_client(), records, desk, store, writer, published, fetched, variants, trouble, signer)
