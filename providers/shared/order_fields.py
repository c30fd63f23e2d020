"""An order as wire fields, by the catalogue alone: the beginning of every adapter's request.

An adapter takes the parts it needs and puts them where its upstream expects them (a JSON body, a
form, an ``input`` object). Pure functions; nothing here is about one upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers.base import InputImage, UpstreamOrder
from providers.errors import RequestRefused
from providers.orders.wire_sizes import wire_size
from providers.shared.extra import extra_fields


@dataclass(frozen=True, slots=True)
class Placed:
    """Images under their wire field; ``is_list`` says whether the field takes a list, even of one."""

    field: str
    images: Sequence[InputImage]
    is_list: bool


def path_of(order: UpstreamOrder) -> str:
    """The path of the request: the model's path for the operation, or its only one."""
    return order.model.paths.get(order.operation, order.model.path)


def wire_fields(order: UpstreamOrder) -> dict[str, Any]:
    """Everything but the images under its wire name: ``extra``, constants, settings, prompt, size, n.

    Only what was set: no prompt, size or count that neither the caller nor the catalogue gave. ``n`` is
    sent above one, where the model has a field for it.

    Raises: RequestRefused for a field in ``extra`` that would change what is bought.
    """
    fields = {**extra_fields(order), **order.model.constants, **own_params(order)}
    if order.prompt:
        fields[order.model.inputs.prompt_field or "prompt"] = order.prompt
    fields |= size_fields(order)
    if order.n > 1 and "n" in order.model.params:
        fields[wire_name(order, "n")] = order.n
    return fields


def own_params(order: UpstreamOrder) -> dict[str, Any]:
    """The caller's settings under their wire names, as the catalogue gives them.

    Without ``n``, which the catalogue lists too: only ``order.n`` says how many images this call makes.
    """
    return {wire_name(order, name): value for name, value in order.params.items() if name != "n"}


def wire_name(order: UpstreamOrder, name: str) -> str:
    """The name of a setting on the wire: that of its catalogue entry, else its canonical name."""
    known = order.model.params.get(name)
    return (known.field if known is not None else None) or name


def size_fields(order: UpstreamOrder) -> dict[str, Any]:
    """The canonical size of the order under the wire names of the model's size rules."""
    return wire_size(order.model, order.size)


def size_text(size: Mapping[str, str | int]) -> str | None:
    """``WIDTHxHEIGHT`` where pixels are given, else the size or ratio as it is; None without any."""
    if "width" in size and "height" in size:
        return f"{size['width']}x{size['height']}"
    found = size.get("size") or size.get("aspect_ratio")
    return str(found) if found else None


def placed_images(order: UpstreamOrder) -> list[Placed]:
    """The images of the order under their fields in the catalogue, mask and face included.

    ``images[0]`` goes to the field with the role ``base``, or else to the first; single fields take
    one image each in the order of the catalogue, a list takes all that are left. A model with a
    single and a list field for the same thing gets the list when there are several images.
    """
    placed = list(_references(order))
    inputs = order.model.inputs
    if order.face is not None and "face" in inputs.roles:
        field = inputs.roles["face"]
        placed.append(Placed(field, [order.face], inputs.image_fields[field].is_list))
    if order.mask is not None and inputs.mask_field:
        placed.append(Placed(inputs.mask_field, [order.mask], inputs.mask_list_max is not None))
    return placed


def reference_fields(order: UpstreamOrder, spelled: Callable[[InputImage], Any]) -> dict[str, Any]:
    """The images of the order under their wire fields, each as ``spelled`` writes it for JSON."""
    fields: dict[str, Any] = {}
    for placed in placed_images(order):
        values = [spelled(image) for image in placed.images]
        fields[placed.field] = values if placed.is_list else values[0]
    return fields


def _references(order: UpstreamOrder) -> Iterator[Placed]:
    left = list(order.images)
    for name, is_list in _reference_fields(order, len(left)):
        if not left:
            return
        taken = left if is_list else left[:1]
        left = left[len(taken) :]
        yield Placed(name, taken, is_list)


def _reference_fields(order: UpstreamOrder, count: int) -> list[tuple[str, bool]]:
    """(field, is a list) in the order in which references fill them."""
    inputs = order.model.inputs
    known = [(name, spec) for name, spec in inputs.image_fields.items() if name != inputs.roles.get("face")]
    if not inputs.roles and len(known) == 2 and known[0][1].is_list != known[1][1].is_list:
        # image | images: two spellings of one thing, by count
        known = [pair for pair in known if pair[1].is_list == (count > 1)]
    known.sort(key=lambda pair: pair[0] != inputs.roles.get("base"))  # stable: the base first, else as listed
    return [(name, spec.is_list) for name, spec in known]


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with dotted names as nested objects: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``.

    Raises: RequestRefused for a field that is inside another one, which only ``extra`` can cause.
    """
    inside = sorted(name for name in fields if any(outer in fields for outer in _outer_names(name)))
    if inside:
        raise RequestRefused("extra_not_allowed", f"given twice: {', '.join(inside)}")
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *outer, last = name.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def _outer_names(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
