"""Reading single tasks: reads of the same moment share a query (docs/decisions/0014-status-reads-share-a-query.md).

Everything takes the account first: another account's task cannot be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.shapes.status_json import StatusJson, find_status_json
from core.coalescing import Coalescing
from core.db import Database
from jobs.errors import JobNotFoundError
from jobs.reads import brief, tasks
from jobs.reads.brief import Brief
from jobs.reads.tasks import Task


class TaskReads:
    """Every method raises JobNotFoundError and DatabaseAwayError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tasks = Coalescing(self._find_tasks)
        self._status_json = Coalescing(self._find_status_json)
        self._briefs = Coalescing(self._find_briefs)

    def task(self, account_id: str, job_id: str) -> Task:
        """A task as a record."""
        task = self._tasks.ask((account_id, job_id))
        if task is None:
            raise JobNotFoundError("no such task")
        return task

    def status_json(self, account_id: str, job_id: str) -> StatusJson:
        """A task as JSON written by the database, for a read that only passes it on."""
        found = self._status_json.ask((account_id, job_id))
        if found is None:
            raise JobNotFoundError("no such task")
        return found

    def brief(self, account_id: str, job_id: str, *, events: bool = False) -> Brief:
        """How far a task is and nothing else, for clients that ask ten times a second; ``events``: and its events."""
        found = self._briefs.ask((account_id, job_id, events))
        if found is None:
            raise JobNotFoundError("no such task")
        return found

    def _find_tasks(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Task]:
        with self._database.autocommit() as connection:
            return tasks.find_tasks(connection, wanted)

    def _find_status_json(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StatusJson]:
        with self._database.hot() as hot:
            return find_status_json(hot, wanted)

    def _find_briefs(self, wanted: Sequence[tuple[str, str, bool]]) -> Mapping[tuple[str, str, bool], Brief]:
        with self._database.hot() as hot:
            return brief.find_briefs(hot, wanted)
