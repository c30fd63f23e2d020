"""Making the texts of an order safe to store, count and send."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# C0 and C1 controls, which terminals obey (newline and tab stay); lone surrogates, which no encoder or database takes;
# and what turns the order of the characters around it (U+202A to U+202E, U+2066 to U+2069) or only annotates them, with
# which a prompt reads differently from what it says. Joiners and direction marks stay: scripts and emoji need them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")
# Normalising a long run of accents takes quadratic time: 32,000 of them block a process for two seconds.
MAX_MARKS_IN_A_ROW = 30
# They count as letters, but decompose into accents.
_HIDDEN_MARKS = frozenset("\u0f73\u0f75\u0f81")


def clean_text(text: str) -> str:
    """Trimmed, in composed form (NFC), without controls of a terminal or of the writing direction.

    Newlines are "\\n", tabs stay.
    """
    text = _UNFIT.sub("", _LINE_ENDS.sub("\n", text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(_without_towers(text)))
    return text.strip()


def _without_towers(text: str) -> Iterator[str]:
    run = 0
    for character in text:
        is_mark = unicodedata.combining(character) or character in _HIDDEN_MARKS
        run = run + 1 if is_mark else 0
        if run <= MAX_MARKS_IN_A_ROW:
            yield character
