"""From the size that a caller asked for to the nearest one that a model makes.

:mod:`providers.orders.size_requests` reads the caller's fields; this applies the model's rules. The result
is canonical: ``size`` ("WxH", "auto", or a ratio where the rule is a hint), ``width`` +
``height``, ``aspect_ratio``, ``resolution``, ``factor``, ``left right top bottom``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from providers.catalog.entries import Model
from providers.catalog.size_rules import (
    AspectRatioRule,
    FactorRule,
    HintRule,
    PaddingRule,
    PixelsRule,
    ResolutionRule,
    SizesRule,
)
from providers.orders.pixels import exact_ratio, limits_of, nearest_pixels
from providers.orders.problems import Problem
from providers.orders.size_requests import (
    AUTO,
    MAX_ASKED_PX,
    SIDES,
    SIZE_FIELDS,
    SizeRequest,
    class_area_px,
    parse_pixels,
    parse_ratio,
    read_size_request,
)
from providers.orders.used_sizes import MEGAPIXEL_PX, Used, in_words

# A size class covers images up to a tenth larger: 1024x1024 is "1 MP".
CLASS_TOLERANCE = 1.1
# A free ratio is sent as two whole numbers up to this.
MAX_RATIO_TERM = 64
HINT_STEP_PX = 16
MAX_CLASS_AREA_PX = MAX_ASKED_PX**2

Changed = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class SizeChoice:
    """The canonical size fields to send, and how they differ from the request.

    ``changed`` has ``{"asked": ..., "used": ...}`` for each field that was not used as given.
    ``unsupported`` names the fields that the model does not take; the caller decides what follows.
    """

    used: Used = field(default_factory=dict)
    changed: Changed = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    unsupported: tuple[str, ...] = ()


def size_fields(model: Model) -> frozenset[str]:
    """The size fields that an order for this model may have; ``"auto"`` is always accepted."""
    if isinstance(model.size, str):
        return frozenset()
    taken: set[str] = set()
    for rule in model.size.values():
        taken.update(_fields_of(rule))
    if model.size_rule(AspectRatioRule) and not model.size_rule(ResolutionRule):
        taken.discard("resolution")
    return frozenset(taken)


def choose_size(model: Model, fields: Mapping[str, Any]) -> SizeChoice:
    """Choose the size to send by the rules of the model; fields other than those of sizes are ignored."""
    given = {name: fields[name] for name in SIZE_FIELDS if fields.get(name) is not None}
    taken = size_fields(model)
    unsupported = tuple(name for name in given if name not in taken and not _is_auto(given[name]))
    request, problems = read_size_request({name: value for name, value in given.items() if name not in unsupported})
    if not problems:
        problems = _missing(model, request)
    if problems:
        return SizeChoice(problems=tuple(problems), unsupported=unsupported)
    used, problems = _answer(model, request)
    return SizeChoice(used, _changes(model, request, used), tuple(problems), unsupported)


def _fields_of(rule: object) -> Iterable[str]:
    by_shape = ("size", "width", "height", "aspect_ratio")
    match rule:
        case PixelsRule():
            return (*by_shape, "resolution")
        case SizesRule() | HintRule() | AspectRatioRule():
            return by_shape
        case ResolutionRule():
            return ("size", "width", "height", "resolution")
        case FactorRule():
            return ("factor",)
        case PaddingRule():
            return SIDES
    return ()


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() == AUTO


def _missing(model: Model, request: SizeRequest) -> list[Problem]:
    aspect, padding = model.size_rule(AspectRatioRule), model.size_rule(PaddingRule)
    if aspect and aspect.required and request.shape is None:
        return [Problem("aspect_ratio", "required", f"is needed by {model.id}, for example {aspect.default}")]
    if padding and not any(request.sides.values()):
        return [Problem("left", "required", "say how many pixels to add: left, right, top, bottom, one at least")]
    if request.resolution and not model.size_rule(ResolutionRule):
        return _class_faults(request, request.resolution)
    return []


def _class_faults(request: SizeRequest, resolution: str) -> list[Problem]:
    """A model that takes pixels can use a class, but only a known one and together with a ratio."""
    if _sane_area_px(resolution) is None:
        return [Problem("resolution", "not_allowed", "write it as a class such as 1K, 2K or 1080p")]
    if request.shape is None:
        return [Problem("aspect_ratio", "required", "is needed with a resolution for this model")]
    return []


def _sane_area_px(resolution: str) -> float | None:
    area = class_area_px(resolution)
    return area if area is not None and 1 <= area <= MAX_CLASS_AREA_PX else None


def _answer(model: Model, request: SizeRequest) -> tuple[Used, list[Problem]]:
    resolution, problems = _class_for(model.size_rule(ResolutionRule), request)
    shape = _shape_for(model, request)
    return {**shape, **resolution, **_factor_for(model, request), **_sides_for(model, request)}, problems


def _shape_for(model: Model, request: SizeRequest) -> Used:
    """Pixels, ratio or fixed size, as the model takes it; in the caller's own form if possible."""
    pixels, aspect = model.size_rule(PixelsRule), model.size_rule(AspectRatioRule)
    sizes, hint = model.size_rule(SizesRule), model.size_rule(HintRule)
    if request.shape is None:
        return _auto_for(pixels, sizes, aspect) if request.auto else {}
    if pixels and (request.pixels or not aspect):
        return _pixels_for(pixels, model, request)
    if aspect:
        return {"aspect_ratio": _nearest_ratio(aspect, request)}
    if sizes:
        return {"size": _nearest_size(sizes, request)}
    return {"size": _hinted(hint, request)} if hint else {}


def _auto_for(pixels: PixelsRule | None, sizes: SizesRule | None, aspect: AspectRatioRule | None) -> Used:
    """ "auto" itself where the upstream knows the word; elsewhere nothing is sent."""
    if (pixels and AUTO in pixels.also) or (sizes and AUTO in sizes.values):
        return {"size": AUTO}
    return {"aspect_ratio": AUTO} if aspect and AUTO in aspect.enum else {}


def _pixels_for(rule: PixelsRule, model: Model, request: SizeRequest) -> Used:
    limits = limits_of(rule, max_width=model.max_width, max_height=model.max_height)
    if request.pixels:
        width, height = nearest_pixels(*request.pixels, limits)
    else:
        area = class_area_px(request.resolution or "") or _default_area_px(rule)
        width, height = exact_ratio(request.ratio or Fraction(1), area, limits)
    if rule.fields or rule.shape:
        return {**rule.send_with, "width": width, "height": height}
    return {**rule.send_with, "size": f"{width}x{height}"}


def _default_area_px(rule: PixelsRule) -> float:
    if isinstance(rule.default, int):
        return rule.default**2
    pixels = parse_pixels(rule.default or "")
    return pixels[0] * pixels[1] if pixels else MEGAPIXEL_PX


def _nearest_ratio(rule: AspectRatioRule, request: SizeRequest) -> str:
    shape = request.shape or Fraction(1)
    if rule.range:
        ends = {end: text for text in rule.range if (end := parse_ratio(text))}
        within = min(max(shape, min(ends)), max(ends))
        if within in ends:
            return ends[within]  # 21:9 rather than 7:3, as vendors and callers write it
        free = within.limit_denominator(MAX_RATIO_TERM)
        return f"{free.numerator}:{free.denominator}"
    known = {text: ratio for text in rule.enum if (ratio := parse_ratio(text))}
    return min(known, key=lambda text: (_apart(known[text], shape), _apart(known[text], Fraction(1))))


def _nearest_size(rule: SizesRule, request: SizeRequest) -> str:
    shape = request.shape or Fraction(1)
    area = request.pixels[0] * request.pixels[1] if request.pixels else MEGAPIXEL_PX
    known = {text: pixels for text in rule.values if (pixels := parse_pixels(text))}

    def distance(text: str) -> tuple[float, float]:
        width, height = known[text]
        return _apart(Fraction(width, height), shape), _apart(Fraction(width * height), Fraction(area))

    return min(known, key=distance)


def _apart(one: Fraction, other: Fraction) -> float:
    """Distance by logarithm, rounded so that mathematically equal distances compare equal."""
    return round(abs(math.log(one / other)), 9)


def _hinted(rule: HintRule, request: SizeRequest) -> str:
    if request.pixels is None and rule.ratios:
        return request.ratio_text
    bounds = limits_of(PixelsRule(rule="pixels", multiple_of=HINT_STEP_PX, min=rule.min, max=rule.max))
    if request.pixels is None:
        width, height = exact_ratio(request.ratio or Fraction(1), MEGAPIXEL_PX, bounds)
    elif all(rule.min <= side <= rule.max for side in request.pixels):
        width, height = request.pixels
    else:
        width, height = nearest_pixels(*request.pixels, bounds)
    return f"{width}x{height}"


def _class_for(rule: ResolutionRule | None, request: SizeRequest) -> tuple[Used, list[Problem]]:
    """The size class: the named one, or the smallest that covers the request."""
    if rule is None or (request.resolution is None and request.pixels is None):
        return {}, []
    if request.resolution is None:
        return {"resolution": _covering(rule, request.pixels or (0, 0))}, []
    wanted = request.resolution.casefold().replace(" ", "")
    for label in rule.enum:
        if label.casefold().replace(" ", "") == wanted:
            return {"resolution": label}, []
    area = _sane_area_px(request.resolution)
    if area is None:
        return {}, [Problem("resolution", "not_allowed", f"must be one of {', '.join(rule.enum)}")]
    return {"resolution": _at_least(rule, area)}, []


def _covering(rule: ResolutionRule, pixels: tuple[int, int]) -> str:
    if rule.upto_edge:
        fits = (label for label, edge in rule.upto_edge.items() if max(pixels) <= edge)
        return next(fits, rule.enum[-1])
    return _at_least(rule, pixels[0] * pixels[1])


def _at_least(rule: ResolutionRule, area: float) -> str:
    by_area = sorted(rule.enum, key=lambda label: class_area_px(label) or 0)
    covers = (label for label in by_area if (class_area_px(label) or 0) * CLASS_TOLERANCE >= area)
    return next(covers, by_area[-1])


def _factor_for(model: Model, request: SizeRequest) -> Used:
    rule = model.size_rule(FactorRule)
    if rule is None or request.factor is None or not rule.enum:
        return {}
    asked = Fraction(request.factor)
    return {"factor": min(rule.enum, key=lambda each: (_apart(Fraction(each), asked), each))}


def _sides_for(model: Model, request: SizeRequest) -> Used:
    rule = model.size_rule(PaddingRule)
    return {name: min(side, rule.max) for name, side in request.sides.items()} if rule else {}


def _changes(model: Model, request: SizeRequest, used: Used) -> Changed:
    """Where what will be sent differs from the request, field by field."""
    said: dict[str, tuple[str, str]] = {}
    if request.pixels:
        said["size"] = (
            f"{request.pixels[0]}x{request.pixels[1]}",
            in_words(used, with_class=request.resolution is None),
        )
    elif request.ratio:
        said[request.ratio_field] = (request.ratio_text, in_words(used, with_class=False))
    if request.resolution and ("resolution" in used or request.pixels):
        said["resolution"] = (request.resolution, str(used.get("resolution", in_words(used, with_class=False))))
    if request.factor and (rule := model.size_rule(FactorRule)):
        said["factor"] = (str(request.factor), str(used.get("factor", rule.fixed)))
    said |= {name: (str(side), str(used[name])) for name, side in request.sides.items()}
    return {name: {"asked": asked, "used": got} for name, (asked, got) in said.items() if asked != got}
