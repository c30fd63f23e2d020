"""What this process counts for the rules on abuse: wrong keys and requests, written to the database in batches.

A request adds one to a number and waits for nothing. A background thread hands on every few seconds what has come
together; while the database is away it is lost, for rules on abuse can do without.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from app.serving.addresses import block_of
from core.errors import DatabaseAwayError
from jobs.abuse.tallies import TallyKind

log = structlog.get_logger(__name__)

WRITE_EVERY_S = 5.0
# Keys with fewer requests in that time are not written: no rule on load is about them.
LEAST_REQUESTS = 25
MAX_SUBJECTS = 10_000
_KEY_ID = re.compile(r"dk_([0-9a-f]{12})_")

Write = Callable[[TallyKind, Mapping[str, int]], None]


class Tallies:
    """``write`` stores what was counted of each subject; None: nothing is counted."""

    def __init__(self, write: Write | None = None) -> None:
        self._write = write
        self._counted: dict[TallyKind, Counter[str]] = self._none()
        self._pid = 0  # of the process whose background thread runs
        self._lock = threading.Lock()

    def wrong_key(self, token: str, address: str) -> None:
        """Count a wrong key against the address it came from and, where it has the form of one, the key it names."""
        self._count("wrong_address", block_of(address))
        if found := _KEY_ID.match(token):
            self._count("wrong_key", found[1])

    def request(self, key_id: str) -> None:
        """Count a request of a key."""
        self._count("requests", key_id)

    def write(self) -> None:
        """Hand on what was counted since the last time. Raises DatabaseAwayError."""
        counted, self._counted = self._counted, self._none()
        for kind, tallies in counted.items():
            least = LEAST_REQUESTS if kind == "requests" else 1
            if enough := {subject: n for subject, n in dict(tallies).items() if n >= least}:
                assert self._write is not None  # noqa: S101  (else nothing was counted)
                self._write(kind, enough)

    def _count(self, kind: TallyKind, subject: str) -> None:
        if self._write is None:
            return
        if self._pid != os.getpid():
            self._start()
        tallies = self._counted[kind]
        if subject in tallies or len(tallies) < MAX_SUBJECTS:
            tallies[subject] += 1

    def _start(self) -> None:
        """Have the background thread running in this very process."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._keep_writing, name="tallies", daemon=True).start()

    def _keep_writing(self) -> None:
        try:
            while True:
                time.sleep(WRITE_EVERY_S)
                try:
                    self.write()
                except DatabaseAwayError as error:
                    log.debug("tallies_lost", detail=error.detail)  # core/db.py tells of the outage
                except Exception:
                    log.exception("tallies_not_written")
        finally:
            self._pid = 0  # so that the next request starts another thread

    @staticmethod
    def _none() -> dict[TallyKind, Counter[str]]:
        return {"wrong_key": Counter(), "wrong_address": Counter(), "requests": Counter()}
