"""The models of the Replicate twin: their input schemas, as section 9 of the contract sheet lists them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sandbox.emulators.replicate.errors import invalid

SDXL_VERSION = "39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b"
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "uri": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "uris": (list,),
}


@dataclass(frozen=True)
class Field:
    """One input. ``kind`` is a JSON type, or ``uri`` (https or data URL), or ``uris`` (a list of them)."""

    kind: str
    default: Any = None
    low: float | None = None
    high: float | None = None  # for ``uris``: the most items
    enum: tuple[str, ...] = ()
    multiple_of: int | None = None
    required: bool = False

    def schema(self, place: int) -> dict[str, Any]:
        """The property as ``openapi_schema`` shows it."""
        json_type = {"uri": "string", "uris": "array"}.get(self.kind, self.kind)
        shown: dict[str, Any] = {"type": json_type, "x-order": place}
        shown |= {"format": "uri"} if self.kind == "uri" else {}
        shown |= {"items": {"type": "string", "format": "uri"}} if self.kind == "uris" else {}
        optional = {"default": self.default, "enum": list(self.enum) or None}
        if self.kind != "uris":
            optional |= {"minimum": self.low, "maximum": self.high}
        return shown | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Model:
    """One hosted model. ``output`` is ``list`` or ``one``; ``version`` only where it must be named."""

    path: str
    fields: Mapping[str, Field]
    output: str
    version: str | None = None

    @property
    def is_official(self) -> bool:
        """Official models have a route of their own and hide their versions."""
        return self.version is None

    def openapi_schema(self) -> dict[str, Any]:
        """What ``latest_version`` holds."""
        uri = {"type": "string", "format": "uri"}
        output = {"type": "array", "items": uri} if self.output == "list" else uri
        given = {
            "type": "object",
            "required": [name for name, field in self.fields.items() if field.required],
            "properties": {name: field.schema(place) for place, (name, field) in enumerate(self.fields.items())},
        }
        return {
            "openapi": "3.0.2",
            "components": {"schemas": {"Input": given, "Output": {**output, "title": "Output"}}},
        }

    def default(self, name: str) -> Any:
        """The default of an input the model may not even have."""
        field = self.fields.get(name)
        return None if field is None else field.default


def check_input(model: Model, given: Mapping[str, Any]) -> None:
    """Every fault of an input at once. Raises Problem.

    Stricter than the real service, which ignores unknown keys for many models (section 10): a field that
    nobody reads must fail a test.
    """
    faults = [
        (name, f"{name} is required") for name, field in model.fields.items() if field.required and not given.get(name)
    ]
    for name, value in given.items():
        field = model.fields.get(name)
        if field is None:
            faults.append((name, f"Additional property {name} is not allowed"))
        elif (fault := _fault(field, value)) is not None:
            faults.append((name, fault))
    if faults:
        raise invalid(faults, place="input")


def _fault(field: Field, value: Any) -> str | None:
    if not _is_a(field.kind, value):
        return f"Invalid type. Expected: {field.kind}, given: {type(value).__name__}"
    if field.enum and value not in field.enum:
        return f"must be one of the following: {', '.join(field.enum)}"
    if field.kind == "uri":
        return _link_fault(value)
    if field.kind == "uris":
        if field.high is not None and len(value) > field.high:
            return f"Array must have at most {field.high:.0f} items"
        return next((fault for fault in map(_link_fault, value) if fault), None)
    return _range_fault(field, value) if field.kind in ("integer", "number") else None


def _is_a(kind: str, value: Any) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _range_fault(field: Field, value: float) -> str | None:
    if field.low is not None and value < field.low:
        return f"Must be greater than or equal to {field.low:g}"
    if field.high is not None and value > field.high:
        return f"Must be less than or equal to {field.high:g}"
    is_off_grid = field.multiple_of is not None and value % field.multiple_of
    return f"Must be a multiple of {field.multiple_of}" if is_off_grid else None


def _link_fault(value: object) -> str | None:
    """https, a data URL, or plain http to this very machine, where the twin's own files lie."""
    if not isinstance(value, str):
        return "Does not match format 'uri'"
    if re.match(r"data:[\w.+-]+/[\w.+-]+;base64,", value):
        return None
    parts = urlsplit(value)
    is_here = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    return None if (parts.scheme == "https" and parts.hostname) or is_here else "Does not match format 'uri'"


def model_of(path: str) -> Model | None:
    """By ``owner/name``."""
    return MODELS.get(path)


def version_of(version: str) -> Model | None:
    """By what ``POST /predictions`` takes: official ``owner/name``, ``owner/name:<hash>`` or the bare hash."""
    if model := MODELS.get(version):
        return model if model.is_official else None
    path, colon, number = version.rpartition(":")
    found = next((model for model in MODELS.values() if model.version == number), None)
    return found if found and (not colon or found.path == path) else None


_SEED = {"seed": Field("integer")}
_PROMPT = {"prompt": Field("string", required=True)}
_FORMATS, _FORMATS_PNG_JPG = ("webp", "jpg", "png"), ("jpg", "png")
_OPEN_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_OUTPUT = {
    "output_format": Field("string", "webp", enum=_FORMATS),
    "output_quality": Field("integer", 80, 0, 100),
}
_CHECKED = {"disable_safety_checker": Field("boolean", default=False)}
_OPEN = {
    **_PROMPT,
    "aspect_ratio": Field("string", "1:1", enum=_OPEN_RATIOS),
    "num_outputs": Field("integer", 1, 1, 4),
    **_SEED,
    **_OUTPUT,
    **_CHECKED,
    "go_fast": Field("boolean", default=True),
    "megapixels": Field("string", "1", enum=("1", "0.25")),
}
_STEPS_50 = Field("integer", 28, 1, 50)
_DEV = {
    **_OPEN,
    "num_inference_steps": _STEPS_50,
    "image": Field("uri"),
    "prompt_strength": Field("number", 0.8, 0, 1),
    "guidance": Field("number", 3, 0, 10),
}
_LORA = {
    **_DEV,
    "lora_weights": Field("string"),
    "lora_scale": Field("number", 1, -1, 3),
    "extra_lora": Field("string"),
    "extra_lora_scale": Field("number", 1, -1, 3),
    "hf_api_token": Field("string"),
    "civitai_api_token": Field("string"),
}
_FILL = {
    **_PROMPT,
    "image": Field("uri", required=True),
    "mask": Field("uri"),
    "guidance": Field("number", 30, 0, 100),
    "num_inference_steps": _STEPS_50,
    "num_outputs": Field("integer", 1, 1, 4),
    "megapixels": Field("string", "1", enum=("1", "0.25", "match_input")),
    **_SEED,
    **_OUTPUT,
}
_REDUX = {
    **{name: field for name, field in _DEV.items() if name != "image"},
    "redux_image": Field("uri", required=True),
}
_CONTROL = {
    **{name: field for name, field in _DEV.items() if name != "image"},
    "control_image": Field("uri", required=True),
}
_PRO_SIDE = Field("integer", None, 256, 1440, multiple_of=32)
_PRO = {
    **_PROMPT,
    "image_prompt": Field("uri"),
    "aspect_ratio": Field("string", "1:1", enum=("custom", *_OPEN_RATIOS)),
    "width": _PRO_SIDE,
    "height": _PRO_SIDE,
    "safety_tolerance": Field("integer", 2, 1, 6),
    "prompt_upsampling": Field("boolean", default=False),
    **_SEED,
    **_OUTPUT,
}
_ULTRA = {
    **_PROMPT,
    "image_prompt": Field("uri"),
    "image_prompt_strength": Field("number", 0.1),
    "aspect_ratio": Field("string", "1:1", enum=_OPEN_RATIOS),
    "raw": Field("boolean", default=False),
    "safety_tolerance": Field("integer", 2, 1, 6),
    **_SEED,
    "output_format": Field("string", "jpg", enum=_FORMATS_PNG_JPG),
}
_KONTEXT = {
    **_PROMPT,
    "input_image": Field("uri"),
    "aspect_ratio": Field("string", "match_input_image", enum=("match_input_image", *_OPEN_RATIOS)),
    "safety_tolerance": Field("integer", 2, 0, 6),
    "prompt_upsampling": Field("boolean", default=False),
    **_SEED,
    "output_format": Field("string", "png", enum=_FORMATS_PNG_JPG),
}
_FLUX_2_SIDE = Field("integer", None, 256, 2048, multiple_of=16)
_FLUX_2_PRO = {
    **_PROMPT,
    "input_images": Field("uris", high=8),
    "aspect_ratio": Field("string", "1:1", enum=("match_input_image", "custom", *_OPEN_RATIOS)),
    "resolution": Field("string", "1 MP", enum=("0.5 MP", "1 MP", "2 MP", "4 MP")),
    "width": _FLUX_2_SIDE,
    "height": _FLUX_2_SIDE,
    "safety_tolerance": Field("integer", 2, 1, 5),
    **_SEED,
    **_OUTPUT,
}
_FLUX_2_FLEX = {
    **_FLUX_2_PRO,
    "input_images": Field("uris", high=10),
    "width": Field("integer", None, 256, 2048, multiple_of=32),
    "height": Field("integer", None, 256, 2048, multiple_of=32),
    "prompt_upsampling": Field("boolean", default=True),
}
# Beyond images and output_megapixels the sheet has no list for klein; these are what its siblings take.
_KLEIN = {
    **_PROMPT,
    "images": Field("uris"),
    "aspect_ratio": Field("string", "1:1", enum=("match_input_image", *_OPEN_RATIOS)),
    "output_megapixels": Field("string", "1"),
    **_SEED,
    **_OUTPUT,
}
_SCHEDULERS = ("DDIM", "DPMSolverMultistep", "HeunDiscrete", "KarrasDPM", "K_EULER_ANCESTRAL", "K_EULER", "PNDM")
_SDXL = {
    "prompt": Field("string"),
    "negative_prompt": Field("string", ""),
    "image": Field("uri"),
    "mask": Field("uri"),
    "width": Field("integer", 1024, 1),
    "height": Field("integer", 1024, 1),
    "num_outputs": Field("integer", 1, 1, 4),
    "scheduler": Field("string", "K_EULER", enum=_SCHEDULERS),
    "num_inference_steps": Field("integer", 50, 1, 500),
    "guidance_scale": Field("number", 7.5, 1, 50),
    "prompt_strength": Field("number", 0.8, 0, 1),
    **_SEED,
    "refine": Field("string"),
    "high_noise_frac": Field("number"),
    "refine_steps": Field("integer"),
    "lora_scale": Field("number"),
    "apply_watermark": Field("boolean", default=True),
    **_CHECKED,
}


def _official(name: str, fields: Mapping[str, Field], output: str) -> Model:
    return Model(f"black-forest-labs/{name}", fields, output)


MODELS: Mapping[str, Model] = {
    model.path: model
    for model in (
        _official("flux-schnell", {**_OPEN, "num_inference_steps": Field("integer", 4, 1, 4)}, "list"),
        _official("flux-dev", _DEV, "list"),
        _official("flux-dev-lora", _LORA, "list"),
        _official("flux-fill-dev", _FILL, "list"),
        _official("flux-redux-dev", _REDUX, "list"),
        _official("flux-canny-dev", _CONTROL, "list"),
        _official("flux-depth-dev", _CONTROL, "list"),
        _official("flux-1.1-pro", _PRO, "one"),
        _official("flux-1.1-pro-ultra", _ULTRA, "one"),
        _official("flux-kontext-pro", _KONTEXT, "one"),
        _official("flux-kontext-max", _KONTEXT, "one"),
        _official("flux-2-pro", _FLUX_2_PRO, "one"),
        _official("flux-2-flex", _FLUX_2_FLEX, "one"),
        _official("flux-2-klein-4b", _KLEIN, "one"),
        Model("stability-ai/sdxl", _SDXL, "list", SDXL_VERSION),
    )
}
DEPLOYMENTS: Mapping[str, str] = {"darkroom/schnell": "black-forest-labs/flux-schnell"}
