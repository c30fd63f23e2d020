"""What is judged, and what a screen says of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

# An order; a prompt to be enhanced; the messages of a chat.
Kind = Literal["order", "enhance", "chat"]

_CATEGORY = re.compile(r"[a-z0-9][a-z0-9_./-]{0,63}")
UNNAMED = "other"


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that comes with an order, as it was sent: nothing has verified it. ``field_name``: for messages."""

    role: str
    field_name: str
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Subject:
    """What an account asks for. ``texts``: further texts that reach the model, by field.

    No text is in the repr: it is the caller's.
    """

    kind: Kind
    account_id: str
    prompt: str = field(default="", repr=False)
    negative_prompt: str = field(default="", repr=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str | None = None
    operation: str | None = None
    images: Sequence[InputImage] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to judge."""
        return not (self.prompt or self.negative_prompt or self.texts or self.images)

    def digest(self) -> bytes:
        """A digest of all that a screen is shown."""
        facts = [
            *(self.kind, self.account_id, self.model, self.operation, self.prompt, self.negative_prompt),
            sorted(self.texts.items()),
            [(image.role, image.sha256) for image in self.images],
        ]
        # Half a surrogate pair in a text that is refused later must not stop the digest.
        return hashlib.sha256(json.dumps(facts).encode()).digest()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A screen's no. ``category`` is told to the caller and counted; ``field_name``: where it lies."""

    category: str
    field_name: str = "prompt"


class ScreenFailedError(Exception):
    """A screen has no opinion: it did not answer, or not as it should. ``reason`` is a word for logs and metrics."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Screen(Protocol):
    """One opinion. A new kind of screen is a class like this and a line in :mod:`jobs.screening.building`."""

    @property
    def name(self) -> str:
        """Its name in settings and metrics."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether it answers from memory: such screens are asked first, and what they refuse is sent nowhere."""
        ...

    def judge(self, subject: Subject, *, within_s: float) -> Refusal | None:
        """Return why the subject is refused, or None, within so many seconds. Raises ScreenFailedError."""
        ...

    def probe(self, *, within_s: float) -> str:
        """Return one line about how it is set up, after trying it. Raises ScreenFailedError."""
        ...


def category_of(written: object) -> str:
    """Return a category as it is told and counted: short, of plain characters; ``other`` for anything else."""
    if not isinstance(written, str):
        return UNNAMED
    category = written.strip().lower().replace(" ", "_")
    return category if _CATEGORY.fullmatch(category) else UNNAMED
