"""What each route of the router takes, and how the provider behind it refuses everything else.

Source: providers/upstreams/huggingface/CONTRACT.md, sections 1 to 5 and 8.
"""

import re
from collections.abc import Mapping
from typing import Any

from sandbox.drawing.images import Recipe, dimensions
from sandbox.drawing.sizes import DEFAULT_PX, parse_wxh
from sandbox.emulators.huggingface.errors import RouteError
from sandbox.plumbing.inputs import BadInput, image_in_data_url
from sandbox.plumbing.validation import Schema, load_yaml

IMAGE = "image-to-image"
INPUT_TYPES = ("image/png", "image/jpeg", "image/webp")
_FORMS = load_yaml(__file__, "schemas.yaml")


def _size_fault(sides_px: list[int], value: object) -> str | None:
    """What ``x-sides`` says of a size such as ``1024x768``, each side within bounds."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
    fits = found is not None and all(sides_px[0] <= int(side) <= sides_px[1] for side in found.groups())
    return None if fits else "no size"


_SCHEMAS = {name: Schema(form, checks={"x-sides": _size_fault}) for name, form in _FORMS["routes"].items()}
# Hub model -> provider -> (the provider's own id, task).
MAPPINGS: Mapping[str, Mapping[str, tuple[str, str]]] = _FORMS["mappings"]
_REFUSALS = {
    "required": ("missing", "field required"),
    "additionalProperties": ("extra_forbidden", "extra fields are not permitted"),
    "minimum": ("greater_than_equal", "input is below the least value"),
    "maximum": ("less_than_equal", "input is above the greatest value"),
}


def read_hf_inference(model: str, document: Mapping[str, Any]) -> Recipe:
    """``inputs`` and ``parameters``. Raises RouteError."""
    if "hf-inference" not in MAPPINGS.get(model, {}):
        raise RouteError("hf-inference", 400, "Model not supported by provider hf-inference")
    _check("hf-inference", "hf-inference", document)
    parameters = document.get("parameters", {})
    return _recipe(model, document["inputs"], parameters.get("seed", 0), _sides(parameters))


def read_fal(model: str, document: Mapping[str, Any]) -> Recipe:
    """An edit has its image under both names. Raises RouteError."""
    is_edit = _task_of("fal-ai", model) == IMAGE
    plain = "fal-ai flux" if model in _FORMS["fal_flux"] else "fal-ai"
    _check("fal-ai", "fal-ai edit" if is_edit else plain, document)
    inputs: tuple[bytes, ...] = ()
    if is_edit:
        if document["image_urls"] != [document["image_url"]]:
            raise RouteError("fal-ai", 422, "image_url and image_urls differ", field="image_urls")
        inputs = (_image("fal-ai", document["image_url"]),)
    box = document.get("image_size")
    size_px = _sides(box) if box else None
    return _recipe(model, document["prompt"], document.get("seed", 0), size_px, inputs)


def read_nscale(document: Mapping[str, Any]) -> Recipe:
    """Raises RouteError."""
    _check("nscale", "nscale", document)
    _task_of("nscale", document["model"])
    size_px = parse_wxh(document.get("size", ""))
    return _recipe(document["model"], document["prompt"], document.get("seed", 0), size_px)


def read_wavespeed(model: str, document: Mapping[str, Any]) -> Recipe:
    """An edit has its image under ``image``, whose size it keeps. Raises RouteError."""
    is_edit = _task_of("wavespeed", model) == IMAGE
    _check("wavespeed", "wavespeed edit" if is_edit else "wavespeed", document)
    inputs = (_image("wavespeed", document["image"]),) if is_edit else ()
    size_px = None if is_edit else _sides(document)
    return _recipe(model, document["prompt"], document.get("seed", 0), size_px, inputs)


def _task_of(provider: str, model: str) -> str:
    for routes in MAPPINGS.values():
        known, task = routes.get(provider, ("", ""))
        if known == model:
            return task
    raise RouteError(provider, 404, f"product or path {model} not found")


def _check(route: str, form: str, document: Mapping[str, Any]) -> None:
    problem = _SCHEMAS[form].problem(document)
    if problem is not None:
        kind, text = _REFUSALS.get(problem.keyword, ("value_error", "not a valid value"))
        raise RouteError(route, 422, f"{problem.field}: {text}", kind=kind, field=problem.field)


def _sides(given: Mapping[str, int]) -> tuple[int, int]:
    return given.get("width", DEFAULT_PX[0]), given.get("height", DEFAULT_PX[1])


def _recipe(
    model: str, prompt: str, seed: int, size_px: tuple[int, int] | None, inputs: tuple[bytes, ...] = ()
) -> Recipe:
    width_px, height_px = size_px or (dimensions(inputs[0]) if inputs else DEFAULT_PX)
    return Recipe(prompt, model, width_px, height_px, seed=seed, inputs=inputs)


def _image(route: str, link: str) -> bytes:
    try:
        return image_in_data_url(link, types=INPUT_TYPES)
    except BadInput as error:
        kind = "file_download_error" if error.why == "link" else "image_load_error"
        raise RouteError(route, 422, str(error), kind=kind, field="image_url") from error
