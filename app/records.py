"""What the edge reads and writes in the database, one connection per question.

Everything takes the account first: there is no way to ask about another's job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.together import Together
from core.db import Database
from jobs import idempotency, lifecycle, repository
from jobs.desk import Submitted
from jobs.errors import JobNotFoundError
from jobs.idempotency import IdempotencyKey
from jobs.lifecycle import Cancellation
from jobs.repository import Filters, Image, Step, Task
from quota import ledger
from quota.ledger import Balance, Entry


class Records:
    """Raises DatabaseAwayError throughout, and what the functions below it raise."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tasks = Together(self._find_tasks)

    def _find_tasks(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Task]:
        with self._database.autocommit() as connection:
            return repository.find_tasks(connection, wanted)

    def task(self, account_id: str, job_id: str) -> Task:
        """Raises JobNotFoundError."""
        task = self._tasks.ask((account_id, job_id))
        if task is None:
            raise JobNotFoundError("no such task")
        return task

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
            return lifecycle.cancel(connection, account_id, job_id)

    def balance(self, account_id: str) -> Balance:
        with self._database.autocommit() as connection:
            return ledger.balance(connection, account_id)

    def entries(self, account_id: str, *, before_id: int | None, limit: int) -> list[Entry]:
        with self._database.autocommit() as connection:
            return ledger.entries(connection, account_id, before_id=before_id, limit=limit)
