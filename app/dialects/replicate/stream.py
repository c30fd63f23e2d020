"""A prediction as server-sent events: ``logs`` while it runs, then ``output``, ``error`` where it failed, and ``done``.

The id of an event says all that was told up to it: outputs, notes, and how far the job was. A client that comes back
with it hears the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.dialects.replicate.names import Named
from app.dialects.replicate.prediction import bar, error_of, notes_of, output_of
from app.dialects.watching import Watching
from app.http import event_stream
from jobs.errors import JobNotFoundError
from jobs.reads.tasks import Task

_PLACE = re.compile(r"(?P<outputs>[0-9]{1,4})\.(?P<notes>[0-9]{1,4})\.(?P<percent>[0-9]{1,3}|-)")
_REASONS = {"failed": {"reason": "error"}, "cancelled": {"reason": "canceled"}}


@dataclass(slots=True)
class Place:
    """How far a client is: what it was told of outputs and notes, and the last percentage."""

    outputs: int = 0
    notes: int = 0
    percent: int | None = None

    @classmethod
    def of(cls, last_id: str | None) -> Place:
        """The place that an event's id stands for; the beginning for one that is not ours."""
        found = _PLACE.fullmatch(last_id or "")
        if found is None:
            return cls()
        percent = None if found["percent"] == "-" else int(found["percent"])
        return cls(int(found["outputs"]), int(found["notes"]), percent)

    def __str__(self) -> str:
        return f"{self.outputs}.{self.notes}.{'-' if self.percent is None else self.percent}"


def chunks(watching: Watching, named: Named | None, link: Callable[[int], str], place: Place) -> Iterator[bytes]:
    """The stream of a job from ``place`` on, with a comment in each silence; it ends with the job."""
    yield event_stream.opening(str(place))
    try:
        while True:
            seen = watching.task
            yield from _logs(seen, place)
            if seen.ended:
                yield from _end(seen, named, link, place)
                return
            if not watching.turn(lambda found, seen=seen: _differs(found, seen), event_stream.BEAT_S):  # type: ignore[misc]
                yield event_stream.comment()
            if watching.stopping:
                return  # the client comes back, to another process
    except JobNotFoundError:
        return  # it has been deleted


def _differs(found: Task, seen: Task) -> bool:
    return found.ended or (found.version, found.progress) != (seen.version, seen.progress)


def _logs(task: Task, place: Place) -> Iterator[bytes]:
    for note in notes_of(task)[place.notes :]:
        place.notes += 1
        yield _record("logs", f"{note}\n", place)
    if task.progress is not None and (percent := int(task.progress * 100)) != place.percent:
        place.percent = percent
        yield _record("logs", f"{bar(task.progress)}\n", place)


def _end(task: Task, named: Named | None, link: Callable[[int], str], place: Place) -> Iterator[bytes]:
    made = output_of(task, named, link) or []
    for text in ([made] if isinstance(made, str) else made)[place.outputs :]:
        place.outputs += 1
        yield _record("output", text, place)
    if (error := error_of(task)) is not None:
        yield event_stream.record({"detail": error}, event="error", last_id=str(place))
    yield event_stream.record(_REASONS.get(task.status, {}), event="done", last_id=str(place))


def _record(event: str, text: str, place: Place) -> bytes:
    return event_stream.record(text, event=event, last_id=str(place))
