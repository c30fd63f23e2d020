"""Orders made from the catalogue alone: the least that a model needs, and every setting it has filled in.

They pass the same check as a caller's order, so what reaches an adapter here may reach it in service.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from PIL import Image

from providers.base import InputImage, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model
from providers.catalog.size_rules import AspectRatioRule, ResolutionRule
from providers.orders.needs import face_need, image_range, mask_need
from providers.orders.rules import CheckedOrder, OrderProblems, check_order
from providers.orders.schema import order_schema
from providers.shared import order_fields

CATALOG = catalog.load()
PROMPT = "a red kite"
UNDESCRIBED = frozenset({"seededit-v3"})  # in doubt, and no source says what it takes: its emulator has no such path
SIDE_PX = 256  # the least that every model takes
MOST_IMAGES = 4  # of one order; the limits themselves are tested with the order check

# What a schema cannot say: a useful item of a list.
LISTS: Mapping[str, list[Any]] = {
    "bbox_condition": [{"width": 100, "height": 100, "length": 100}],
    "loras": [{"path": "https://example.com/kite.safetensors", "scale": 1}],
    "sensitives": ["kite"],
    "terminologies": [{"src": "kite", "tgt": "Drachen"}],
}
_WORDS = {"size": "1024x1024", "aspect_ratio": "16:9"}
_IMAGES = frozenset({"images", "mask", "face", "prompt", "n"})


def live_models(provider: str) -> list[Model]:
    """The models that an adapter must serve."""
    return [model for model in CATALOG.models.values() if model.provider == provider and model.live]


def served_models(provider: str) -> list[Model]:
    """Those, and the models that still answer though they retire or are in doubt: someone may order them."""
    today = datetime.now(UTC).date()
    own = [model for model in CATALOG.models.values() if model.provider == provider and model.id not in UNDESCRIBED]
    return [model for model in own if not model.gone(today)]


@cache
def sample_image(mode: str = "RGB") -> InputImage:
    """A small PNG; in mode ``RGBA`` half transparent, in mode ``L`` half white."""
    out, made = io.BytesIO(), Image.new(mode, (SIDE_PX, SIDE_PX))
    made.paste({"RGB": (20, 40, 200), "RGBA": (0, 0, 0, 255), "L": 255}[mode], (0, 0, SIDE_PX, SIDE_PX // 2))
    made.save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", SIDE_PX, SIDE_PX)


def mask_for(model: Model) -> InputImage:
    return sample_image("L" if model.inputs.mask_polarity == "white_edits" else "RGBA")


@dataclass(frozen=True)
class Draft:
    """The fields of an order for one model and operation, and its images."""

    model: Model
    operation: str
    fields: Mapping[str, Any]
    image_count: int
    has_mask: bool

    def checked(self) -> CheckedOrder:
        """Raises: OrderProblems."""
        return check_order(
            self.model,
            self.operation,
            self.fields,
            image_count=self.image_count,
            has_mask=self.has_mask,
            has_face=face_need(self.model) == "required",
        )

    def holds(self) -> bool:
        try:
            self.checked()
        except OrderProblems:
            return False
        return True

    def order(self) -> UpstreamOrder:
        checked = self.checked()
        return UpstreamOrder(
            operation=self.operation,
            model=self.model,
            prompt=checked.prompt,
            n=checked.n,
            size=checked.size,
            params=checked.params,
            images=[sample_image()] * self.image_count,
            mask=mask_for(self.model) if self.has_mask else None,
            face=sample_image() if face_need(self.model) == "required" else None,
        )


def bare(model: Model, operation: str | None = None) -> UpstreamOrder:
    """Only what the model needs."""
    return _least(model, operation or model.operation).order()


def with_images(model: Model, operation: str, count: int, *, has_mask: bool) -> UpstreamOrder | None:
    """What the model needs, with ``count`` images; None where it takes no such order."""
    least = _least(model, operation)
    schema = order_schema(model, operation)
    needed = _values(schema, schema["dependentRequired"].get("images", ()), -1)
    more: list[Mapping[str, Any]] = [{}, {"prompt": PROMPT}]
    drafts = (
        replace(least, fields={**needed, **least.fields, **extra}, image_count=count, has_mask=has_mask)
        for extra in more
    )
    return next((draft.order() for draft in drafts if draft.holds()), None)


def filled(model: Model, operation: str) -> list[UpstreamOrder]:
    """Orders that together set everything the model takes, to its last value and to its first.

    Several, because some settings exclude each other.
    """
    most = {**_least(model, operation).fields, "n": min(model.max_per_call, MOST_IMAGES)}
    if model.inputs.prompt != "none":
        most["prompt"] = PROMPT
    wide = replace(
        _least(model, operation),
        fields=most,
        image_count=min(image_range(model, operation)[1], MOST_IMAGES) - (face_need(model) == "required"),
        has_mask=mask_need(model, operation) != "none",
    )
    if wide.has_mask:
        wide = replace(wide, image_count=max(1, _least(model, operation).image_count))
    seen: list[UpstreamOrder] = []
    for draft, place in ((wide, -1), (wide, 0), (_least(model, operation), -1)):
        seen += [order for each in _cover(draft, place) if (order := each.order()) not in seen]
    return seen


def wire_sizes(order: UpstreamOrder) -> set[str]:
    """The wire fields of the size that the order has."""
    return set(order_fields.size_fields(order))


def _least(model: Model, operation: str) -> Draft:
    """The first draft that the order check takes: sometimes one of several fields is needed."""
    schema = order_schema(model, operation)
    needed = _values(schema, [name for name in schema["required"] if name not in _IMAGES], -1)
    if model.inputs.prompt == "required":
        needed["prompt"] = PROMPT
    count = max(0, image_range(model, operation)[0] - (face_need(model) == "required"))
    has_mask = mask_need(model, operation) == "required"
    tried: list[Mapping[str, Any]] = [{}, {"prompt": PROMPT}, {"left": 8}]
    if count:  # what an image needs
        with_images = schema["dependentRequired"].get("images", ())
        needed |= _values(schema, with_images, -1)
    drafts = [Draft(model, operation, {**needed, **more}, count, has_mask) for more in tried]
    return next((draft for draft in drafts if draft.holds()), drafts[0])


def _settings(model: Model, schema: Mapping[str, Any]) -> list[str]:
    """The settings of a model; of several fields for one size only the first."""
    others: set[str] = set()
    if "size" in schema["properties"]:
        others = {"width", "height"}
        others |= set() if model.size_rule(AspectRatioRule) else {"aspect_ratio"}
        others |= set() if model.size_rule(ResolutionRule) else {"resolution"}
    return [name for name in schema["properties"] if name not in _IMAGES | others]


def _cover(draft: Draft, place: int) -> Iterator[Draft]:
    """``draft`` with settings added, until each setting was in one draft."""
    schema = order_schema(draft.model, draft.operation)
    names = _settings(draft.model, schema)
    if draft.image_count:
        with_images = schema["dependentRequired"].get("images", ())
        draft = replace(draft, fields={**_values(schema, with_images, place), **draft.fields})
    left = [name for name in names if name not in draft.fields]
    yield (full := _widened(draft, names, place))
    while left := [name for name in left if name not in full.fields]:
        yield (full := _widened(_with_partner(draft, left[0], place), names, place))


def _widened(draft: Draft, names: list[str], place: int) -> Draft:
    """``draft`` with each of these settings that it can still take."""
    schema = order_schema(draft.model, draft.operation)
    for name in names:
        if name not in draft.fields:
            together = (name, *schema["dependentRequired"].get(name, ()))
            wider = replace(draft, fields={**draft.fields, **_values(schema, together, place)})
            draft = wider if wider.holds() else draft
    return draft


def _with_partner(draft: Draft, name: str, place: int) -> Draft:
    """``draft`` with this setting, and with the other one without which it cannot be set."""
    schema = order_schema(draft.model, draft.operation)
    together = (name, *schema["dependentRequired"].get(name, ()))
    fields = {**draft.fields, **_values(schema, together, place)}
    partners = (
        {other: value}
        for other in _settings(draft.model, schema)
        for value in schema["properties"][other].get("enum", ())
    )
    drafts = (replace(draft, fields={**fields, **partner}) for partner in ({}, *partners))
    return next(each for each in drafts if each.holds())


def _values(schema: Mapping[str, Any], names: Iterable[str], place: int) -> dict[str, Any]:
    return {name: _value(name, schema["properties"][name], place) for name in names}


def _value(name: str, schema: Mapping[str, Any], place: int) -> Any:
    """A value that the schema admits: the last (``place`` -1) or the first (0) of them."""
    if "enum" in schema:
        return schema["enum"][place]
    match schema["type"]:
        case "boolean":
            return place == -1
        case "integer" | "number":
            return schema["maximum" if place == -1 else "minimum"]
        case "array":
            return LISTS[name]
    return _WORDS.get(name, "a green field")
