"""Listed inputs that say a size, as the size rules of a catalogue entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from providers.listing.listed import ListedField

_PIXELS: Final = re.compile(r"(\d{2,5})([*x])(\d{2,5})")
_RATIO: Final = re.compile(r"\d{1,3}(\.\d+)?:\d{1,3}(\.\d+)?")
_CLASS: Final = re.compile(r"(?i)\d+(\.\d+)?k|\d{3,4}p")
# Where the upstream states no sides: those of most of its models.
MIN_PX, MAX_PX, STEP_PX = 256, 1536, 8
_WORDS: Final = frozenset({"auto", "match_input_image"})


def size_rules(fields: Mapping[str, ListedField]) -> tuple[dict[str, Any], frozenset[str]]:
    """The size rules that the fields make, by the name of the field; and the fields that they use."""
    rules: dict[str, Any] = {}
    if {"width", "height"} <= fields.keys() and all(fields[side].kind == "integer" for side in ("width", "height")):
        rules["size"] = _sides(fields["width"], fields["height"])
        return rules, frozenset({"width", "height"})
    for name in ("size", "image_size", "aspect_ratio"):
        each = fields.get(name)
        if each is not None and (rule := _shape(name, each)) and not _says_shape(rules):
            rules["aspect_ratio" if rule["rule"] == "aspect_ratio" else "size"] = rule
    for name in ("resolution", "target_resolution"):
        each = fields.get(name)
        if each is not None and "resolution" not in rules and (rule := _class(name, each)):
            rules["resolution"] = rule
    used = {rule.get("field") for rule in rules.values()}
    return rules, frozenset(name for name in used if name)


def _says_shape(rules: Mapping[str, Any]) -> bool:
    return bool(rules)


def _sides(width: ListedField, height: ListedField) -> dict[str, Any]:
    low = max(width.low or MIN_PX, height.low or MIN_PX)
    high = min(width.high or MAX_PX, height.high or MAX_PX)
    return {"rule": "pixels", "fields": ["width", "height"], "min": int(low), "max": int(high), "multiple_of": STEP_PX}


def _shape(name: str, each: ListedField) -> dict[str, Any] | None:
    """A field that says pixels or a ratio; None for one that says something else."""
    if each.kind != "string":
        return None
    if each.enum:
        return _listed_shape(name, each)
    return _free_pixels(name, each) if name == "size" else None


def _listed_shape(name: str, each: ListedField) -> dict[str, Any] | None:
    choices = [str(choice) for choice in each.enum]
    exact = [choice for choice in choices if _PIXELS.fullmatch(choice)]
    if exact:
        values = [choice.replace("*", "x") for choice in choices if choice in exact or choice == "auto"]
        rule: dict[str, Any] = {"rule": "sizes", "field": name, "values": values}
        if any("*" in choice for choice in exact):
            rule["format"] = "W*H"
        return rule | _default(each, values)
    ratios = [choice for choice in choices if _RATIO.fullmatch(choice) or choice in _WORDS]
    if not any(_RATIO.fullmatch(choice) for choice in ratios):
        return None
    return {"rule": "aspect_ratio", "field": name, "enum": ratios} | _default(each, ratios)


def _free_pixels(name: str, each: ListedField) -> dict[str, Any]:
    found = _PIXELS.fullmatch(each.default) if isinstance(each.default, str) else None
    sides = [int(found[1]), int(found[3])] if found else []
    low = int(each.low) if each.low is not None else min([MIN_PX, *sides])
    high = int(each.high) if each.high is not None else max([MAX_PX, *sides])
    form = "WxH" if found and found[2] == "x" else "W*H"
    rule: dict[str, Any] = {"rule": "pixels", "field": name, "format": form, "min": low, "max": high}
    return {**rule, "multiple_of": STEP_PX, **({"default": f"{found[1]}x{found[3]}"} if found else {})}


def _class(name: str, each: ListedField) -> dict[str, Any] | None:
    choices = [str(choice) for choice in each.enum]
    if not choices or not all(_CLASS.fullmatch(choice) for choice in choices):
        return None
    return {"rule": "resolution", "field": name, "enum": choices} | _default(each, choices)


def _default(each: ListedField, choices: list[str]) -> dict[str, Any]:
    value = str(each.default).replace("*", "x") if each.default is not None else None
    return {"default": value} if value in choices else {}
