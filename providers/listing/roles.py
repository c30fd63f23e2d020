"""What a listed model is for, and which of its inputs hold the prompt, images, a mask and a face."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from providers.listing.listed import ListedField, ListedModel, NotImportableError

MAX_IMAGES: Final = 16
_IMAGE: Final = re.compile(r"(^|_)(image|images|img)(_|$)")
_NO_IMAGE: Final = re.compile(
    r"(size|format|strength|seed|count|num|enable|search|_id|scale|type|quality)(_|$)|^(num|max)_"
)
_MASKS: Final = ("mask_image", "mask", "mask_images")
_FACES: Final = ("face_image", "source_image")
_BASES: Final = ("image", "images", "input_image", "input_images", "image_url", "image_input", "target_image")


@dataclass(frozen=True, slots=True)
class Use:
    """The operations of a model, and what comes out."""

    operation: str
    output: Literal["image", "model_3d", "text"] = "image"
    also: tuple[str, ...] = ()

    @property
    def size_without_rule(self) -> str:
        """What decides the size where no input does."""
        if self.output != "image":
            return "none"
        return "provider_default" if self.operation == "generate" else "follows_input"


def use_of(listed: ListedModel) -> Use | None:
    """What a model is for, by the upstream's word for its kind and by its inputs; None where we have no operation."""
    fields = listed.fields or {}
    images, mask = image_names(fields), mask_name(fields)
    use = _by_kind(listed, has_images=bool(images), face=face_name(fields, listed.required))
    if use is None or use.output != "image":
        return use
    if mask is not None and use.operation in {"generate", "edit"} and images:
        needed = mask in listed.required
        return replace(use, operation="inpaint" if needed else use.operation, also=() if needed else ("inpaint",))
    return use


def _by_kind(listed: ListedModel, *, has_images: bool, face: str | None) -> Use | None:
    name, kind = listed.name, listed.kind
    if kind in {"text-to-image", "image-to-image", "replicate"}:
        return _drawing(listed, has_images=has_images)
    if kind == "portrait-transfer" and has_images:
        return Use("edit" if face is None else "face_swap")
    known = {
        "upscaler": Use("upscale") if has_images else None,
        "image-to-3d": Use("sketch_to_3d" if "sketch" in name else "image_to_3d", "model_3d"),
        "text-to-3d": Use("text_to_3d", "model_3d"),
        "image-to-text": Use("caption", "text") if has_images else None,
        "ai-remover": Use(_removed(name)),
    }
    return known.get(kind)


def _drawing(listed: ListedModel, *, has_images: bool) -> Use:
    """What a model for images does: with an image that it needs, with one that it may have, or from words alone."""
    if any(each in listed.required for each in image_names(listed.fields or {})):
        return Use("upscale" if "upscale" in listed.name else "edit")
    if listed.kind == "image-to-image":
        return Use("edit" if has_images else "generate")
    return Use("generate", also=("edit",) if has_images else ())


def _removed(name: str) -> str:
    if "background" in name:
        return "remove_background"
    return "remove_text" if "text" in name or "watermark" in name else "erase"


# ---------------------------------------------------------------- inputs


def image_names(fields: Mapping[str, ListedField]) -> list[str]:
    """The inputs that hold one image or a list of them, in their order; masks are none."""
    return [name for name, each in fields.items() if _holds_images(name, each)]


def mask_name(fields: Mapping[str, ListedField]) -> str | None:
    """The input that holds the mask."""
    return next((name for name in _MASKS if name in fields), None)


def face_name(fields: Mapping[str, ListedField], required: frozenset[str]) -> str | None:
    """The input whose face is put into the other image."""
    base = any(name in required for name in _BASES)
    return next((name for name in _FACES if name in fields and name in required and base), None)


def _holds_images(name: str, each: ListedField) -> bool:
    if name in _MASKS or each.enum or _NO_IMAGE.search(name):
        return False
    is_text = each.kind == "string" or (each.kind == "array" and each.of in {"string", None})
    return is_text and bool(each.is_link or _IMAGE.search(name)) and "video" not in name and "audio" not in name


def inputs_of(
    fields: Mapping[str, ListedField], required: frozenset[str], use: Use
) -> tuple[dict[str, Any], frozenset[str]]:
    """The ``inputs`` of an entry, and the fields that they use. Raises: NotImportableError."""
    face = face_name(fields, required) if use.operation == "face_swap" else None
    names = _one_list(image_names(fields), fields, required, face)
    mask = mask_name(fields) if names else None
    inputs: dict[str, Any] = {"prompt": _need("prompt", fields, required)}
    inputs["images"] = _count(names, fields, required, face)
    if names:
        inputs["image_fields"] = {name: _image_field(fields[name], name in required) for name in names}
    if face is not None:
        inputs["roles"] = {"base": _base(names, face), "face": face}
    elif len(names) > 1:
        inputs["roles"] = {"base": _base(names, None)}
    inputs["mask"] = "none" if mask is None else ("required" if mask in required else "optional")
    if mask is not None:
        inputs |= {"mask_field": mask, "mask_polarity": "white_edits"}
        if fields[mask].kind == "array":
            inputs["mask_list_max"] = fields[mask].most or 1
    if names:
        inputs["image_encoding"] = ["https_url"] if _wants_links(names) else ["https_url", "data_uri"]
    return inputs, frozenset({*names, *([mask] if mask else []), *(["prompt"] if "prompt" in fields else [])})


def _wants_links(names: list[str]) -> bool:
    return any(name.endswith(("_url", "_urls")) for name in names)


def _need(name: str, fields: Mapping[str, ListedField], required: frozenset[str]) -> str:
    return "none" if name not in fields else ("required" if name in required else "optional")


def _base(names: list[str], face: str | None) -> str:
    own = [name for name in names if name != face]
    return next((name for name in _BASES if name in own), own[0])


def _one_list(
    names: list[str], fields: Mapping[str, ListedField], required: frozenset[str], face: str | None
) -> list[str]:
    """The image fields that an order's images can be divided among: a list takes all that are left, so there is one.

    Raises: NotImportableError where the upstream needs several.
    """
    lists = [name for name in names if fields[name].kind == "array" and name != face]
    lists.sort(key=lambda name: name not in required)
    if len([name for name in lists if name in required]) > 1:
        raise NotImportableError(f"it needs several lists of images: {', '.join(lists)}")
    return [name for name in names if name not in lists[1:]]


def _count(
    names: list[str], fields: Mapping[str, ListedField], required: frozenset[str], face: str | None
) -> dict[str, int]:
    def is_list(name: str) -> bool:
        return fields[name].kind == "array" and name != face

    fewest = sum((fields[name].fewest or 1) if is_list(name) else 1 for name in names if name in required)
    most = sum((fields[name].most or MAX_IMAGES) if is_list(name) else 1 for name in names)
    return {"min": fewest, "max": max(fewest, min(most, MAX_IMAGES))}


def _image_field(each: ListedField, required: bool) -> dict[str, Any]:
    if each.kind != "array":
        return {"list": False, "required": required}
    bounds = {key: value for key, value in (("min", each.fewest), ("max", each.most)) if value is not None}
    return {"list": True, "required": required, **bounds}
