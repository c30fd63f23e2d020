"""The streams of a web process, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from app.connections import Connections
from app.http.waits import Waits
from app.shapes.render import Renderer
from app.streams import account_stream
from app.streams.account_feed import AccountFeed, Listener
from app.streams.account_stream import AccountStream, Start
from app.streams.position import START, Position
from app.streams.task_stream import Reads, TaskStream
from app.task_reads import TaskReads
from core.coalescing import Coalescing
from jobs.errors import JobNotFoundError
from jobs.reads import events, tasks
from jobs.reads.events import Event, Followed, InFlight, Life, Progress
from jobs.reads.tasks import Filters, Task


class EventReads:
    """The queries of the streams. Each raises DatabaseAwayError."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lives = Coalescing(self._find_lives)

    def life(self, wanted: Followed) -> Life:
        """A job and its events; readings of the same moment share a query. Raises JobNotFoundError."""
        found = self._lives.ask(wanted)
        if found is None:
            raise JobNotFoundError("no such task")
        return found

    def newest(self) -> int:
        return self._connections.autocommit(events.newest)

    def oldest(self) -> int:
        return self._connections.autocommit(events.oldest)

    def in_flight(self) -> InFlight:
        return self._connections.autocommit(events.in_flight)

    def events(self, account_ids: Collection[str], after: int, last: int) -> list[Event]:
        return self._connections.autocommit(events.of_accounts, account_ids, after=after, last=last)

    def progress(self, account_ids: Collection[str], since: datetime | None, overlap: timedelta) -> list[Progress]:
        return self._connections.autocommit(events.progress_of, account_ids, since=since, overlap=overlap)

    def tasks(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Task]:
        return self._connections.autocommit(tasks.find_tasks, wanted)

    def live(self, account_id: str, most: int) -> list[Task]:
        """An account's newest queued and running tasks, at most so many."""
        found = [
            task
            for status in ("queued", "running")
            for task in self._connections.autocommit(tasks.list_tasks, account_id, Filters(status=status, limit=most))
        ]
        return sorted(found, key=lambda task: task.id, reverse=True)[:most]

    def _find_lives(self, wanted: Sequence[Followed]) -> Mapping[Followed, Life]:
        return self._connections.autocommit(events.lives, wanted)


class Following:
    """Every stream of this process. A stream takes a place of ``waits``, and its answer gives it back."""

    def __init__(self, connections: Connections, task_reads: TaskReads, waits: Waits) -> None:
        self._reads = EventReads(connections)
        self._task_reads = task_reads
        self._waits = waits
        self._renderer: Callable[[], Renderer] | None = None
        self._feed = AccountFeed(self._reads, waits, self._shown)

    def show_with(self, renderer: Callable[[], Renderer]) -> None:
        """Have the records rendered by this one."""
        self._renderer = renderer

    def _shown(self) -> Renderer:
        assert self._renderer is not None  # noqa: S101 (the app sets it before it serves)
        return self._renderer()

    def task(
        self, account_id: str, job_id: str, known: Position | None, renderer: Renderer | None = None
    ) -> TaskStream:
        """The stream of a task after what the client knows, rendered for its request."""
        reads = Reads(self._reads.life, self._task_reads.task)
        return TaskStream(reads, self._waits, renderer or self._shown(), account_id, job_id, known or START)

    def listen(self, account_id: str) -> Listener:
        """Listen to an account; :meth:`leave` ends it. Raises DatabaseAwayError."""
        return self._feed.join(account_id)

    def leave(self, listener: Listener) -> None:
        self._feed.leave(listener)

    def account(self, listener: Listener, known: Position | None, *, resumes: bool) -> AccountStream:
        """The stream of what a listener hears, and of what came between. ``resumes``: the client was there before.
        Raises DatabaseAwayError."""
        since = listener.since or 0
        start = Start(Position(since))
        if resumes:
            position = account_stream.start_of(
                known, since=since, newest=self._reads.newest(), oldest=self._reads.oldest()
            )
            if position is None:
                most = account_stream.SNAPSHOT_TASKS + 1
                start = Start(Position(since), tuple(self._reads.live(listener.account_id, most)))
            else:
                start = Start(position)
        return AccountStream(self._reads, self._shown(), listener, start)

    def stop(self) -> None:
        """End every stream and every wait: the process is about to end."""
        self._waits.stop()
        self._feed.stop()
