"""Regular expressions that take time in proportion to the text, whatever the pattern and whatever the text.

Python's own matcher goes back and forth: a pattern such as ``(a+)+b`` takes hours for 40 letters, and nothing can stop
it. RE2 has no such patterns; its syntax, for operators, is in docs/operating.md, "Screening".
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from jobs.screening.folding import folded

MAX_CHARS = 500
# Instructions of RE2: of the patterns that are searched for at once, which no clock can stop, and of all together.
MAX_SET_SIZE, MAX_SIZE = 20_000, 400_000
# What RE2 may take for the patterns that are searched for at once, and for what it remembers of texts.
MAX_SET_BYTES = 4 * 2**20
# Is found in every text. RE2 says "nothing found" also where it has run out of memory; then this is missing, too.
_ALWAYS = r"\A"
_TOO_LARGE = "is too large, by itself or together with the others"

# What is not folded in a pattern: quoted text, escapes, classes.
_KEPT = re.compile(r"\\Q.*?(?:\\E|\Z)|\\.|\[\^?\]?(?:\[:[^\]]*:\]|\\.|[^\]\\])*\]", re.DOTALL)


class PatternError(ValueError):
    """A pattern that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class _Set:
    """Patterns that are searched for at once: the number of the first, and RE2's set, which numbers them from 1."""

    first: int
    set: Any

    def search(self, text: bytes) -> list[int]:
        """The numbers of the patterns in a text. Raises MemoryError."""
        found = self.set.Match(text)
        if not found:
            raise MemoryError("RE2 has run out of memory")
        return [self.first + number - 1 for number in found if number]


class Patterns:
    """Several patterns. Thread-safe; several texts may be searched at once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises PatternError for one that is not understood, matches everything, or is too large with the others."""
        self._sets = list(_sets([_measured(pattern) for pattern in patterns]))
        try:
            matches_all = self.search("") or self.search("\x00")
        except MemoryError:
            raise PatternError(_TOO_LARGE) from None
        if matches_all:
            raise PatternError("matches every text")

    def search(self, text: str, *, ends_at: float | None = None) -> list[int]:
        """Return the numbers of the patterns that are found in a folded text, in their order.

        Raises TimeoutError once time.monotonic() is past ``ends_at``, and MemoryError.
        """
        data = text.encode()
        found: list[int] = []
        for each in self._sets:
            if ends_at is not None and time.monotonic() > ends_at:
                raise TimeoutError
            found += each.search(data)
            time.sleep(0)  # other greenlets have their turn
        return sorted(found)


def _options() -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    options.max_mem = MAX_SET_BYTES
    return options


def _measured(pattern: str) -> tuple[str, int]:
    """A pattern as RE2 is given it, and its size. Raises PatternError."""
    if len(pattern) > MAX_CHARS:
        raise PatternError(f"has more than {MAX_CHARS} characters")
    written = _fold_literals(pattern)
    try:
        size = int(re2.compile(written, _options()).programsize)
    except UnicodeEncodeError:
        raise PatternError("has half of a surrogate pair") from None
    except re2.error as error:
        raise PatternError(f"is no pattern of RE2: {_reason(error)}") from None
    if size > MAX_SET_SIZE:
        raise PatternError(_TOO_LARGE)
    return written, size


def _reason(error: re2.error) -> str:
    [reason] = error.args
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def _sets(patterns: Sequence[tuple[str, int]]) -> Iterator[_Set]:
    """The patterns in sets of at most MAX_SET_SIZE. Raises PatternError."""
    if sum(size for _, size in patterns) > MAX_SIZE:
        raise PatternError(_TOO_LARGE)
    first = 0
    while first < len(patterns):
        behind, room = first, MAX_SET_SIZE
        while behind < len(patterns) and patterns[behind][1] <= room:
            room -= patterns[behind][1]
            behind += 1
        yield _Set(first, _set([written for written, _ in patterns[first:behind]]))
        first = behind


def _set(patterns: Sequence[str]) -> Any:
    made = re2.Set.SearchSet(_options())
    try:
        for pattern in (_ALWAYS, *patterns):
            made.Add(pattern)
        made.Compile()
    except re2.error:
        raise PatternError(_TOO_LARGE) from None
    return made


def _fold_literals(pattern: str) -> str:
    """The pattern with its letters as texts have them once they are folded; that case does not count is RE2's work."""
    pattern, folding, at = unicodedata.normalize("NFC", pattern), [], 0
    for kept in _KEPT.finditer(pattern):
        folding += [*map(_fold_literal, pattern[at : kept.start()]), _fold_kept(kept[0])]
        at = kept.end()
    return "".join([*folding, *map(_fold_literal, pattern[at:])])


def _fold_kept(part: str) -> str:
    if not part.startswith(r"\Q"):
        return part
    quoted = part[2:].removesuffix(r"\E")
    return "".join(re2.escape(each) if each.isascii() else _fold_literal(each) for each in quoted)


def _fold_literal(character: str) -> str:
    """A character outside of classes; several, or none, as one item that may be repeated."""
    if character.isascii():
        return character
    if character.isspace():
        return " "
    written = re2.escape(folded(character))
    return written if len(folded(character)) == 1 else f"(?:{written})"
