"""How a model takes sizes: the rules of an entry's ``size``. Sides and areas are pixels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from providers.catalog.frozen import Entry, FrozenMap, empty


class PixelsRule(Entry):
    """Width and height within limits; ``also`` lists words taken besides them (``auto``)."""

    rule: Literal["pixels"]
    format: str | None = None  # separator on the wire, "W*H" or "WxH"; ours is always "WxH"
    field: str | None = None
    fields: tuple[str, ...] = ()
    shape: str | None = None
    multiple_of: int = 1
    min: int = 1
    max: int | None = None
    max_edge: int | None = None
    max_ratio: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    also: tuple[str, ...] = ()
    send_with: FrozenMap[str, str] = Field(default_factory=empty)  # what must be sent with explicit pixels
    default: str | int | None = None
    note: str | None = None


class SizesRule(Entry):
    """One of a few fixed sizes."""

    rule: Literal["sizes"]
    format: str | None = None
    field: str | None = None
    values: tuple[str, ...]
    default: str | None = None


class AspectRatioRule(Entry):
    """A ratio, from a list (``enum``) or anything between two ends (``range``)."""

    rule: Literal["aspect_ratio"]
    field: str | None = None
    enum: tuple[str, ...] = ()
    range: tuple[str, str] | None = None
    default: str | None = None
    required: bool = False
    note: str | None = None


class ResolutionRule(Entry):
    """A size class such as ``2K``; ``upto_edge`` says the longest side a class is chosen for."""

    rule: Literal["resolution"]
    field: str | None = None
    enum: tuple[str, ...]
    upto_edge: FrozenMap[str, int] = Field(default_factory=empty)
    default: str | None = None


class FactorRule(Entry):
    """A multiple of the input's size; ``fixed`` means the upstream takes no such field."""

    rule: Literal["factor"]
    enum: tuple[int, ...] = ()
    fixed: int | None = None
    default: int | None = None
    input_max_pixels: int | None = None
    input_edge: tuple[int, int] | None = None


class PaddingRule(Entry):
    """Pixels to add on each side; ``fields`` maps our names of the sides to the upstream's."""

    rule: Literal["padding"]
    fields: FrozenMap[str, str]
    min: int = 0
    max: int


class FixedAreaRule(Entry):
    """The upstream decides the size; there is no field for it."""

    rule: Literal["fixed_area"]
    megapixels: int | None = None
    size_class: str | None = Field(default=None, alias="class")
    input_max_pixels: int | None = None


class HintRule(Entry):
    """A wish that the upstream may ignore; ``ratios`` says whether it reads "16:9"."""

    rule: Literal["hint"]
    format: str | None = None
    field: str | None = None
    min: int
    max: int
    ratios: bool = True
    note: str | None = None


SizeRule = Annotated[
    PixelsRule | SizesRule | AspectRatioRule | ResolutionRule | FactorRule | PaddingRule | FixedAreaRule | HintRule,
    Field(discriminator="rule"),
]
