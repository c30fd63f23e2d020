"""What each v2beta endpoint of Stability AI takes, by ``schemas.yaml``, and what it makes of it.

Source: providers/upstreams/stability/CONTRACT.md, sections 2 and 7.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import request

from sandbox.drawing.effects import Effect
from sandbox.drawing.images import NotAnImage, check, dimensions
from sandbox.emulators.field_lists import schema_of
from sandbox.plumbing.validation import Problem, Schema, load_yaml

_DATA = load_yaml(__file__, "schemas.yaml")
SEED_MAX = 4_294_967_294
RATIO_MAX = 16_384.0
# By the keyword that a part fails, some with its limit.
_SAID: Mapping[str, str] = _DATA["said"]
_BASES = ("image", "subject_image", "init_image")


class BadParts(ValueError):  # noqa: N818 - reads as what it is
    """What is wrong with a request, one sentence for each part."""

    def __init__(self, *complaints: str) -> None:
        super().__init__("; ".join(complaints))
        self.complaints = complaints


def _image_fault(bounds: Mapping[str, Any], value: object) -> str | None:
    """What is wrong with a file part; ``bounds`` are those of x-image."""
    if not isinstance(value, bytes):
        return "must be a file"
    try:
        check(value)
        short, long = sorted(dimensions(value))
    except NotAnImage:
        short = long = 0
    if not short or value.startswith(b"GIF"):
        return "must be a jpeg, png or webp image"
    (side_min, side_max), (area_min, area_max) = bounds["side_px"], bounds["area_px"]
    if not side_min <= short <= long <= side_max:
        return f"sides must be between {side_min} and {side_max} pixels"
    if not area_min <= short * long <= area_max:
        return f"total pixels must be between {area_min} and {area_max}"
    if long > bounds.get("ratio_max", RATIO_MAX) * short:
        return "the aspect ratio must be between 1:2.5 and 2.5:1"
    return None


@dataclass(frozen=True)
class Endpoint:
    """One path. ``rules`` say what parts demand of each other, ``makes`` how large the result is, or glb."""

    parts: Schema
    rules: tuple[Schema, ...]
    credits: float
    credits_by_model: Mapping[str, float] = field(default_factory=dict)
    makes: str = "input"
    is_later: bool = False


def _endpoint(takes: list[Any], rules: tuple[Any, ...] = (), **facts: Any) -> Endpoint:
    parts = Schema(schema_of(takes, _DATA["parts"]), checks={"x-image": _image_fault})
    return Endpoint(parts, tuple(map(Schema, rules)), **facts)


ENDPOINTS = {path: _endpoint(**entry) for path, entry in _DATA["endpoints"].items()}


@dataclass(frozen=True)
class Order:
    """A request that passed every rule. ``fields`` are its text parts, typed; ``files`` encoded images by part."""

    path: str
    fields: Mapping[str, Any]
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def endpoint(self) -> Endpoint:
        return ENDPOINTS[self.path]

    @property
    def prompt(self) -> str:
        """The words that say what to make; empty for an endpoint without any."""
        return str(self.fields.get("prompt") or self.fields.get("background_prompt") or "")

    @property
    def model(self) -> str:
        name = self.fields.get("model", "sd3.5-large") if self.endpoint.credits_by_model else self.path.split("/")[-1]
        return str(name)

    @property
    def credits(self) -> float:
        return self.endpoint.credits_by_model.get(self.model, self.endpoint.credits)

    @property
    def base(self) -> bytes | None:
        """The image that is worked on."""
        return next((self.files[name] for name in _BASES if name in self.files), None)


def read(path: str) -> Order:
    """The current request's parts, checked against the schema of its endpoint. Raises BadParts."""
    if request.mimetype != "multipart/form-data":
        raise BadParts("content-type: must be multipart/form-data")
    endpoint = ENDPOINTS[path]
    fields = endpoint.parts.typed(request.form)
    files = {name: upload.read() for name, upload in request.files.items()}
    given = {**fields, **files}
    complaints = [*_repeated(), *map(_complaint, endpoint.parts.problems(given))]
    if not complaints:
        complaints = [_complaint(problem) for rule in endpoint.rules for problem in rule.problems(given)]
    if complaints:
        raise BadParts(*complaints)
    return Order(path, fields, files)


def _repeated() -> Iterator[str]:
    for source in (request.form, request.files):
        yield from (f"{name}: must be given once" for name in source if len(source.getlist(name)) > 1)


def _complaint(problem: Problem) -> str:
    said = problem.schema.get("x-complaint") or _said(problem)
    return f"{problem.field}: {said}" if problem.path else said


def _said(problem: Problem) -> str:
    if problem.keyword == "type" and isinstance(problem.value, bytes):
        return "must not be a file"
    said = _SAID.get(f"{problem.keyword} {problem.limit}") or _SAID.get(problem.keyword, problem.message)
    listed = ", ".join(problem.limit) if problem.keyword == "enum" else ""
    return said.format(**{**problem.schema, "listed": listed})


# ---------------------------------------------------------------- what is done, and the size of the result

_EFFECTS: Mapping[str, Effect] = {
    "stable-image/edit/outpaint": "outpaint",
    "stable-image/edit/remove-background": "cut_out",
    "stable-image/edit/replace-background-and-relight": "new_background",
    "stable-image/upscale/fast": "enlarge",
    "stable-image/upscale/conservative": "enlarge",
    "stable-image/upscale/creative": "enlarge",
}


def effect_of(order: Order) -> Effect:
    """What the endpoint does to its image, other than repaint it."""
    return _EFFECTS.get(order.path, "")


def corner_px(order: Order) -> tuple[int, int] | None:
    """Where outpaint puts the image on its canvas."""
    if order.endpoint.makes != "padded":
        return None
    return order.fields.get("left", 0), order.fields.get("up", 0)


def size_px(order: Order) -> tuple[int, int]:
    """Width and height of the result of an image endpoint."""
    width_px, height_px = _DATA["pixels"][order.fields.get("aspect_ratio", "1:1")]
    match order.endpoint.makes:
        case "ratio":
            return width_px, height_px
        case "ratio_large":
            return round(width_px * 1.5**0.5 / 64) * 64, round(height_px * 1.5**0.5 / 64) * 64
    return _from_input(order, *(dimensions(order.base) if order.base else (1024, 1024)))


def _from_input(order: Order, width_px: int, height_px: int) -> tuple[int, int]:
    match order.endpoint.makes:
        case "padded":
            left, right, up, down = (order.fields.get(side, 0) for side in ("left", "right", "up", "down"))
            return width_px + left + right, height_px + up + down
        case "x4":
            return width_px * 4, height_px * 4
        case "4mp":
            return _of_area(width_px, height_px, 2048 * 2048)
        case "4k":
            return _of_area(width_px, height_px, 3840 * 2160)
    return width_px, height_px


def _of_area(width_px: int, height_px: int, area_px: int) -> tuple[int, int]:
    scale = (area_px / (width_px * height_px)) ** 0.5
    return round(width_px * scale), round(height_px * scale)
