"""Asking the screens: local ones first, the others at once, all within one time; and what follows.

No database connection is held while a screen is asked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from accounts.keys import Caller
from core.db import Database
from core.errors import DatabaseAwayError
from core.parallel import side_by_side
from jobs import counts
from jobs.errors import ContentRefusedError, FaultsError, ScreeningUnavailableError
from jobs.screening import refusals
from jobs.screening.subject import UNNAMED, Refusal, Screen, ScreenFailedError, Subject

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5
KEPT_AT_MOST = 10_000
CATEGORIES_COUNTED = 100
# Writes a refusal down: account id, key id, category, screen, digest of the prompt in hex.
Record = Callable[[str, str, str, str, str | None], None]


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one screen said."""

    screen: str
    refusal: Refusal | None = None
    failure: ScreenFailedError | None = None
    unfit: FaultsError | None = None  # an image that cannot be judged


class Screening:
    """Judges what callers ask for. Without screens everything passes, at no cost. Thread-safe.

    ``budget_s``: the time of all screens together. ``fails_open``: what a screen has no opinion of passes, else the
    caller is asked to come back. ``cache_s``: how long an opinion of a screen that is not local counts for the same
    question.
    """

    def __init__(
        self,
        screens: Sequence[Screen] = (),
        *,
        budget_s: float = 5.0,
        fails_open: bool = False,
        cache_s: float = 60.0,
        record: Record | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.screens = tuple(screens)
        self.budget_s = budget_s
        self.fails_open = fails_open
        self._record = record
        self._opinions = _Opinions(cache_s, now)
        self._counted: set[str] = set()

    def check(self, caller: Caller, subject: Subject, *, tries: bool = False) -> None:
        """Return if the subject may pass. ``tries``: nothing is asked for in earnest, so a refusal is not counted.

        Raises ContentRefusedError, ScreeningUnavailableError, and BadImageError for an image that no screen can judge.
        """
        if not self.screens or subject.is_empty:
            return
        opinions = self._asked(subject)
        for each in opinions:
            if each.refusal is not None:
                if not tries:
                    self._note(caller, subject, each.screen, each.refusal)
                raise ContentRefusedError(each.refusal.category, each.refusal.field_name)
        for each in opinions:
            if each.unfit is not None:
                raise each.unfit
        if not self.fails_open and any(each.failure is not None for each in opinions):
            raise ScreeningUnavailableError(
                "what is asked for cannot be screened at the moment; nothing was accepted or charged",
                retry_after_s=RETRY_AFTER_S,
            )

    def _asked(self, subject: Subject) -> list[_Opinion]:
        ends_at = time.monotonic() + self.budget_s
        local = [self._judged(screen, subject, None, ends_at) for screen in self.screens if screen.is_local]
        if any(each.refusal is not None for each in local):
            return local  # what is refused here goes nowhere
        others = [screen for screen in self.screens if not screen.is_local]
        digest = subject.digest() if others else None
        return local + side_by_side(lambda screen: self._judged(screen, subject, digest, ends_at), others)

    def _judged(self, screen: Screen, subject: Subject, digest: bytes | None, ends_at: float) -> _Opinion:
        """The opinion of one screen; a fault of ours in it counts as none. ``digest`` None: it is not kept."""
        if digest is not None and (known := self._opinions.find(screen.name, digest)) is not None:
            return known
        began = time.monotonic()
        try:
            opinion = _Opinion(screen.name, screen.judge(subject, within_s=max(0.0, ends_at - began)))
        except FaultsError as error:
            return _Opinion(screen.name, unfit=error)
        except ScreenFailedError as error:
            return self._failed(screen, error)
        except Exception as error:  # noqa: BLE001 (counted and logged as a failure of the screen)
            # Its message may quote the caller's words.
            return self._failed(screen, ScreenFailedError("internal_error", type(error).__name__))
        finally:
            counts.SCREEN_SECONDS.of(screen.name).observe(time.monotonic() - began)
        if digest is not None:
            self._opinions.keep(digest, opinion)
        return opinion

    def _failed(self, screen: Screen, error: ScreenFailedError) -> _Opinion:
        counts.SCREEN_FAILURES.of(screen.name, error.reason).inc()
        log.warning(
            "screen_failed", screen=screen.name, reason=error.reason, detail=error.detail, passes=self.fails_open
        )
        return _Opinion(screen.name, failure=error)

    def _note(self, caller: Caller, subject: Subject, screen: str, refusal: Refusal) -> None:
        """Count a refusal, log it and write it down: who, and what for; none of the caller's words."""
        counts.REFUSALS.of(screen, self._label(refusal.category)).inc()
        log.info(
            "content_refused",
            account_id=caller.account_id,
            key_id=caller.key_id,
            screen=screen,
            category=refusal.category,
            kind=subject.kind,
        )
        if self._record is None:
            return
        digest = hashlib.sha256(subject.prompt.encode(errors="replace")).hexdigest() if subject.prompt else None
        try:
            self._record(caller.account_id, caller.key_id, refusal.category, screen, digest)
        except DatabaseAwayError:
            log.warning("refusal_not_recorded", account_id=caller.account_id)

    def _label(self, category: str) -> str:
        """The category for a counter, whose series must stay few: a hook may name any number."""
        if category not in self._counted:
            if len(self._counted) >= CATEGORIES_COUNTED:
                return UNNAMED
            self._counted.add(category)
        return category


def recorder(database: Database) -> Record:
    """Return what writes refusals into the database."""

    def record(account_id: str, key_id: str, category: str, screen: str, prompt_sha256: str | None) -> None:
        with database.autocommit() as connection:
            refusals.record_refusal(
                connection, account_id, key_id, category, screen=screen, prompt_sha256=prompt_sha256
            )

    return record


class _Opinions:
    """Opinions of the last seconds by screen and question, for retries and repeats; the oldest go first."""

    def __init__(self, life_s: float, now: Callable[[], float]) -> None:
        self._life_s = life_s
        self._now = now
        self._kept: OrderedDict[tuple[str, bytes], tuple[float, _Opinion]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, screen: str, digest: bytes) -> _Opinion | None:
        with self._lock:
            ends_at, opinion = self._kept.get((screen, digest), (0.0, None))
        return opinion if self._now() < ends_at else None

    def keep(self, digest: bytes, opinion: _Opinion) -> None:
        if self._life_s <= 0:
            return
        with self._lock:
            self._kept.pop((opinion.screen, digest), None)
            self._kept[opinion.screen, digest] = (self._now() + self._life_s, opinion)
            while len(self._kept) > KEPT_AT_MOST:
                self._kept.popitem(last=False)
