"""The JSON documents of a job, as they are written into its columns and read back.

Columns of the tables ``orders`` and ``inputs`` (jobs/models.py). A key is never renamed: rows live for months, and a
status read takes the documents apart in SQL (app/shapes/status_json.py).
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class StoredSelection(TypedDict):
    """Why an order got its model, where it did not name one: ``orders.request -> 'chosen'``."""

    asked: str | None  # "auto", "auto:budget", "auto:quality"; None: no model was named
    model: str
    reason: str  # a phrase for people


class StoredRequest(TypedDict):
    """What is asked of a model, by its own rules: the column ``orders.request``, and part of each fallback.

    It is shown to the caller as ``request``, and the paid call is built from it.
    """

    prompt: str | None
    n: int
    size: dict[str, str | int]  # as the model takes it: size; or width and height; or aspect_ratio and resolution
    params: dict[str, Any]  # the model's settings, by the catalogue's names
    normalised: dict[str, dict[str, str]]  # field -> {"asked": ..., "used": ...} where the two differ
    extra: NotRequired[dict[str, Any]]  # passed to the upstream as it is
    chosen: NotRequired[StoredSelection]


class StoredFallback(TypedDict):
    """A model behind the first: an element of ``orders.fallbacks``, in the order in which they are tried."""

    model: str
    provider: str
    unit_price: int  # micro-credits, of one image
    per_call: int  # images that one call makes at most
    unit_cost: int | None  # micro-USD that one image is expected to cost upstream; None: not known beforehand
    request: StoredRequest


class InputPart(TypedDict):
    """A reference image as a paid call needs it."""

    role: Literal["image", "mask", "face"]
    position: int  # among those of its role, from 0
    key: str  # of the image in the store
    mime: str
    width_px: int
    height_px: int


class StoredInput(InputPart):
    """A reference image of an order: a row of the table ``inputs`` without its job_id."""

    size_bytes: int
    sha256: str  # lower-case hex of the stored bytes


# The column ``orders.metadata``: the caller's own notes, which lists of tasks can be narrowed by.
StoredMetadata = dict[str, str]
