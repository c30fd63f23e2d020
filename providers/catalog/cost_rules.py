"""How a model that is billed by tokens is priced: a table by quality and size, and the tokens besides the image."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import pairwise

from pydantic import Field, model_validator

from providers.catalog.frozen import Entry, FrozenMap, empty

Row = tuple[Decimal, ...]
_SIZE = re.compile("[1-9][0-9]{1,4}x[1-9][0-9]{1,4}")


class CostTable(Entry):
    """US dollars of one image: a row for each quality, a column for each of ``sizes`` (WxH, by growing area).

    ``edit``: rows that include one input image; without them an edit costs what ``generate`` says and its input
    images. ``grid``: patches along the longer side of the image, by quality, from which its tokens follow.
    """

    sizes: tuple[str, ...] = Field(min_length=2)
    generate: FrozenMap[str, Row]
    edit: FrozenMap[str, Row] = Field(default_factory=empty)
    grid: FrozenMap[str, int]

    @property
    def areas_px(self) -> tuple[int, ...]:
        """The area of each column, in pixels."""
        return tuple(math.prod(int(side) for side in size.split("x")) for size in self.sizes)

    @model_validator(mode="after")
    def _whole(self) -> CostTable:
        if not all(map(_SIZE.fullmatch, self.sizes)) or any(one >= other for one, other in pairwise(self.areas_px)):
            raise ValueError("sizes: must be WxH by growing area")
        rows = [*self.generate.values(), *self.edit.values()]
        if any(len(row) != len(self.sizes) or min(row) < 0 for row in rows):
            raise ValueError("a row has one amount for each of sizes")
        if self.grid.keys() != self.generate.keys() or not self.edit.keys() <= self.generate.keys():
            raise ValueError("grid and edit name the qualities of generate")
        if any(patches < 1 for patches in self.grid.values()):
            raise ValueError("grid: must be at least 1")
        return self


class ExtraTokens(Entry):
    """The most tokens that an order is billed for besides those of its image; ``token_usd`` has their prices.

    ``image_input``: for each input image, a mask included. ``text_input``: around the prompt, which itself counts a
    token for each byte, the most that a byte-pair encoding makes of it. ``text_output``: what the model writes or
    thinks.
    """

    image_input: int = Field(default=0, ge=0)
    text_input: int = Field(default=0, ge=0)
    text_output: int = Field(default=0, ge=0)
