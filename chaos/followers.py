"""Readers of event streams, as browsers are: they come back with the last id they have, until the end."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import requests

ENDS = {f"task.{status}": status for status in ("succeeded", "failed", "cancelled")}
BEAT_TIMEOUT_S = 25.0  # a comment comes every 15 s
AGAIN_S = 0.5


class Follower:
    """Follows one stream in a thread. ``whole``: it goes on after an end, as the stream of an account does."""

    def __init__(
        self, open_stream: Callable[[Mapping[str, str]], requests.Response], *, seed: int, whole: bool
    ) -> None:
        self._open = open_stream
        self._chance = random.Random(seed)
        self._whole = whole
        self._stop = threading.Event()
        self._last = -1
        self.ends: dict[str, str] = {}  # the status told, by task
        self.faults: list[str] = []
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set() and (self._whole or not self.ends):
            last = {"Last-Event-ID": str(self._last)} if self._last >= 0 else {}
            with suppress(requests.RequestException), self._open(last) as answer:
                if answer.status_code == 200:
                    self._read(answer)
                elif answer.status_code < 500 and answer.status_code != 429:
                    self.faults.append(f"answered {answer.status_code}: {answer.text[:200]}")
                    return
            self._stop.wait(AGAIN_S)

    def _grows(self, position: int) -> bool:
        """Whether a record's id may follow the last one. Progress of several tasks has one event, and any order."""
        return position // EVENT >= self._last // EVENT if self._whole else position > self._last

    def _read(self, answer: requests.Response) -> None:
        """Read on until the stream ends, or leave it, as a page that is closed does."""
        leaves_at = time.monotonic() + self._chance.choice((1.0, 5.0, 600.0))
        for position, name, data in _records(answer):
            if not self._grows(position):
                self.faults.append(f"record {position} came after {self._last}")
            self._last = position
            if name in ENDS:
                if data["id"] in self.ends:
                    self.faults.append(f"{data['id']} ended twice")
                self.ends[data["id"]] = ENDS[name]
            if self._stop.is_set() or time.monotonic() > leaves_at:
                return


EVENT = 1_000_000  # an id is that of the last event times this, plus a job's version for its progress


def _records(answer: requests.Response) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    found: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if not line:
            if "data" in found:
                yield int(found["id"]), found.get("event", ""), json.loads(found["data"])
            found = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            found[name] = value.removeprefix(" ")
