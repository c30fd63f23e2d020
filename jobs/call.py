"""One call to an upstream: the one type for it, from the plan to the last look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from jobs.states import OPEN_OUTCOMES, Outcome
from providers.base import CallRef


class ResultLink(TypedDict):
    """One image of a finished call that is not kept yet; ``upstream_calls.result`` is a list of these."""

    url: str | None
    seed: int | None
    revised_prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(CallRef):
    """A paid call for ``image_count`` image slots of a job, from ``slot`` on, as its row has it.

    It begins as a plan with an id; the permit names the credential, and from then on it is on record. What an
    adapter needs of it is the part it inherits. Times are the database's.
    """

    slot: int
    attempt: int  # counted per slot, from 1
    image_count: int
    credential_id: str = ""  # none before there is a permit
    outcome: Outcome | None = None  # None while it is unanswered
    kept: int = 0  # images of it that lie in our store
    code: str | None = None  # why it made fewer images than asked
    retryable: bool = False
    retry_after_s: float | None = None
    overdue: bool = False  # past the moment at which it is given up
    cancel_asked: bool = False
    missing: bool = False  # the upstream did not know it at the last look
    result: Sequence[ResultLink] = ()

    @property
    def slots(self) -> range:
        """The image slots it covers."""
        return range(self.slot, self.slot + self.image_count)

    @property
    def is_open(self) -> bool:
        """Whether its upstream may be working for us."""
        return self.outcome is None or self.outcome in OPEN_OUTCOMES


def planned(call_id: str, *, slot: int, attempt: int, image_count: int, model: str) -> Call:
    """A call about to be written down. Its key is made before the first byte leaves, so that a repeat is safe."""
    return Call(call_id, dedupe_key_of(call_id), model, slot=slot, attempt=attempt, image_count=image_count, age_s=0.0)


def dedupe_key_of(call_id: str) -> str:
    """The key by which the upstream knows a call; START makes the same in SQL."""
    return f"dr-{call_id.removeprefix('call_').lower()}"


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image in our store, ready for its row."""

    index: int
    key: str
    mime: str
    width_px: int | None  # None: a 3D file or a text
    height_px: int | None
    size_bytes: int
    sha256: str
    seed: int | None = None
    revised_prompt: str | None = None
    text: str | None = None
