"""What the edge reads and writes in the database, one connection per question.

Everything about jobs and money takes the account first: there is no way to ask about another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal

from app.shapes.status_json import TaskText, find_texts
from core.coalescing import Together
from core.db import Database
from core.errors import DatabaseAwayError
from jobs import lifecycle
from jobs.dispatch import health, publishing
from jobs.dispatch.health import ProviderState
from jobs.errors import JobNotFoundError
from jobs.execution import callbacks
from jobs.lifecycle import Cancellation
from jobs.maintenance import audit, retention
from jobs.maintenance.audit import Finding
from jobs.reads import funds
from jobs.reads import tasks as repository
from jobs.reads.funds import Funds
from jobs.reads.tasks import Filters, Image, Step, Task
from jobs.states import Nudge
from jobs.submission import idempotency
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.service import Submitted
from quota import ledger
from quota.ledger import Entry
from storage.media import Media

# Shorter than a caller's patience and a proxy's; `darkroom audit` takes its time.
AUDIT_TIMEOUT_S = 30


class Records:
    """Raises DatabaseAwayError throughout, and what the functions below it raise."""

    def __init__(
        self,
        database: Database,
        media: Media | None = None,
        *,
        cancel_charge: Literal["full", "none"] = "full",
    ) -> None:
        self._database = database
        self._cancel_charge: Literal["full", "none"] = cancel_charge
        self._media = media
        self._tasks = Together(self._find_tasks)
        self._texts = Together(self._find_texts)

    def _find_tasks(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Task]:
        with self._database.autocommit() as connection:
            return repository.find_tasks(connection, wanted)

    def task(self, account_id: str, job_id: str) -> Task:
        """Raises JobNotFoundError."""
        task = self._tasks.ask((account_id, job_id))
        if task is None:
            raise JobNotFoundError("no such task")
        return task

    def _find_texts(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], TaskText]:
        with self._database.hot() as hot:
            return find_texts(hot, wanted)

    def text(self, account_id: str, job_id: str) -> TaskText:
        """A task as JSON, for who only reads it. Raises JobNotFoundError."""
        found = self._texts.ask((account_id, job_id))
        if found is None:
            raise JobNotFoundError("no such task")
        return found

    def earlier(self, account_id: str, key: IdempotencyKey) -> Submitted | None:
        """What a key has answered before. Raises IdempotencyMismatchError."""
        with self._database.autocommit() as connection:
            job_id = idempotency.find(connection, account_id, key)
            if job_id is None:
                return None
            return Submitted(repository.find_task(connection, account_id, job_id), [], replayed=True)

    def tasks(self, account_id: str, filters: Filters) -> list[Task]:
        with self._database.autocommit() as connection:
            return repository.list_tasks(connection, account_id, filters)

    def image(self, account_id: str, job_id: str, index: int) -> Image:
        with self._database.autocommit() as connection:
            return repository.find_image(connection, account_id, job_id, index)

    def timeline(self, account_id: str, job_id: str) -> list[Step]:
        with self._database.autocommit() as connection:
            return repository.timeline(connection, account_id, job_id)

    def versions(self, job_ids: Sequence[str]) -> Mapping[str, tuple[int, bool]]:
        """Version and end of many jobs, of any account: for waits, whose ids were looked up before."""
        with self._database.autocommit() as connection:
            return repository.versions(connection, job_ids)

    def cancel(self, account_id: str, job_id: str) -> Cancellation:
        """In one transaction, committed on return: publish the nudges now."""
        with self._database.transaction() as connection:
            return lifecycle.cancel(connection, account_id, job_id, charge=self._cancel_charge)

    def providers(self) -> list[ProviderState]:
        with self._database.autocommit() as connection:
            return health.overview(connection)

    def pause_provider(self, name: str) -> None:
        with self._database.autocommit() as connection:
            health.pause(connection, name)

    def resume_provider(self, name: str) -> None:
        with self._database.autocommit() as connection:
            health.resume(connection, name)

    def unpublished(self, job_id: str) -> None:
        """The nudge of a new job could not be sent: let the next sweep send it, and not the one that
        looks for messages long overdue."""
        with suppress(DatabaseAwayError), self._database.autocommit() as connection:
            publishing.mark_unpublished(connection, [job_id])

    def heard(self, call_id: str, upstream_id: object) -> list[Nudge]:
        """An upstream has reported on a call; publish the nudges now."""
        with self._database.transaction() as connection:
            return callbacks.heard(connection, call_id, upstream_id)

    def delete(self, account_id: str, job_id: str) -> Task:
        """Delete a task's images; the task as it stands after. Raises JobNotFoundError, NotEndedError.

        The rows are committed first. Bytes that cannot go now go with the next round of retention.
        """
        with self._database.transaction() as connection:
            keys = retention.delete_task(connection, account_id, job_id)
        if keys and self._media is not None:
            with suppress(DatabaseAwayError):
                retention.remove_doomed(self._database, self._media, keys)
        return self.task(account_id, job_id)

    def audit(self) -> list[Finding]:
        """Every broken invariant, of all accounts: for administrators alone."""
        with self._database.transaction() as connection:
            return audit.check(connection, timeout_s=AUDIT_TIMEOUT_S)

    def funds(self, account_id: str) -> Funds:
        with self._database.autocommit() as connection:
            return funds.funds(connection, account_id)

    def entries(self, account_id: str, *, before_id: int | None, limit: int) -> list[Entry]:
        with self._database.autocommit() as connection:
            return ledger.entries(connection, account_id, before_id=before_id, limit=limit)
