"""Work off backlogs in turns: a page of each, until every one is empty or the time is over.

A page is one short transaction. After each there is a pause, so that other users of the database and the disk get
their turn; what is left when the time is over is done in the next round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from core.errors import DatabaseAwayError
from jobs import counts
from storage.base import StorageUnavailableError

log = structlog.get_logger(__name__)

# The pause after a page, as a share of the time that the page took.
PAUSE_SHARE = 0.25
PAUSE_LEAST_S = 0.005
# A page that takes longer is halved; after a quick one the size grows again.
SLOW_S, QUICK_S = 1.0, 0.25
# A page that fails, for example by the statement timeout, is tried again with a quarter of its size.
FAILURES_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Done:
    """What a page did: rows handled, and whether there may be more behind it."""

    rows: int
    more: bool


@dataclass
class Backlog:
    """Rows to work off. ``page`` handles at most the given number, in its own transaction, and keeps its position."""

    name: str
    page: Callable[[int], Done]
    size: int  # rows of a page at most
    done: int = 0
    failures: int = 0
    gave_up: bool = False  # for this round
    over: bool = False
    _size: int = field(init=False)

    def __post_init__(self) -> None:
        self._size = self.size

    def turn(self, clock: Callable[[], float]) -> bool:
        """Do one page. Returns whether there may be more."""
        began = clock()
        try:
            page = self.page(self._size)
        except Exception as error:  # one backlog's failure must not stop the others
            self.failures += 1
            expected = isinstance(error, DatabaseAwayError | StorageUnavailableError)
            detail = str(error) if expected else type(error).__name__
            log.warning("backlog_page_failed", backlog=self.name, rows=self._size, detail=detail, exc_info=not expected)
            self.gave_up = self.failures == FAILURES_AT_MOST or self._size == 1
            self._size = max(1, self._size // 4)
            return not self.gave_up
        self.done += page.rows
        if page.rows:
            counts.EXPIRED_ROWS.of(self.name).inc(page.rows)
        took_s = clock() - began
        if took_s > SLOW_S:
            self._size = max(1, self._size // 2)
        elif took_s < QUICK_S:
            self._size = min(self.size, self._size * 2)
        return page.more


def drain(
    backlogs: Sequence[Backlog],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Take turns for at most ``seconds`` and one last page. Returns whether every backlog is empty.

    A backlog that keeps failing is left for the next round, and the others go on.
    """
    until = clock() + seconds
    waiting = list(backlogs)
    while waiting:
        for backlog in tuple(waiting):
            began = clock()
            if began >= until:
                log.info("backlogs_left", backlogs=[each.name for each in waiting])
                return False
            backlog.over = not backlog.turn(clock)
            if backlog.over:
                waiting.remove(backlog)
            sleep(max(PAUSE_LEAST_S, PAUSE_SHARE * (clock() - began)))
    return not any(backlog.gave_up for backlog in backlogs)
