"""fal's input of a model as the fields of an order: every fault at once, and where the client said what."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.dialects.fal.failures import Where
from app.shapes.schemas.orders import OrderFields
from jobs.errors import FieldFault
from providers.orders.aliases import ALIASES

SIZES: Final[Mapping[str, str]] = {
    "square_hd": "1024x1024",
    "square": "512x512",
    "portrait_4_3": "768x1024",
    "portrait_16_9": "576x1024",
    "landscape_4_3": "1024x768",
    "landscape_16_9": "1024x576",
}
_WRITTEN_SIZE = re.compile(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")
_AUTO_SIZE = re.compile(r"auto(?:_([1-9]K))?")
# Names of fal's for fields of ours, on top of those that every route understands (providers/orders/aliases.py).
_OWN_NAMES: Final[Mapping[str, str]] = {
    "upscale_factor": "factor",
    "upscaling_factor": "factor",
    "scale": "factor",
    "expand_left": "left",
    "expand_right": "right",
    "expand_top": "top",
    "expand_bottom": "bottom",
    "number_of_images": "n",
}
_ONE_IMAGE = (
    "image_url",
    "base_image_url",
    "input_image_url",
    "reference_image_url",
    "front_image_url",
    "back_image_url",
    "left_image_url",
    "right_image_url",
)
_IMAGE_LISTS = ("image_urls", "input_image_urls", "reference_image_urls")
_MASKS = ("mask_url", "mask_image_url")
_FACES = ("swap_image_url", "face_image_url", "face_url")
# About the job and not about the image: an input cannot say them.
_NOT_INPUT = frozenset(
    {"model", "metadata", "extra", "lenient", "store", "priority", "deadline_s", "fallback_models", "webhook_url"}
)
_PLAIN = frozenset(OrderFields.model_fields) - _NOT_INPUT


@dataclass(slots=True)
class Input:
    """An input, read. ``fields`` are an order's, without what fal alone has; ``where`` says by our field names what the
    client called them, ``ignored`` what nothing here takes."""

    fields: dict[str, Any] = field(default_factory=dict, repr=False)
    where: dict[str, Where] = field(default_factory=dict)
    faults: list[FieldFault] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    data_urls: bool = False

    @property
    def has_image(self) -> bool:
        return bool(self.fields.get("images"))

    @property
    def has_mask(self) -> bool:
        return "mask" in self.fields

    def fault(self, where: Where, code: str, message: str) -> None:
        """Note a fault at a place in the request, under which :func:`where_of` finds it again."""
        name = ".".join(map(str, where[1:])) or str(where[0])
        self.where[name] = where
        self.faults.append(FieldFault(name, code, message))


def read(members: Mapping[str, Any], settings: Collection[str]) -> Input:
    """The input in a body. ``settings`` are the names of the model's own settings; members that no one knows are
    ignored, as fal does."""
    found = Input()
    for name, value in members.items():
        if value is None:
            continue
        if reader := _READERS.get(name):
            reader(found, name, value)
        else:
            _take_plain(found, name, value, settings)
    return found


def where_of(field_name: str, where: Mapping[str, Where]) -> Where:
    """Where the client said a field of ours, for an error; ``images[1]`` is the second image of all."""
    return where.get(field_name) or where.get(field_name.partition("[")[0]) or ("body", *field_name.split("."))


def _take_plain(found: Input, name: str, value: Any, settings: Collection[str]) -> None:
    ours = _OWN_NAMES.get(name) or ALIASES.get(name, name)
    if ours not in _PLAIN and ours not in settings:
        found.ignored.append(name[:100])
        return
    if ours in found.fields and found.fields[ours] != value:
        found.fault(("body", name), "conflict", f"says another {ours} than {found.where[ours][-1]}; send one of them")
        return
    found.fields[ours] = value
    found.where[ours] = ("body", name)


def _take_image(found: Input, name: str, value: Any) -> None:
    _add_image(found, ("body", name), value)


def _take_images(found: Input, name: str, value: Any) -> None:
    if not isinstance(value, list):
        found.fault(("body", name), "wrong_type", "must be a list of texts")
        return
    for at, each in enumerate(value):
        _add_image(found, ("body", name, at), each)


def _add_image(found: Input, where: Where, value: Any) -> None:
    if not isinstance(value, str):
        found.fault(where, "wrong_type", "must be a text")
        return
    images: list[str] = found.fields.setdefault("images", [])
    if value not in images:  # some clients say one image under two names
        found.where[f"images[{len(images)}]"] = where
        found.where.setdefault("images", where[:2])
        images.append(value)


def _take_mask(found: Input, name: str, value: Any) -> None:
    _take_single(found, "mask", name, value)


def _take_face(found: Input, name: str, value: Any) -> None:
    _take_single(found, "face", name, value)


def _take_single(found: Input, ours: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        found.fault(("body", name), "wrong_type", "must be a text")
        return
    found.fields[ours], found.where[ours] = value, ("body", name)


def _take_size(found: Input, name: str, value: Any) -> None:
    found.where["size"] = found.where["width"] = found.where["height"] = ("body", name)
    if isinstance(value, dict):
        _take_sides(found, name, value)
    elif not isinstance(value, str):
        found.fault(("body", name), "wrong_type", "must be a name or {width, height}")
    elif value in SIZES or _WRITTEN_SIZE.fullmatch(value):
        found.fields["size"] = SIZES.get(value, value)
    elif auto := _AUTO_SIZE.fullmatch(value):
        if auto[1]:
            found.fields["resolution"] = auto[1].lower()
    else:
        found.fault(("body", name), "not_allowed", f"must be one of {', '.join(SIZES)}, WxH or {{width, height}}")


def _take_sides(found: Input, name: str, value: Mapping[str, Any]) -> None:
    sides = {side: value.get(side) for side in ("width", "height")}
    sound = True
    for side, pixels in sides.items():
        if type(pixels) is not int or pixels < 1:
            sound = False
            missing = pixels is None
            code, message = ("required", "is required") if missing else ("wrong_type", "must be a number of pixels")
            found.fault(("body", name, side), code, message)
    if sound:  # one side alone would be found fault with a second time
        found.fields |= sides


def _take_sync_mode(found: Input, name: str, value: Any) -> None:
    if isinstance(value, bool):
        found.data_urls = value
    else:
        found.fault(("body", name), "wrong_type", "must be true or false")


def _take_safety(found: Input, name: str, value: Any) -> None:
    """Whether to look at the images is the upstream's own rule here: only the type is checked."""
    if not isinstance(value, bool):
        found.fault(("body", name), "wrong_type", "must be true or false")


_READERS: Final = {
    **dict.fromkeys(_ONE_IMAGE, _take_image),
    **dict.fromkeys(_IMAGE_LISTS, _take_images),
    **dict.fromkeys(_MASKS, _take_mask),
    **dict.fromkeys(_FACES, _take_face),
    "image_size": _take_size,
    "sync_mode": _take_sync_mode,
    "enable_safety_checker": _take_safety,
}
