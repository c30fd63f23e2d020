"""The stream over all jobs of an account: what came after the client's position, then what comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from app.http import event_stream
from app.serving import seats
from app.shapes import events as shapes
from app.shapes.render import Renderer
from app.streams.account_feed import Listener, Reads, written
from app.streams.position import Position
from app.streams.task_stream import AWAY_PAUSE_S, LONGEST_S
from core.errors import DatabaseAwayError
from jobs.reads.tasks import Task

# How far back events are read again, in ids, which are those of all accounts; and how many at once.
REPLAYED = 200_000
PAGE = 20_000
SNAPSHOT_TASKS = 100


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream goes on. ``live``: the snapshot to begin with, because earlier events cannot be told."""

    position: Position
    live: tuple[Task, ...] | None = None


@dataclass(slots=True)
class AccountStream:
    """``start`` has what the client knows, as far as it can be told what came after."""

    reads: Reads
    renderer: Renderer
    listener: Listener
    start: Start
    longest_s: float = LONGEST_S
    missing: bool = True  # whether something between the client's position and the listener's beginning is still to say

    def chunks(self) -> Iterator[bytes]:
        """The stream's bytes. It ends with the process, when the client is too slow, and after ``longest_s``."""
        position = self.start.position
        yield event_stream.opening(str(position))
        if self.start.live is not None:
            live = self.start.live
            data = shapes.tasks_out(live[:SNAPSHOT_TASKS], more=len(live) > SNAPSHOT_TASKS)
            yield event_stream.record(data, event=shapes.SNAPSHOT, last_id=str(position))
        ends_at = time.monotonic() + self.longest_s
        seat = seats.current()
        with seat.waiting(self.listener.wake):
            yield from self._missed(position.event)
            if self.missing:
                return  # what is queued would leave a gap
            position = max(position, Position(self.listener.since or 0), key=lambda each: each.event)
            while True:
                for at, record in self.listener.taken():
                    if at.event > position.event or (at.event == position.event and at.version):
                        yield record
                if self.listener.cut or seat.gone or time.monotonic() > ends_at:
                    return
                if not self.listener.wait(event_stream.BEAT_S):
                    yield event_stream.comment()

    def _missed(self, after: int) -> Iterator[bytes]:
        """What came between the client's position and the listener's beginning."""
        last = self.listener.since or 0
        while after < last and not self.listener.cut:
            page_end = min(after + PAGE, last)
            try:
                found = list(written(self.reads, self.renderer, [self.listener.account_id], after, page_end))
            except DatabaseAwayError:
                time.sleep(AWAY_PAUSE_S)
                yield event_stream.comment()
                continue
            for _, (_, record) in found:
                yield record
            after = page_end
        self.missing = after < last


def start_of(known: Position | None, *, since: int, newest: int, oldest: int) -> Position | None:
    """Where a stream goes on for a client that knows this position; None where that cannot be told any more.

    ``since``: where its listener begins; ``newest`` and ``oldest``: of all events that are kept.
    """
    if known is None:
        return None
    gone = known.event > max(newest, since) or known.event < oldest - 1 or since - known.event > REPLAYED
    return None if gone else known
