"""The hosted models, and how sd-server reads a request for one. Stricter than the real one where that ignores
things silently: unknown fields and samplers, wrong types in the tag, sizes it cannot read.

Source: providers/upstreams/llamaswap/CONTRACT.md, sections 3, 4, 5 and 8.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from werkzeug.datastructures import MultiDict

from sandbox.drawing.images import Recipe, clear_where_white, dimensions
from sandbox.drawing.sizes import parse_wxh
from sandbox.emulators.llamaswap.errors import ServerError, invalid, wrong_json
from sandbox.plumbing.inputs import BadInput, image_in, image_in_base64
from sandbox.plumbing.validation import Schema, load_yaml

SIDE_MIN_PX, SIDE_MAX_PX, COUNT_MAX, STEPS_MAX = 64, 4096, 8, 100
DEFAULT_SIDE_PX, DEFAULT_SEED, DEFAULT_STEPS = 512, 42, 20
_FORMS = load_yaml(__file__, "schemas.yaml")
_SCHEMAS = {name: Schema(form) for name, form in _FORMS["routes"].items()}
SAMPLERS: list[str] = _FORMS["parts"]["sampler"]["enum"]
SCHEDULERS: list[str] = _FORMS["parts"]["scheduler"]["enum"]
_TAGS = re.compile(r"<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>")


@dataclass(frozen=True)
class Hosted:
    """One configured model. ``grid_px``: sides are rounded up to a multiple of it."""

    name: str
    grid_px: int = 16
    loads: bool = True
    survives: bool = True
    draws: bool = True


HOSTED = {name: Hosted(name, **traits) for name, traits in _FORMS["hosted"].items()}


@dataclass(frozen=True)
class ImageOrder:
    """What sd-server will draw: ``count`` images, the seed of each one more than the last one's."""

    first: Recipe
    count: int
    steps: int


def read_openai(
    document: Mapping[str, Any], hosted: Hosted, inputs: tuple[bytes, ...] = (), mask: bytes | None = None
) -> ImageOrder:
    """OpenAI's routes: settings come from the tag, and from nowhere else. Raises ServerError."""
    _check("openai", document)
    plain = {"prompt": document.get("prompt", ""), "batch_count": document.get("n", 1)}
    if size_px := parse_wxh(document.get("size", "")):
        plain |= {"width": size_px[0], "height": size_px[1]}
    return _order(plain | _picked(document, ("output_format", "output_compression")), inputs, mask, hosted)


def read_openai_edit(form: Mapping[str, str], files: MultiDict[str, Any], hosted: Hosted) -> ImageOrder:
    """An edit: the fields of a form, ``image`` once or ``image[]``, and ``mask``. Raises ServerError."""
    document = _SCHEMAS["openai"].typed(form)
    if document.get("output_format") == "webp":
        raise ServerError("invalid output_format, must be one of [png, jpeg]")
    if stray := set(files) - {"image", "image[]", "mask"}:
        raise invalid(f"unknown field {sorted(stray)[0]}")
    if len(files.getlist("image")) > 1:
        raise invalid("of several images only the first would be read")
    inputs = _images(upload.read() for upload in (*files.getlist("image"), *files.getlist("image[]")))
    if not inputs:
        raise ServerError("at least one image[] required")
    return read_openai(document, hosted, inputs, _mask(files["mask"].read() if "mask" in files else None, inputs))


def read_webui(route: str, document: Mapping[str, Any], hosted: Hosted, *, random_seed: int) -> ImageOrder:
    """txt2img or img2img: plain fields, and the tag too. Raises ServerError."""
    _check(route, document)
    if any(document.get(side, 1) <= 0 for side in ("width", "height")):
        raise ServerError("width and height must be positive")
    first = document.get("init_images", [])
    if len(first) > 1:
        raise invalid("only the first of init_images is read")
    inputs = _images([*first, *document.get("extra_images", [])])
    seed = document.get("seed", -1)
    plain = {
        "prompt": document.get("prompt", ""),
        "seed": random_seed if seed < 0 else seed,
        "batch_count": document.get("batch_size", 1),
        "sample_params": {"sample_steps": document.get("steps", DEFAULT_STEPS)},
        **_picked(document, ("width", "height")),
    }
    return _order(plain, inputs, _mask(document.get("mask"), inputs), hosted)


def read_job(document: Mapping[str, Any], hosted: Hosted) -> ImageOrder:
    """The native route: the tag's keys at the top, and the images. Raises ServerError."""
    _check("job", document)
    first = [document["init_image"]] if "init_image" in document else []
    inputs = _images([*first, *document.get("ref_images", [])])
    return _order(document, inputs, _mask(document.get("mask_image"), inputs), hosted)


def _check(form: str, document: Mapping[str, Any]) -> None:
    problem = _SCHEMAS[form].problem(document)
    if problem is None:
        return
    if problem.keyword == "additionalProperties" and len(problem.path) == 1:
        raise invalid(f"unknown field {problem.field}")
    raise invalid(f"size {problem.value}") if problem.keyword == "pattern" else wrong_json(problem.top)


def _picked(document: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: document[name] for name in names if name in document}


def read_tag(prompt: str) -> tuple[str, dict[str, Any]]:
    """The prompt without any tag, and what the first of them says. Raises ServerError."""
    found = _TAGS.search(prompt)
    if found is None:
        return prompt, {}
    try:
        told = json.loads(found[1])
    except ValueError as error:
        raise ServerError("invalid sd_cpp_extra_args") from error
    if not _SCHEMAS["tag"].accepts(told):
        raise ServerError("invalid sd_cpp_extra_args")
    return _TAGS.sub("", prompt).strip(), told


def _order(plain: Mapping[str, Any], inputs: tuple[bytes, ...], mask: bytes | None, hosted: Hosted) -> ImageOrder:
    prompt, told = read_tag(plain.get("prompt", ""))
    settings = {**plain, "prompt": prompt, **told}
    if not settings["prompt"].strip():
        raise ServerError("prompt required")
    own = dimensions(inputs[0]) if inputs else (DEFAULT_SIDE_PX, DEFAULT_SIDE_PX)
    sides = [settings.get(name, side) for name, side in zip(("width", "height"), own, strict=True)]
    if max(sides) > SIDE_MAX_PX:
        raise ServerError("invalid generation parameters")
    width_px, height_px = (-(-max(side, SIDE_MIN_PX) // hosted.grid_px) * hosted.grid_px for side in sides)
    first = Recipe(
        *(settings["prompt"], hosted.name, width_px, height_px),
        seed=settings.get("seed", DEFAULT_SEED),
        file_format=settings.get("output_format", "png"),
        quality=_clamped(settings.get("output_compression", 100), 0, 100),
        inputs=inputs,
        mask=mask,
    )
    steps = settings.get("sample_params", {}).get("sample_steps", DEFAULT_STEPS)
    count = _clamped(settings.get("batch_count", 1), 1, COUNT_MAX)
    return ImageOrder(first, count, _clamped(steps, 1, STEPS_MAX))


def _clamped(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def _images(given: Iterable[bytes | str]) -> tuple[bytes, ...]:
    return tuple(_image(each) for each in given)


def _image(given: bytes | str) -> bytes:
    """The bytes of an image, given as they are, in base64 or in a data URL. Raises ServerError."""
    try:
        return image_in(given) if isinstance(given, bytes) else image_in_base64(given.rpartition(",")[2])
    except BadInput as error:
        raise invalid("not base64" if error.why == "base64" else "an image does not decode") from error


def _mask(given: bytes | str | None, inputs: tuple[bytes, ...]) -> bytes | None:
    """sd-server's mask (grey, white is repainted) as a recipe takes it. Raises ServerError."""
    if given is None:
        return None
    blob = _image(given)
    opened = Image.open(io.BytesIO(blob))
    if opened.mode not in ("L", "1"):
        raise invalid(f"a mask is grey, not {opened.mode}")
    if not inputs or opened.size != dimensions(inputs[0]):
        raise invalid("the mask fits no image")
    return clear_where_white(blob)
