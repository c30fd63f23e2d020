"""A catalogue that follows an operator's file while the process runs.

No watcher runs: who asks for the catalogue looks at the file's stamp, at most once a second.
What was handed out before stays as it was, so one order is never judged by two catalogues.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from providers.catalog.catalog import Catalog, CatalogError, build
from providers.catalog.files import PACKAGED
from providers.catalog.local import lay_over
from providers.catalog.reading import CatalogData, read

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
Stamp = tuple[int, int, int]  # time of change in ns, size in bytes, inode
UNREAD: Stamp = (-1, -1, -1)  # of no file: the next look reads again


class LiveCatalog:
    """The packaged catalogue with the file ``local`` over it; no such file, nothing over it.

    Raises CatalogError when made with a faulty file: no process starts with prices that were not meant.
    Afterwards a faulty file leaves the last good catalogue in force; :attr:`faults` names what is wrong.
    """

    def __init__(
        self, local: Path | None, *, packaged: Path = PACKAGED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._local = local
        self._clock = clock
        self._base: CatalogData = read(packaged)
        self._lock = threading.Lock()
        self._looked_at = clock()
        self._faults: tuple[str, ...] = ()
        try:
            self._stamp, content = self._look()
        except OSError as error:
            raise CatalogError(local or packaged, [_unreadable(error)]) from error
        self._catalog = self._build(content)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the file as it is now, a line for each fault; empty while the file is in force."""
        self.current()
        return self._faults

    @property
    def path(self) -> Path | None:
        """The operator's file, whether or not it exists."""
        return self._local

    def current(self) -> Catalog:
        """The catalogue in force; checks the file at most once a second."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._follow(wait=False)
        return self._catalog

    def renewed(self) -> Catalog:
        """The catalogue in force after a check of the file now."""
        self._follow(wait=True)
        return self._catalog

    def _follow(self, *, wait: bool) -> None:
        """Read the file if it has changed. One thread does it; the others use the catalogue that is there."""
        if not self._lock.acquire(blocking=wait):
            return
        try:
            self._looked_at = self._clock()
            self._take_over()
        finally:
            self._lock.release()

    def _take_over(self) -> None:
        try:
            stamp = self._stamp_now()
            if stamp == self._stamp or (stamp is None and self._just_changed()):
                return
            self._stamp = UNREAD
            self._stamp, content = self._look()
            self._catalog = self._build(content)
        except CatalogError as error:
            self._refuse(error.faults)
        except OSError as error:
            self._refuse((_unreadable(error),))
        else:
            self._faults = ()
            log.info("catalog_reloaded", extra={"catalog_version": self._catalog.version})

    def _refuse(self, faults: tuple[str, ...]) -> None:
        if faults != self._faults:
            log.error("catalog_local_faulty", extra={"file": str(self._local), "faults": list(faults)})
        self._faults = faults

    def _build(self, content: bytes | None) -> Catalog:
        if self._local is None or content is None:
            return build(self._base)
        return build(lay_over(self._base, self._local, content))

    def _look(self) -> tuple[Stamp | None, bytes | None]:
        """The file's content, and its stamp from before it was read: a later change is found at the next look."""
        stamp = self._stamp_now()
        return stamp, None if self._local is None or stamp is None else self._local.read_bytes()

    def _stamp_now(self) -> Stamp | None:
        if self._local is None:
            return None
        try:
            found = self._local.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _just_changed(self) -> bool:
        """Whether the folder changed just now: editors replace a file, and for a moment there is none, which must
        not drop an operator's prices."""
        try:
            changed_at = os.stat(self._local.parent).st_mtime if self._local else 0.0  # noqa: PTH116
        except OSError:
            return False
        return abs(time.time() - changed_at) < LOOK_EVERY_S


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({type(error).__name__})"
