"""The look at a whole file before anything of it is submitted: what cannot be told line by line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable

from jobs.batches.lines import ReadLine
from jobs.documents import BatchFault
from jobs.reads.batches import Batch

MAX_FAULTS = 50
# Other greenlets of a worker get their turn after so many lines.
LINES_IN_A_ROW = 50


def faults_of(
    batch: Batch, lines: Iterable[tuple[int, bytes]], read: ReadLine, *, goes_on: Callable[[], None]
) -> list[BatchFault]:
    """What makes a file no batch: lines that are none, and names that are given twice; at most ``MAX_FAULTS``.

    An order at fault is no such thing: it is refused by itself. ``goes_on`` is called now and then.
    """
    faults: list[BatchFault] = []
    # Digests instead of names, which may be long: 100,000 of them take some megabytes.
    seen: set[bytes] = set()
    for count, (number, raw) in enumerate(lines, start=1):
        line = read(batch, raw)
        if line.broken is not None:
            faults.append({**line.broken, "line": number + 1})
        elif line.custom_id:
            digest = hashlib.blake2b(line.custom_id.encode(), digest_size=12).digest()
            if digest in seen:
                faults.append(_twice(number, line.custom_id))
            seen.add(digest)
        if len(faults) >= MAX_FAULTS:
            break
        if count % LINES_IN_A_ROW == 0:
            time.sleep(0)
            goes_on()
    return faults


def _twice(number: int, custom_id: str) -> BatchFault:
    return {
        "code": "duplicate_custom_id",
        "message": f"the custom_id {custom_id[:100]!r} is given twice",
        "line": number + 1,
        "param": "custom_id",
    }
