"""One call to an upstream, from its plan to its last status check, as a single type."""

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
    """A paid call for ``image_count`` image slots of a job, starting at ``slot``.

    It begins as a plan with an id. It gets its credential together with its permit, and from then on it has a row in
    ``upstream_calls``. The inherited fields are the part that adapters see. Times are the database's.
    """

    slot: int
    attempt: int  # counted per slot, from 1
    image_count: int
    credential_id: str = ""  # empty until the call has a permit
    outcome: Outcome | None = None  # None while it is unanswered
    kept: int = 0  # how many of its images are in our store
    code: str | None = None  # why it made fewer images than asked
    retryable: bool = False
    charged: bool = False  # the upstream bills it, or may, and it made no image
    retry_after_s: float | None = None
    overdue: bool = False  # past the time at which it is given up
    cancel_asked: bool = False
    missing: bool = False  # the upstream did not know it at the last look
    result: Sequence[ResultLink] = ()

    @property
    def slots(self) -> range:
        """The image slots it covers."""
        return range(self.slot, self.slot + self.image_count)

    @property
    def is_open(self) -> bool:
        """Whether the upstream may still be working on it."""
        return self.outcome is None or self.outcome in OPEN_OUTCOMES


def planned(call_id: str, *, slot: int, attempt: int, image_count: int, model: str) -> Call:
    """Return a call that is not recorded yet. Its dedupe key exists before anything is sent, so a repeat is safe."""
    return Call(call_id, dedupe_key_of(call_id), model, slot=slot, attempt=attempt, image_count=image_count, age_s=0.0)


def dedupe_key_of(call_id: str) -> str:
    """Return the key by which the upstream knows a call. ``lifecycle.start.START`` makes the same one in SQL."""
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
