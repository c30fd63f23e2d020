"""What each route of the router takes, and how the provider behind it refuses everything else. Stricter than the
real ones where those ignore unknown fields.

Source: upstreams sheet "Hugging Face", sections 1 to 5 and 8.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Response, jsonify

from sandbox.drawing.images import NotAnImage, check, dimensions
from sandbox.drawing.sizes import DEFAULT_PX, parse_wxh
from sandbox.markers import Fault

TEXT, IMAGE = "text-to-image", "image-to-image"
SIDE_MAX_PX = 2048
# Hub model -> provider -> (the provider's own id, task). The last two ids are the sandbox's own invention.
MAPPINGS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "stabilityai/stable-diffusion-3-medium-diffusers": {
        "hf-inference": ("stabilityai/stable-diffusion-3-medium-diffusers", TEXT),
    },
    "black-forest-labs/FLUX.1-dev": {
        "fal-ai": ("fal-ai/flux/dev", TEXT),
        "wavespeed": ("wavespeed-ai/flux-dev", TEXT),
    },
    "black-forest-labs/FLUX.1-schnell": {"nscale": ("black-forest-labs/FLUX.1-schnell", TEXT)},
    "black-forest-labs/FLUX.2-klein-9B": {"fal-ai": ("fal-ai/flux-2/klein/9b/edit", IMAGE)},
    "black-forest-labs/FLUX.2-dev": {"wavespeed": ("wavespeed-ai/flux-2-dev/edit", IMAGE)},
    "black-forest-labs/FLUX.1-Krea-dev": {"fal-ai": ("fal-ai/sandbox-krea", TEXT)},
    "Qwen/Qwen-Image": {"fal-ai": ("fal-ai/sandbox-qwen-image", TEXT)},
}


class RouteError(Exception):
    """A refusal in the shape of whoever speaks: router, fal-ai, nscale or wavespeed."""

    def __init__(self, route: str, status: int, message: str, *, kind: str = "value_error", field: str = "") -> None:
        super().__init__(message)
        self.route, self.status, self.kind, self.field = route, status, kind, field

    def response(self) -> Response:
        """The answer."""
        answer = jsonify(self._document())
        answer.status_code = self.status
        return answer

    def _document(self) -> dict[str, object]:
        message = str(self)
        match self.route:
            case "fal-ai":
                return {"detail": [{"loc": ["body", self.field], "msg": message, "type": self.kind}]}
            case "wavespeed":
                return {"code": self.status, "message": message}
            case "nscale":
                return {"error": {"message": message, "type": "invalid_request_error"}}
        return {"error": message}


def for_fault(route: str) -> Callable[[Fault], Response]:
    """Writes a scripted refusal, an empty purse or a bare status as the route would."""

    def error_for(fault: Fault) -> Response:
        if fault.name == "refuse":
            return _content_refused(route).response()
        if fault.name == "quota":
            return no_credits().response()
        return _bare(route, fault)

    return error_for


def _content_refused(route: str) -> RouteError:
    if route == "fal-ai":
        return RouteError(route, 422, "The content was flagged.", kind="content_policy_violation", field="prompt")
    return RouteError(route, 400, "The prompt was blocked by the content policy.")


def no_credits() -> RouteError:
    """402 of the router."""
    text = "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get more."
    return RouteError("router", 402, text)


def _bare(route: str, fault: Fault) -> Response:
    status = fault.status or 503
    if status in (502, 504) or status >= 520:
        return Response("<html><body>gateway</body></html>", status=status, content_type="text/html")
    texts = {401: "Invalid username or password.", 404: "Not Found", 429: "Too Many Requests"}
    answer = RouteError("router", status, texts.get(status, f"HTTP {status}")).response()
    if status == 503 and route == "hf-inference":
        answer = jsonify(error="Model sandbox is currently loading", estimated_time=20.0)
        answer.status_code = status
    if status == 429 and "retry_after" not in fault.options:
        answer.headers["RateLimit"] = '"api";r=0;t=55'
        answer.headers["RateLimit-Policy"] = '"fixed window";"api";q=500;w=300'
    return answer


# ---------------------------------------------------------------- fields

Fits = Callable[[Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_one(value: object) -> bool:
    return value == 1 and _is_whole(value)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 64 <= value <= SIDE_MAX_PX


def _is_box(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"width", "height"} and all(map(_is_side, value.values()))


def _is_wxh(value: object) -> bool:
    return (
        isinstance(value, str) and bool(re.fullmatch(r"\d+x\d+", value)) and all(map(_is_side, parse_wxh(value) or ()))
    )


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_format(value: object) -> bool:
    return value in ("png", "jpeg", "webp")


_COMMON: Mapping[str, Fits] = {
    "prompt": _is_text,
    "seed": _is_whole,
    "negative_prompt": _is_text,
    "guidance_scale": _is_number,
}
_STEPS: Mapping[str, Fits] = {"num_inference_steps": _is_whole}
_HF_PARAMETERS: Mapping[str, Fits] = {
    "width": _is_side,
    "height": _is_side,
    "scheduler": _is_text,
    **_STEPS,
    **{name: fits for name, fits in _COMMON.items() if name != "prompt"},
}
_FAL: Mapping[str, Fits] = {
    **_COMMON,
    **_STEPS,
    "image_size": _is_box,
    "loras": _is_list,
    "num_images": _is_one,
    "output_format": _is_format,
}
_FAL_EDIT: Mapping[str, Fits] = {**_FAL, "image_url": _is_text, "image_urls": _is_list}
# nscale takes no steps and no cfg_scale.
_NSCALE: Mapping[str, Fits] = {
    **_COMMON,
    "model": _is_text,
    "response_format": lambda value: value == "b64_json",
    "size": _is_wxh,
    "n": _is_one,
}
_WAVESPEED: Mapping[str, Fits] = {
    **_COMMON,
    **_STEPS,
    "width": _is_side,
    "height": _is_side,
    "output_format": _is_format,
}
_WAVESPEED_EDIT: Mapping[str, Fits] = {**_WAVESPEED, "image": _is_text, "target_size": _is_box}


@dataclass(frozen=True)
class ImageOrder:
    """What will be drawn."""

    model: str
    prompt: str
    size_px: tuple[int, int]
    seed: int
    inputs: tuple[bytes, ...] = field(default=(), repr=False)


def read_hf_inference(model: str, document: Mapping[str, Any]) -> ImageOrder:
    """``inputs`` and ``parameters``. Raises RouteError."""
    if MAPPINGS.get(model, {}).get("hf-inference") is None:
        raise RouteError("hf-inference", 400, "Model not supported by provider hf-inference")
    parameters = document.get("parameters", {})
    known: Mapping[str, Fits] = {"inputs": _is_text, "parameters": lambda value: isinstance(value, dict)}
    _check("hf-inference", document, known, ("inputs",))
    _check("hf-inference", parameters, _HF_PARAMETERS, ())
    size = (parameters.get("width", DEFAULT_PX[0]), parameters.get("height", DEFAULT_PX[1]))
    return ImageOrder(model, document["inputs"], size, parameters.get("seed", 0))


def read_fal(model: str, document: Mapping[str, Any]) -> ImageOrder:
    """An edit has its picture under both names. Raises RouteError."""
    if _task_of("fal-ai", model) == TEXT:
        _check("fal-ai", document, _FAL, ("prompt",))
        return _order("fal-ai", model, document, _box(document), ())
    _check("fal-ai", document, _FAL_EDIT, ("prompt", "image_url", "image_urls"))
    if document["image_urls"] != [document["image_url"]]:
        raise RouteError("fal-ai", 422, "image_url and image_urls differ", field="image_urls")
    return _order("fal-ai", model, document, _box(document), (document["image_url"],))


def read_nscale(document: Mapping[str, Any]) -> ImageOrder:
    """Raises RouteError."""
    _check("nscale", document, _NSCALE, ("prompt", "model", "response_format"))
    _task_of("nscale", document["model"])
    size = parse_wxh(document.get("size", "")) or DEFAULT_PX
    return _order("nscale", document["model"], document, size, ())


def read_wavespeed(model: str, document: Mapping[str, Any]) -> ImageOrder:
    """An edit has its picture under ``image``. Raises RouteError."""
    if _task_of("wavespeed", model) == TEXT:
        _check("wavespeed", document, _WAVESPEED, ("prompt",))
        size = (document.get("width", DEFAULT_PX[0]), document.get("height", DEFAULT_PX[1]))
        return _order("wavespeed", model, document, size, ())
    _check("wavespeed", document, _WAVESPEED_EDIT, ("prompt", "image"))
    return _order("wavespeed", model, document, None, (document["image"],))


def _task_of(provider: str, model: str) -> str:
    for routes in MAPPINGS.values():
        known, task = routes.get(provider, ("", ""))
        if known == model:
            return task
    raise RouteError(provider, 404, f"product or path {model} not found")


def _check(route: str, document: object, known: Mapping[str, Fits], required: tuple[str, ...]) -> None:
    if not isinstance(document, dict):
        raise RouteError(route, 422, "Input should be an object")
    for name in required:
        if name not in document:
            raise RouteError(route, 422, f"{name}: field required", kind="missing", field=name)
    for name, value in document.items():
        if name not in known:
            raise RouteError(route, 422, f"{name}: extra fields are not permitted", kind="extra_forbidden", field=name)
        if value is None or not known[name](value):
            raise RouteError(route, 422, f"{name}: not a valid value", field=name)


def _box(document: Mapping[str, Any]) -> tuple[int, int] | None:
    box = document.get("image_size")
    return (box["width"], box["height"]) if box else None


def _order(
    route: str, model: str, document: Mapping[str, Any], size_px: tuple[int, int] | None, links: tuple[str, ...]
) -> ImageOrder:
    inputs = tuple(_picture(route, link) for link in links)
    own = dimensions(inputs[0]) if inputs else DEFAULT_PX
    return ImageOrder(model, document["prompt"], size_px or own, document.get("seed", 0), inputs)


def _picture(route: str, link: str) -> bytes:
    """The picture of a data URI; links in requests are never fetched."""
    head, _, encoded = link.partition(",")
    if not re.fullmatch(r"data:image/(png|jpeg|webp);base64", head):
        raise RouteError(route, 422, "not a data URI of an image", kind="file_download_error", field="image_url")
    try:
        blob = base64.b64decode(encoded, validate=True)
        check(blob)
    except (binascii.Error, NotAnImage) as error:
        raise RouteError(route, 422, "the image cannot be read", kind="image_load_error", field="image_url") from error
    return blob
