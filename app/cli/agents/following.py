"""A job's events as its progress, one step at a time, so that each step can be left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import requests

from app.cli.client.answers import ENDED, Document, Task, bad_answer
from app.cli.client.connection import CONNECT_TIMEOUT_S, Client, task_path
from app.cli.client.event_stream import arriving, read_events_and_beats
from app.cli.output import CommandError, Exit

# A stream that is silent sends a comment every 15 s.
READ_TIMEOUT_S = 45.0
PAUSE_S = 0.5
PATIENCE_S = 60.0
# What stays for the time before the first and after the last thing that an upstream tells.
STARTED, MADE = 0.05, 0.95
END: Final = "end"  # of the events, for next()


class Stream:
    """What happens to a task, by :meth:`steps`; another thread may leave it at any time."""

    def __init__(self, client: Client, task_id: str) -> None:
        self._client = client
        self._task_id = task_id
        self._left = False
        self._response: requests.Response | None = None

    def leave(self) -> None:
        """End the steps, also one that is being waited for."""
        self._left = True
        if (response := self._response) is not None:
            # A read that waits for the next event ends; the thread that reads closes the connection.
            with suppress(OSError, ValueError, RuntimeError):
                response.raw.shutdown()

    def steps(self) -> Iterator[Document | None]:
        """Each event, the end last, which has ``task``; None where nothing happened for a while.

        A stream that is cut is taken up where it was. Raises CommandError when the server stays away for a minute.
        """
        last_id, heard_at = "", time.monotonic()
        while not self._left:
            try:
                for event in self._connection(last_id):
                    heard_at = time.monotonic()
                    if event is not None:
                        last_id = event.pop("last_id")
                    yield event
                    if self._left or (event is not None and _ended(event)):
                        return
            except CommandError as error:
                if self._left:
                    return
                if not _passing(error) or time.monotonic() - heard_at > PATIENCE_S:
                    raise
            time.sleep(PAUSE_S)
            yield None

    def _connection(self, last_id: str) -> Iterator[Document | None]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        path = task_path(self._task_id)
        with self._client.open("GET", f"{path}/events", headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 204:  # its end was in the part that is known already
                yield {"last_id": last_id, "task": self._client.get(path)}
                return
            self._response = response
            if self._left:
                return
            for event in read_events_and_beats(arriving(response)):
                yield None if event is None else {**_read(event.data), "last_id": event.last_id}


def _read(data: str) -> Document:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise bad_answer("an event of a task is not a JSON object")
    return value


def _ended(event: Document) -> bool:
    task = event.get("task")
    return isinstance(task, dict) and task.get("status") in ENDED


def _passing(error: CommandError) -> bool:
    return error.exit_code == Exit.AWAY or error.facts.get("status") == 429


class Progress:
    """Turns events into values that only grow, from 0 to 1, as the protocol wants them."""

    def __init__(self, images: int) -> None:
        self._images = max(1, images)
        self._value = -1.0
        self._said = ""

    def of(self, event: Document) -> tuple[float, str] | None:
        """The value and the words for an event; None where they say nothing new."""
        wanted, words = self._seen(event)
        if words == self._said and wanted <= self._value:
            return None
        # Something new without progress: a step too small to be seen.
        self._value, self._said = min(1.0, max(wanted, self._value + 0.0001)), words
        return self._value, words

    def _seen(self, event: Document) -> tuple[float, str]:
        status, told = str(event.get("status", "")), event.get("progress")
        if status in ENDED:
            return 1.0, status
        if status == "queued":
            code = event.get("code")
            return 0.0, f"queued again: {code}" if code else "queued"
        image = event.get("image")
        if isinstance(image, dict):
            done = int(image.get("index") or 0) + 1
            return STARTED + (MADE - STARTED) * min(1.0, done / self._images), f"image {done} of {self._images}"
        if isinstance(told, int | float):
            share = min(max(float(told), 0.0), 1.0)
            return STARTED + (MADE - STARTED) * share, f"running {share:.0%}"
        provider = event.get("provider")
        return STARTED, f"running at {provider}" if provider else "running"


def first(task: Task) -> Document:
    """The event that stands for an order's acceptance."""
    return {"status": task.status, "progress": task.progress}
