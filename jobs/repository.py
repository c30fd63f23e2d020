"""Reading jobs, always within one account. Nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Image:
    """A kept picture of a job."""

    index: int
    key: str
    mime: str
    width_px: int
    height_px: int
    size_bytes: int
    sha256: str
    seed: int | None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A job as its owner may see it. Money in micro-credits."""

    id: str
    account_id: str
    status: str  # jobs.states.JobStatus
    operation: str
    model: str
    provider: str
    n: int
    priority: str
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    start_deadline_at: datetime | None
    version: int  # grows with every visible change: the task's ETag
    quoted: int
    captured: int | None
    released: int | None
    progress: float | None
    progress_step: str | None
    queue_position: int | None
    failure_code: str | None
    failure_detail: str | None
    cancel_requested_at: datetime | None
    cancel_outcome: str | None
    request: Mapping[str, Any]  # what will really be asked, with "normalised"
    warnings: Sequence[str]
    metadata: Mapping[str, str]
    images: Sequence[Image] = field(default=())

    @property
    def ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a job's timeline."""

    seq: int
    at: datetime
    type: str  # queued, started, waiting, retry, image, succeeded, failed, cancelled, ...
    data: Mapping[str, Any]  # attempt, provider, wait_s, code, microcredits ... as fits the type


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list of tasks is narrowed to."""

    status: str | None = None
    operation: str | None = None
    model: str | None = None
    created_after: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    cursor: str | None = None  # the id of the last task of the page before
    limit: int = 20


def find_task(connection: Connection, account_id: str, job_id: str) -> Task:
    """Raises JobNotFoundError: unknown, malformed, or another account's."""
    raise NotImplementedError


def list_tasks(connection: Connection, account_id: str, filters: Filters) -> list[Task]:
    """At most ``filters.limit`` tasks, newest first."""
    raise NotImplementedError


def find_image(connection: Connection, account_id: str, job_id: str, index: int) -> Image:
    """Raises JobNotFoundError (no such job), ImageNotReadyError (``retry_after_s``), ImageGoneError."""
    raise NotImplementedError


def timeline(connection: Connection, account_id: str, job_id: str) -> list[Step]:
    """Every transition, oldest first. Raises JobNotFoundError."""
    raise NotImplementedError


def versions(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """(version, ended) of many jobs in one query, for those who wait; no account, so ids only from trusted hands."""
    raise NotImplementedError
