"""One form for all the ways in which the same words can be written."""

from __future__ import annotations

import re
import unicodedata

from providers.orders.texts import clean_text

_BLANKS = re.compile(r"\s+")
# Combining marks that only choose how a character is drawn.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u034f]")


def folded(text: str) -> str:
    """Return a text for comparisons: wide, styled and ligature forms as plain letters (NFKC), case folded, without
    invisible characters, every run of blanks as one blank.

    Letters of other alphabets that only look alike stay what they are.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", clean_text(text))
        text = _SELECTORS.sub("", "".join(each for each in text if unicodedata.category(each) != "Cf"))
        text = unicodedata.normalize("NFKC", text.casefold())
    return _BLANKS.sub(" ", text.casefold())
