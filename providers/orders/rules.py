"""Checking a raw order against a model, before anything is charged or sent.

The caller's fields go in; a canonical order comes out, or every fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.catalog.entries import Model, Need, spoken
from providers.orders.near import did_you_mean
from providers.orders.needs import face_need, image_range, mask_need, max_prompt_chars, most_results, places
from providers.orders.params import Findings, check_params, whole
from providers.orders.problems import OrderProblems, Problem
from providers.orders.size_requests import AUTO, SIZE_FIELDS
from providers.orders.sizes import choose_size, size_fields
from providers.orders.texts import clean_text

__all__ = ["CheckedOrder", "OrderProblems", "Problem", "check_order"]

# A body may hold thousands of unknown fields; the answer names a few.
MAX_STRAYS_NAMED = 20
MAX_NAME_CHARS = 64
WHOLE_FIELDS = frozenset({"n", "width", "height", "factor", "left", "right", "top", "bottom"})


@dataclass(frozen=True, slots=True)
class CheckedOrder:
    """An order in canonical form. ``size`` and ``params`` contain only what will be sent.

    ``normalised`` maps a field to ``{"asked": ..., "used": ...}`` where the two differ; ``dropped``
    names the fields left out under ``lenient``. ``image_count`` includes the face, not the mask.
    ``input_px``: width and height of those images, once they are known.
    """

    operation: str
    prompt: str | None
    n: int
    size: dict[str, str | int]
    params: dict[str, Any]
    normalised: dict[str, dict[str, str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    image_count: int = 0
    has_mask: bool = False
    input_px: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Images:
    count: int
    mask: bool
    face: bool

    @property
    def total(self) -> int:
        return self.count + self.face


def check_order(
    model: Model,
    operation: str,
    fields: Mapping[str, Any],
    *,
    image_count: int = 0,
    has_mask: bool = False,
    has_face: bool = False,
    lenient: bool = False,
) -> CheckedOrder:
    """Check the native fields of an order; a field that is None counts as left out.

    ``image_count`` is the number of reference images, without mask and face. ``lenient`` drops settings
    that the model does not take, with a warning, instead of refusing them; images are never dropped.
    Raises: OrderProblems naming every fault.
    """
    found = Findings()
    if operation not in model.operations:
        can = ", ".join(sorted(map(spoken, model.operations)))
        found.fault("operation", "not_supported", f"{model.id} cannot {spoken(operation)}; it can: {can}")
        operation = model.operation  # go on, to find every other fault too
    said = {name: value for name, value in fields.items() if value is not None}
    given = _taken(_defaults(model, operation, said) | said, model, operation, lenient, found)
    prompt = _prompt(model, given, found)
    count = _count(model, given, found)
    params = check_params(model, operation, given, has_images=image_count > 0, found=found)
    size = choose_size(model, given)
    found.problems += size.problems
    found.normalised |= size.changed
    images = _Images(image_count, has_mask, has_face)
    if not any(problem.field == "operation" for problem in found.problems):
        _check_images(model, operation, images, found)
        _check_alternatives(model, prompt, images, found)
    if found.problems:
        raise OrderProblems(found.problems)
    return CheckedOrder(
        operation=operation,
        prompt=prompt,
        n=count,
        size=size.used,
        params=params,
        normalised=found.normalised,
        warnings=tuple(found.warnings),
        dropped=tuple(found.dropped),
        image_count=images.total,
        has_mask=has_mask,
    )


def _defaults(model: Model, operation: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's entry sends for fields that the order leaves out; a size only where nothing is said of one."""
    takes = {*model.order_params(operation), *size_fields(model)}
    if any(name in said for name in SIZE_FIELDS):
        takes -= set(SIZE_FIELDS)
    return {name: value for name, value in model.order_defaults.get(operation, {}).items() if name in takes}


def _taken(given: dict[str, Any], model: Model, operation: str, lenient: bool, found: Findings) -> dict[str, Any]:
    """The fields that the model takes; the others are faults, or dropped."""
    names = fields_of(model, operation)
    strays = [name for name, value in given.items() if name not in names and not _says_nothing(name, value)]
    for name in (stray[:MAX_NAME_CHARS] for stray in strays[:MAX_STRAYS_NAMED]):
        if lenient:
            found.dropped.append(name)
            found.warnings.append(f"{name} was left out: {model.id} does not take it")
        else:
            takes = sorted(all_fields_of(model, operation))
            near = did_you_mean(name, takes)
            found.fault(name, "not_supported", f"{model.id} does not take it{near}; it takes: {', '.join(takes)}")
    return {
        name: value for name, value in given.items() if name in names or (name in SIZE_FIELDS and name not in strays)
    }


def fields_of(model: Model, operation: str) -> set[str]:
    """The fields, images aside, that a model takes for an operation."""
    names = {"prompt", "n", *model.order_params(operation), *size_fields(model)}
    return names - {"prompt"} if model.inputs.prompt == "none" else names


def all_fields_of(model: Model, operation: str) -> set[str]:
    """The fields that a model takes for an operation, images among them."""
    return {*fields_of(model, operation), *_image_fields(model, operation)}


def _image_fields(model: Model, operation: str) -> Iterator[str]:
    """Named too when a caller writes "image" instead of "images"."""
    if image_range(model, operation)[1]:
        yield "images"
    if mask_need(model, operation) != "none":
        yield "mask"
    if face_need(model) != "none":
        yield "face"


def _says_nothing(name: str, value: object) -> bool:
    """Whether a field asks for nothing: an empty prompt or an automatic size."""
    if not isinstance(value, str):
        return False
    word = value.strip().casefold()
    return (name == "prompt" and not word) or (name in {"size", "aspect_ratio"} and word == AUTO)


def _prompt(model: Model, given: Mapping[str, Any], found: Findings) -> str | None:
    raw = given.get("prompt", "")
    if not isinstance(raw, str):
        found.fault("prompt", "wrong_type", "must be a text")
        return None
    if len(raw) > max_prompt_chars(model):
        found.fault("prompt", "too_long", f"may have at most {max_prompt_chars(model)} characters")
        return None
    prompt = clean_text(raw)
    if not prompt and model.inputs.prompt == "required":
        found.fault("prompt", "required", "must say what the image shall show")
    return prompt or None


def _count(model: Model, given: Mapping[str, Any], found: Findings) -> int:
    count, most = whole(given.get("n", 1)), most_results(model)
    if count is None:
        found.fault("n", "wrong_type", "must be a whole number")
    elif not 1 <= count <= most:
        found.fault("n", "out_of_range", f"must be 1 to {most}" if most > 1 else f"{model.id} makes one text, n is 1")
    return count or 1


def _check_images(model: Model, operation: str, images: _Images, found: Findings) -> None:
    """Find missing and excess images, mask and face."""
    fewest, most = image_range(model, operation)
    face = face_need(model) != "none"
    if images.total and not most:
        found.fault("images", "not_supported", f"{model.id} takes no image to {spoken(operation)}")
    elif images.total > most:
        limit = "" if fewest == most else "at most "
        words = f"{model.id} takes {limit}{_so_many(most - face, model)}, {images.count} given"
        found.fault("images", "too_many", words)
    elif images.count + face < fewest:  # a missing face is reported below
        few = "too_few" if images.count else "required"
        least = "" if fewest == most else "at least "
        words = f"{model.id} needs {least}{_so_many(fewest - face, model)}, {images.count or 'none'} given"
        found.fault("images", few, words)
    _check_extra("mask", mask_need(model, operation), images.mask, f"to {spoken(operation)} with {model.id}", found)
    _check_extra("face", face_need(model), images.face, f"by {model.id}: whose face goes into images[0]", found)


def _so_many(count: int, model: Model) -> str:
    order = f" ({', '.join(places(model))})" if places(model) else ""
    besides = " in addition to the face" if face_need(model) != "none" else ""
    return f"{count} image{'' if count == 1 else 's'}{order}{besides}"


def _check_extra(name: str, need: Need, given: bool, where: str, found: Findings) -> None:
    if given and need == "none":
        found.fault(name, "not_supported", f"is not taken {where}")
    elif need == "required" and not given:
        found.fault(name, "required", f"is needed {where}")


def _check_alternatives(model: Model, prompt: str | None, images: _Images, found: Findings) -> None:
    present = {"prompt": bool(prompt), "mask": images.mask, "second_image": images.count > 1}
    wanted = model.inputs.needs_one_of
    if wanted and not any(present[name] for name in wanted):
        words = " or a ".join(name.replace("_", " ") for name in wanted)
        found.fault(wanted[0], "required", f"{model.id} needs a {words}")
