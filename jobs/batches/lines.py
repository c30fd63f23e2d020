"""What a line of a batch says, as the dialect of its batch reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.documents import BatchFault, StoredRefusal
from jobs.reads.batches import Batch
from jobs.submission.order import Order


@dataclass(frozen=True, slots=True)
class LineRead:
    """One of these: an ``order``; ``refused``, why this line is none; ``broken``, what makes the file no batch."""

    custom_id: str = ""
    order: Order | None = None
    refused: StoredRefusal | None = None
    broken: BatchFault | None = None


# Reads one line of a batch in its dialect. Never raises for what a line says.
ReadLine = Callable[[Batch, bytes], LineRead]
