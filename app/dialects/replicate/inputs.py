"""The ``input`` of a prediction as members of an order: names, images in order, and what is left out.

Clients send whatever the model's page at Replicate lists. What neither the model nor an order knows is left out with a
note, as Replicate does; what is known and wrong is a fault of the order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.dialects.replicate.names import Named
from app.shapes.schemas.orders import OrderFields
from jobs.errors import FieldFault
from jobs.submission.order import JOB_FIELDS, ReferenceImage, Role
from providers.catalog.entries import Model
from providers.orders.aliases import ALIASES, IMAGE_ALIASES
from providers.orders.needs import image_range, mask_need
from providers.orders.rules import all_fields_of

# Fields of an order that ``input`` cannot set: there they are a model's own words, or nothing.
NOT_INPUT = frozenset({*JOB_FIELDS, "upload_id"})
# Further names of images on Replicate's pages; a number behind one of any name gives its place.
_IMAGES = ("image_input", "image_prompt", "target_image", "style_image", "style_reference_images", "control_image")
_FACES = ("swap_image",)
_NUMBERED = re.compile(r"(?P<name>[a-z][a-z_]*?)s?_?(?P<number>[0-9]{1,2})")
_RATIO_OF_INPUT = "match_input_image"
_OWN_SIZE = "custom"  # then width and height count, and only then


@dataclass(slots=True)
class Translated:
    """``members`` are an order's, by its own names; ``images`` come in the order in which their model gets them.
    ``given`` has the name in ``input`` of each of them. ``notes`` are sentences for the caller."""

    members: dict[str, Any] = field(repr=False)
    images: list[ReferenceImage] = field(default_factory=list, repr=False)
    faults: list[FieldFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)

    def place_of(self, name: str) -> str:
        """The place in the request of a field of the order, as "input.num_outputs"."""
        if name.startswith("input.") or name in {"model", "webhook"}:
            return name
        head = re.split(r"[.\[]", name)[0]
        return f"input.{self.given.get(name) or self.given.get(head) or name}"


def translate(given: Mapping[str, Any], named: Named | None) -> Translated:
    """The order in ``input``, for a model; None where the order names none, and the service chooses one."""
    found = Translated({})
    roles = _roles_of(named.model if named else None)
    placed: list[tuple[int, Role, str, Any]] = []
    for name, value in given.items():
        if value is None or value == "":
            continue
        if place := _image_place(name, roles):
            placed.append((place[1], place[0], name, value))
        else:
            _take(found, name, value, named.model if named else None)
    # Stable: of one place, as they were sent.
    for _, role, name, value in sorted(placed, key=lambda each: each[0]):
        _take_images(found, role, name, value)
    _settle_size(found, named.model if named else None)
    return found


def operation_for(model: Model, images: list[ReferenceImage]) -> str:
    """What a model is to do with such images: Replicate's models have no word for it."""
    can = model.operations
    if len(can) == 1:
        return model.operation
    roles = {image.role for image in images}
    if "mask" in roles:
        masked = ("inpaint", "edit", "erase")
        return next((each for each in masked if each in can and mask_need(model, each) != "none"), model.operation)
    if "image" in roles:
        taking = ("edit", "generate", "variations", "inpaint")
        return next((each for each in taking if each in can and image_range(model, each)[1]), model.operation)
    return "generate" if "generate" in can else model.operation


def _roles_of(model: Model | None) -> dict[str, Role]:
    """The names of images in snake case, and what each is to an order."""
    roles: dict[str, Role] = dict.fromkeys(_IMAGES, "image")
    roles |= dict.fromkeys(_FACES, "face")
    for alias, stands_for in {**IMAGE_ALIASES, "images": "images", "mask": "mask", "face": "face"}.items():
        roles[alias] = "image" if stands_for == "images" else "mask" if stands_for == "mask" else "face"
    if model is None:
        return roles
    roles |= dict.fromkeys(model.inputs.image_fields, "image")
    if own := model.inputs.mask_field:
        roles[own] = "mask"
    if own := model.inputs.roles.get("face"):
        roles[own] = "face"
    return roles


def _image_place(name: str, roles: Mapping[str, Role]) -> tuple[Role, int] | None:
    """What an image of this name is, and where it comes among the others; None for what is no image."""
    if name in roles:
        return roles[name], 1
    if numbered := _NUMBERED.fullmatch(name):
        for base in (numbered["name"], f"{numbered['name']}s"):
            if base in roles:
                return roles[base], int(numbered["number"])
    return None


def _take(found: Translated, name: str, value: Any, model: Model | None) -> None:
    own = _own_names(model) if model else {}
    canonical = own.get(name) or ALIASES.get(name, name)
    known = canonical in OrderFields.model_fields and canonical not in NOT_INPUT
    if not (known or (model and name in own) or (model and _takes(model, canonical))):
        found.notes.append(f"input.{name[:64]} was left out: {model.name if model else 'no model'} does not take it")
    elif canonical in found.members and found.members[canonical] != value:
        words = f"means the same as {found.given[canonical]}, and says something else; send one of them"
        found.faults.append(FieldFault(f"input.{name}", "conflict", words))
    else:
        found.members[canonical], found.given[canonical] = value, name


def _takes(model: Model, canonical: str) -> bool:
    return canonical not in NOT_INPUT and any(canonical in all_fields_of(model, each) for each in model.operations)


def _own_names(model: Model) -> dict[str, str]:
    """The model's own names of its settings, and ours for them."""
    own = {name: name for name in model.params}
    own |= {spec.field: name for name, spec in model.params.items() if spec.field}
    if model.inputs.prompt_field:
        own[model.inputs.prompt_field] = "prompt"
    return own


def _take_images(found: Translated, role: Role, name: str, value: Any) -> None:
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        index = sum(image.role == role for image in found.images)
        ours = f"images[{index}]" if role == "image" else role
        if isinstance(text, str):
            found.images.append(ReferenceImage(role, field_name=f"input.{name}", text=text))
            found.given[ours] = name
            found.given.setdefault("images" if role == "image" else role, name)
        else:
            found.faults.append(FieldFault(f"input.{name}", "wrong_type", "must be a text: a URL or a data: URL"))


def _settle_size(found: Translated, model: Model | None) -> None:
    """Replicate's words for sizes that an order has no word for."""
    members = found.members
    for name in ("aspect_ratio", "size"):
        if members.get(name) == _OWN_SIZE:
            del members[name]
    ratio = members.get("aspect_ratio")
    if ratio == _RATIO_OF_INPUT and not (model and _RATIO_OF_INPUT in _ratios(model)):
        del members["aspect_ratio"]
        found.notes.append("input.aspect_ratio match_input_image was left to the model")
    elif ratio is not None:
        for name in [name for name in ("width", "height") if name in members]:
            del members[name]
            found.notes.append(f"input.{name} was left out: it counts only with aspect_ratio custom")


def _ratios(model: Model) -> Iterator[str]:
    for rule in model.size.values() if not isinstance(model.size, str) else ():
        yield from getattr(rule, "enum", None) or ()
