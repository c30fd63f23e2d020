"""The feeder makes jobs of a batch's lines, at the pace of its account's window, and sees the batch to its end.

Each worker has one, and the row of a batch says whose it is for the moment. A line becomes a job in one transaction
with its own row, so that nothing is submitted twice or lost, wherever a feeder is killed; ``batches.next_line`` only
saves looking at lines again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import structlog

from accounts.keys import Caller, caller_of
from core import failpoints
from core.db import Database
from core.errors import DatabaseAwayError, ServiceError, UnavailableError
from jobs import lifecycle
from jobs.batches import moves
from jobs.batches.lines import LineRead, ReadLine
from jobs.batches.validating import faults_of
from jobs.dispatch import publishing
from jobs.documents import StoredRefusal
from jobs.errors import ContentRefusedError, FaultsError
from jobs.reads.batches import Batch, LineDialect
from jobs.reads.files import lines_from
from jobs.states import Nudge, Signal
from jobs.submission.batch_lines import BatchLine
from jobs.submission.idempotency import TakenError
from jobs.submission.load import LoadLimitError
from jobs.submission.service import SubmissionService
from storage.base import MediaError, StorageUnavailableError

log = structlog.get_logger(__name__)

# A feeder that was killed leaves its batch to the others after so long.
LEASE_S = 15.0
# Lines between two notes of how far the feeder has come.
PAGE = 50
CANCELS_AT_ONCE = 200
DRAINED_AT_ONCE = 1_000
# Of a file that is looked at before its batch begins, between two notes that the feeder is alive.
NOTE_EVERY_S = 5.0
# How many windows of its account a batch may have queued: one that is published, and one behind it.
WINDOWS = 2
BUSY_S, QUIET_S, TROUBLE_S = 0.1, 0.7, 3.0
# A line that becomes no job: its number, the caller's own name for it, and why.
Refused = tuple[int, str, StoredRefusal]
INPUT_GONE: StoredRefusal = {"code": "input_gone", "detail": "the file of the batch has been deleted", "facts": {}}
_STOPPED: Mapping[str, StoredRefusal] = {
    moves.CANCELLED: {"code": moves.CANCELLED, "detail": "the batch was cancelled before this line", "facts": {}},
    moves.EXPIRED: {
        "code": moves.EXPIRED,
        "detail": "the batch could not come to this line before its completion window was over",
        "facts": {},
    },
}


@dataclass(frozen=True, slots=True)
class Feeder:
    """``readers``: what reads the lines of each dialect. ``publish`` sends signals, and says whether it could.

    ``publish_window``: as of SubmissionService. ``keep_days``: how long files of results are kept, 0 for ever.
    """

    database: Database
    submission: SubmissionService
    readers: Mapping[LineDialect, ReadLine]
    publish: Callable[[Sequence[Signal]], bool]
    publish_window: int
    cancel_charge: Literal["full", "none"] = "full"
    keep_days: float = 0.0

    def feed_due(self, goes_on: Callable[[], bool] = lambda: True) -> int:
        """Take each batch that is due one step further, while ``goes_on``; how many. Raises DatabaseAwayError."""
        fed = 0
        while True:
            if not goes_on():
                return fed
            with self.database.autocommit() as connection:
                batch = moves.take_due(connection, lease_s=LEASE_S)
            if batch is None:
                return fed
            fed += 1
            after_s = TROUBLE_S
            try:
                after_s = self.step(batch)
            except (UnavailableError, StorageUnavailableError) as error:
                log.info("batch_waits", batch_id=batch.id, reason=type(error).__name__)
            except Exception:
                log.exception("batch_step_failed", batch_id=batch.id)
            with self.database.autocommit() as connection:
                moves.look_again(connection, batch.id, after_s)

    def step(self, batch: Batch) -> float:
        """Take a batch further; in how many seconds to look again. Raises UnavailableError, StorageUnavailableError."""
        with self.database.autocommit() as connection:
            if moves.expire(connection, batch.id):
                return 0.0
        if batch.status == "validating":
            self._validate(batch)
            return 0.0
        with self.database.transaction() as connection:
            live, queued = moves.settle(connection, batch.id)
        if batch.stop_code is not None:
            return self._stop(batch, live)
        caller = self._caller(batch)
        room = WINDOWS * self.publish_window * caller.weight - queued
        if batch.next_line < batch.total:
            if room <= 0 or caller.paused:
                return QUIET_S
            return self._feed_what_may(batch, caller, room, BUSY_S)
        return QUIET_S if live else self._finish(batch, "completed")

    def submit_now(self, batch: Batch) -> None:
        """Submit every line of a batch at once, for a caller who waits, as far as its limits let. Raises
        UnavailableError, StorageUnavailableError: the workers go on then."""
        after_s = self._feed_what_may(batch, self._caller(batch), batch.total - batch.next_line, 0.0)
        with self.database.autocommit() as connection:
            moves.look_again(connection, batch.id, after_s)

    # ------------------------------------------------------------ before

    def _validate(self, batch: Batch) -> None:
        noted_at = time.monotonic()

        def goes_on() -> None:
            nonlocal noted_at
            if time.monotonic() - noted_at > NOTE_EVERY_S:
                noted_at = time.monotonic()
                self._note(batch)

        lines = lines_from(self.database, batch.input_file_id, 0)
        faults = faults_of(batch, lines, self.readers[batch.dialect], goes_on=goes_on)
        with self.database.autocommit() as connection:
            if faults:
                moves.fail(connection, batch.id, faults)
                log.info("batch_failed", batch_id=batch.id, account_id=batch.account_id, faults=len(faults))
            else:
                moves.begin(connection, batch.id)

    def _note(self, batch: Batch) -> None:
        with self.database.autocommit() as connection:
            moves.look_again(connection, batch.id, LEASE_S)

    def _caller(self, batch: Batch) -> Caller:
        with self.database.autocommit() as connection:
            return caller_of(connection, batch.account_id, batch.key_id)

    # ------------------------------------------------------------ lines

    def _feed_what_may(self, batch: Batch, caller: Caller, most: int, else_s: float) -> float:
        """Submit lines until one has to wait; in how many seconds to look again. Raises UnavailableError,
        StorageUnavailableError."""
        try:
            self._feed(batch, caller, most)
        except LoadLimitError as error:
            return _until_room(error)
        return else_s

    def _feed(self, batch: Batch, caller: Caller, most: int) -> None:
        """Submit at most ``most`` lines, in pages. Raises LoadLimitError where a line has to wait, UnavailableError,
        StorageUnavailableError."""
        lines = islice(lines_from(self.database, batch.input_file_id, batch.next_line), most)
        at = batch.next_line
        noted_at = time.monotonic()
        while page := list(islice(lines, PAGE)):
            at = page[-1][0] + 1
            with self.database.autocommit() as connection:
                taken = moves.taken_lines(connection, batch.id, page[0][0], at)
            refused: list[Refused] = []
            try:
                for number, raw in page:
                    if number not in taken and not self._submit(batch, caller, number, raw, refused):
                        return
                    if refused and refused[-1][2]["code"] == ContentRefusedError.code:
                        self._refuse(batch, refused)  # a page that is tried again must not count the refusal again
                    if time.monotonic() - noted_at > NOTE_EVERY_S:  # screens may take seconds for each line
                        noted_at = time.monotonic()
                        self._note(batch)
            finally:
                if refused:
                    self._refuse(batch, refused)
            with self.database.autocommit() as connection:
                moves.advance(connection, batch.id, at)
                moves.look_again(connection, batch.id, LEASE_S)
            failpoints.hit("batch.advanced")
        if at == batch.next_line and most > 0:
            self._lose(batch, at)

    def _submit(self, batch: Batch, caller: Caller, number: int, raw: bytes, refusals: list[Refused]) -> bool:
        """Make a job of a line, or put among ``refusals`` why it is none; False where the batch takes no more."""
        line = self.readers[batch.dialect](batch, raw)
        refused = line.refused or _broken(line)
        if refused is None and line.order is not None:
            key = BatchLine(batch.id, number, line.custom_id)
            try:
                submitted = self.submission.submit(caller, line.order, key=key, request_id=batch.request_id)
            except TakenError:
                return self._is_taken(batch, number)
            except (LoadLimitError, UnavailableError, StorageUnavailableError):
                raise
            except Exception as error:
                refused = refusal_of(error)
                if refused["code"] == "internal_error":
                    log.exception("batch_line_failed", batch_id=batch.id, line=number)
            else:
                failpoints.hit("batch.submitted")
                self._publish(submitted.nudges, submitted.task.id)
        if refused is not None:
            refusals.append((number, line.custom_id, refused))
        return True

    def _refuse(self, batch: Batch, refused: list[Refused]) -> None:
        """Write down lines that are refused, and empty the list. Raises DatabaseAwayError."""
        with self.database.autocommit() as connection:
            moves.refuse(connection, batch.id, refused)
        refused.clear()

    def _is_taken(self, batch: Batch, number: int) -> bool:
        """Whether the line was refused by another feeder meanwhile; else the batch is being stopped."""
        with self.database.autocommit() as connection:
            return bool(moves.taken_lines(connection, batch.id, number, number + 1))

    def _publish(self, signals: Sequence[Signal], job_id: str) -> None:
        if not self.publish(signals) and any(isinstance(each, Nudge) for each in signals):
            # Marked unpublished, the next sweep sends it; else it would count as sent until it is overdue.
            with suppress(DatabaseAwayError), self.database.autocommit() as connection:
                publishing.mark_unpublished(connection, [job_id])

    def _lose(self, batch: Batch, first: int) -> None:
        """Refuse what is left of a batch whose file was deleted under it."""
        behind = min(batch.total, first + DRAINED_AT_ONCE)
        with self.database.autocommit() as connection:
            moves.refuse(connection, batch.id, [(number, "", INPUT_GONE) for number in range(first, behind)])
            moves.advance(connection, batch.id, behind)

    # ------------------------------------------------------------ the end

    def _stop(self, batch: Batch, live: int) -> float:
        """Cancel the jobs of a batch that is to stop, and write down the lines that it has not come to."""
        if batch.next_line < batch.total:
            self._drain(batch, _STOPPED[batch.stop_code or moves.CANCELLED])
            return 0.0
        if not live:
            return self._finish(batch, "expired" if batch.stop_code == moves.EXPIRED else "cancelled")
        with self.database.autocommit() as connection:
            job_ids = moves.jobs_to_cancel(connection, batch.id, CANCELS_AT_ONCE)
        for job_id in job_ids:
            with self.database.transaction() as connection:
                done = lifecycle.cancel(connection, batch.account_id, job_id, charge=self.cancel_charge)
            self.publish(done.signals)
        return BUSY_S if job_ids else QUIET_S

    def _drain(self, batch: Batch, why: StoredRefusal) -> None:
        read, rows = self.readers[batch.dialect], []
        for number, raw in islice(lines_from(self.database, batch.input_file_id, batch.next_line), DRAINED_AT_ONCE):
            rows.append((number, read(batch, raw).custom_id, why))
            if number % PAGE == 0:
                time.sleep(0)
        if not rows:
            self._lose(batch, batch.next_line)
            return
        with self.database.autocommit() as connection:
            moves.refuse(connection, batch.id, rows, stopped=True)
            moves.advance(connection, batch.id, rows[-1][0] + 1)

    def _finish(self, batch: Batch, status: str) -> float:
        with self.database.transaction() as connection:
            ended = moves.finish(connection, batch.id, status, keep_s=self.keep_days * 86_400 or None)
        if ended:
            log.info(f"batch_{status}", batch_id=batch.id, account_id=batch.account_id, lines=batch.total)
        return QUIET_S


def _until_room(error: LoadLimitError) -> float:
    """When to try a line again that has met a limit of jobs or images: soon, because room is made by jobs that end."""
    return min(float(error.standing.reset_s), QUIET_S)


def _broken(line: LineRead) -> StoredRefusal | None:
    """A line that is none, in a batch that was not looked at as a whole: refused by itself."""
    if line.broken is None:
        return None
    return {"code": line.broken["code"], "detail": line.broken["message"], "facts": {}}


def refusal_of(error: Exception) -> StoredRefusal:
    """Why an order was refused, as it is kept; what is no answer to a caller becomes ``internal_error``."""
    if isinstance(error, FaultsError) and error.code == "invalid_order":
        codes = {each["code"] for each in error.facts["errors"]}
        code = codes.pop() if len(codes) == 1 and codes & {"unknown_model"} else error.code
        return {"code": code, "detail": error.detail, "facts": error.facts}
    if isinstance(error, ServiceError):
        return {"code": error.code, "detail": error.detail, "facts": error.facts}
    if isinstance(error, MediaError):
        return {"code": error.code, "detail": error.detail, "facts": {}}
    return {"code": "internal_error", "detail": "", "facts": {}}
