"""The stream of one task: what has happened, then what happens, until its end.

The watch on the job begins before the first reading, so that no event falls between the two. The generator runs after
the request's context has gone and needs nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.http import event_stream
from app.http.waits import Waits
from app.serving import seats
from app.shapes import events as shapes
from app.shapes.render import Renderer
from app.streams.position import Position
from core.errors import DatabaseAwayError
from jobs.errors import JobNotFoundError
from jobs.reads.events import Followed, Life, Progress
from jobs.reads.tasks import Task

# Then the client connects again, and shows its key again: one that was revoked meanwhile is not followed forever.
LONGEST_S = 3600.0
AWAY_PAUSE_S = 1.0  # between two readings while the database is away


@dataclass(frozen=True, slots=True)
class Reads:
    """``life`` reads a job and its events, ``task`` the task. Both raise JobNotFoundError, DatabaseAwayError."""

    life: Callable[[Followed], Life]
    task: Callable[[str, str], Task]


@dataclass(slots=True)
class TaskStream:
    """``position``: what the client knows; it moves with the records. ``longest_s``: after that the stream ends."""

    reads: Reads
    waits: Waits
    renderer: Renderer
    account_id: str
    job_id: str
    position: Position
    longest_s: float = LONGEST_S
    _known: Progress | None = None  # the last that was told
    _continues: bool = False  # whether what the client knows has been joined to what follows
    _ended: bool = False

    def read(self) -> Life:
        """The job now, with the events that the client does not know. Raises JobNotFoundError, DatabaseAwayError."""
        return self.reads.life((self.account_id, self.job_id, self.position.event))

    def over(self, life: Life) -> bool:
        """Whether the client has had all there will ever be."""
        in_step = life.whole and self.position.event <= life.last_id
        return life.ended and in_step and not any(shapes.shown(event) for event in life.events)

    def chunks(self) -> Iterator[bytes]:
        """The stream's bytes. Its end closes the answer."""
        yield event_stream.opening()
        sent_at = time.monotonic()
        ends_at = sent_at + self.longest_s
        seat = seats.current()
        with self.waits.watching(self.job_id) as watch:
            while True:
                pause_s = event_stream.BEAT_S
                try:
                    life = self.read()
                    watch.version = life.version
                    for record in self.records(life):
                        yield record
                        sent_at = time.monotonic()
                except JobNotFoundError:
                    return  # its row was deleted
                except DatabaseAwayError:
                    pause_s = AWAY_PAUSE_S
                if self._ended or seat.gone or self.waits.stopping or time.monotonic() > ends_at:
                    return
                if time.monotonic() - sent_at >= event_stream.BEAT_S:
                    yield event_stream.comment()
                    sent_at = time.monotonic()
                watch.wait(min(pause_s, max(0.0, sent_at + event_stream.BEAT_S - time.monotonic())))

    def records(self, life: Life) -> Iterator[bytes]:
        """What the client does not know of it yet. Raises DatabaseAwayError; asked again, it goes on from there."""
        if not self._continues and (not life.whole or self.position.event > life.last_id):
            yield from self._snapshot(life)
            return
        self._continues = True
        for event in life.events:
            if not shapes.shown(event):
                continue
            ends = event.type in shapes.ENDS
            task = self.reads.task(self.account_id, self.job_id) if ends else None
            yield self._record(shapes.event_out(event, self.renderer, task), Position(event.id))
            self._ended = ends
            if ends:
                return
        self.position = Position(life.last_id, self.position.version)
        yield from self._progress(life)
        self._ended = life.ended

    def _progress(self, life: Life) -> Iterator[bytes]:
        told, now = self._known, life.progress
        if now is None or (told is not None and (told.progress, told.at) == (now.progress, now.at)):
            return
        self._known = now
        if told is None and self.position.version >= life.version:
            return  # the last that a client knew when it came back
        yield self._record(shapes.progress_out(now), Position(life.last_id, life.version))

    def _snapshot(self, life: Life) -> Iterator[bytes]:
        """Events of this job are missing: the task as it is stands for them, and the rest follows from there."""
        task = self.reads.task(self.account_id, self.job_id)
        yield self._record(shapes.snapshot_out(task, self.renderer), Position(life.last_id, life.version))
        self._continues, self._ended = True, task.ended
        if task.ended:
            yield self._record(shapes.end_out(task, self.renderer), Position(life.last_id, life.version + 1))

    def _record(self, data: dict[str, object], position: Position) -> bytes:
        self.position = position
        return event_stream.record(data, event=str(data["type"]), last_id=str(position))
