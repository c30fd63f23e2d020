"""How sd-server reads its requests. Stricter than the real one where that ignores things silently: unknown
fields and samplers, wrong types in the tag, sizes it cannot read.

Source: upstreams sheet "llama-swap", sections 3, 4, 5 and 8.
"""

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageOps

from sandbox.drawing.images import NotAnImage, check, dimensions
from sandbox.drawing.sizes import parse_wxh
from sandbox.emulators.llamaswap.errors import ServerError, wrong_json

SIDE_MIN_PX, SIDE_MAX_PX, COUNT_MAX, STEPS_MAX = 64, 4096, 8, 100
DEFAULT_SIDE_PX, DEFAULT_SEED = 512, 42
SAMPLERS = frozenset({
    "euler", "euler_a", "heun", "dpm2", "dpm++2s_a", "dpm++2m", "dpm++2mv2", "ipndm", "ipndm_v", "lcm", "ddim_trailing",
    "tcd", "res_multistep", "res_2s", "er_sde", "euler_cfg_pp", "euler_a_cfg_pp", "euler_ge", "dpm++2m_sde",
    "dpm++2m_sde_bt", "lms",
})  # fmt: skip
ALIASES = frozenset({"Euler a", "DPM++ 2M", "DPM++ 2M SDE", "LCM", "DDIM", "Heun"})  # on the WebUI routes alone
SCHEDULERS = frozenset({
    "discrete", "normal", "karras", "exponential", "ays", "gits", "sgm_uniform", "simple", "smoothstep", "kl_optimal",
    "lcm", "bong_tangent", "ltx2", "logit_normal", "flux2", "flux", "beta",
})  # fmt: skip

Fits = Callable[[Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= float(str(value)) <= 1


def _among(*words: frozenset[str]) -> Fits:
    known = frozenset().union(*words)
    return lambda value: isinstance(value, str) and value in known


def _is_guidance(value: object) -> bool:
    names = {"txt_cfg", "img_cfg", "distilled_guidance"}
    return isinstance(value, dict) and value.keys() <= names and all(_is_number(v) and v >= 0 for v in value.values())


def _is_sampling(value: object) -> bool:
    fits = {
        "sample_steps": _is_whole,
        "sample_method": _among(SAMPLERS),
        "scheduler": _among(SCHEDULERS),
        "guidance": _is_guidance,
    }
    return isinstance(value, dict) and all(name in fits and fits[name](inner) for name, inner in value.items())


def _is_hires(value: object) -> bool:
    return isinstance(value, dict)


TAG: Mapping[str, Fits] = {
    "prompt": _is_text, "negative_prompt": _is_text, "seed": _is_whole, "sample_params": _is_sampling,
    "width": _is_whole, "height": _is_whole, "batch_count": _is_whole, "strength": _is_share, "clip_skip": _is_whole,
    "lora": _is_list, "hires": _is_hires, "embed_image_metadata": _is_flag,
}  # fmt: skip
_FILES: Mapping[str, Fits] = {
    "output_format": _among(frozenset({"png", "jpeg", "webp"})),
    "output_compression": _is_whole,
}
OPEN_AI: Mapping[str, Fits] = {
    **_FILES,
    "model": _is_text, "prompt": _is_text, "n": _is_whole, "size": _is_text,
    # Read by nothing here, known to some wrapper or other.
    "response_format": _is_text, "quality": _is_text, "style": _is_text, "user": _is_text, "steps": _is_whole,
    "cfg_scale": _is_number, "negative_prompt": _is_text, "sample_method": _is_text, "scheduler": _is_text,
    "seed": _is_whole,
}  # fmt: skip
WEB_UI: Mapping[str, Fits] = {
    "model": _is_text, "prompt": _is_text, "negative_prompt": _is_text, "width": _is_whole, "height": _is_whole,
    "steps": _is_whole, "cfg_scale": _is_number, "seed": _is_whole, "batch_size": _is_whole, "clip_skip": _is_whole,
    "sampler_name": _among(SAMPLERS, ALIASES), "scheduler": _among(SCHEDULERS), "lora": _is_list,
    "extra_images": _is_list, "enable_hr": _is_flag,
}  # fmt: skip
WEB_UI_EDIT: Mapping[str, Fits] = {
    **WEB_UI,
    "init_images": _is_list, "mask": _is_text, "inpainting_mask_invert": _is_whole, "denoising_strength": _is_share,
}  # fmt: skip
JOB: Mapping[str, Fits] = {
    **TAG, **_FILES,
    "init_image": _is_text, "ref_images": _is_list, "mask_image": _is_text, "control_image": _is_text,
}  # fmt: skip


@dataclass(frozen=True)
class ImageOrder:
    """What sd-server will draw. ``seed`` is that of the first picture; of the next ones it is one more each."""

    prompt: str
    width_px: int
    height_px: int
    seed: int = DEFAULT_SEED
    count: int = 1
    steps: int = 20
    file_format: str = "png"
    quality: int = 100
    inputs: tuple[bytes, ...] = field(default=(), repr=False)
    mask: bytes | None = field(default=None, repr=False)


def read_open_ai(
    document: Mapping[str, Any], inputs: tuple[bytes, ...], mask: bytes | None, grid_px: int
) -> ImageOrder:
    """The OpenAI routes: settings come from the tag, and from nowhere else. Raises ServerError."""
    _check(document, OPEN_AI)
    size = document.get("size")
    exact = parse_wxh(size) if size is not None else None
    if size is not None and (exact is None or "x" not in size):
        raise ServerError("invalid params", message=f"size {size}")
    plain = {"prompt": document.get("prompt", ""), "batch_count": document.get("n", 1)}
    if exact:
        plain |= {"width": exact[0], "height": exact[1]}
    return _order({**plain, **_picked(document, _FILES)}, inputs, mask, grid_px)


def read_web_ui(document: Mapping[str, Any], *, is_edit: bool, random_seed: int, grid_px: int) -> ImageOrder:
    """The WebUI routes: plain fields, and the tag too. Raises ServerError."""
    _check(document, WEB_UI_EDIT if is_edit else WEB_UI)
    if any(document.get(side, 1) <= 0 for side in ("width", "height")):
        raise ServerError("width and height must be positive")
    first = document.get("init_images", [])
    if len(first) > 1:
        raise ServerError("invalid params", message="only the first of init_images is read")
    inputs = tuple(_decoded(text) for text in [*first, *document.get("extra_images", [])])
    seed = document.get("seed", -1)
    plain = {
        "prompt": document.get("prompt", ""),
        "seed": random_seed if seed < 0 else seed,
        "batch_count": document.get("batch_size", 1),
        "sample_params": {"sample_steps": document.get("steps", 20)},
        **_picked(document, ("width", "height")),
    }
    return _order(plain, inputs, _mask(document.get("mask"), inputs), grid_px)


def read_job(document: Mapping[str, Any], grid_px: int) -> ImageOrder:
    """The native route: the tag's keys at the top, and the pictures. Raises ServerError."""
    _check(document, JOB)
    first = [document["init_image"]] if "init_image" in document else []
    inputs = tuple(_decoded(text) for text in [*first, *document.get("ref_images", [])])
    return _order(document, inputs, _mask(document.get("mask_image"), inputs), grid_px)


def _check(document: Mapping[str, Any], known: Mapping[str, Fits]) -> None:
    for name, value in document.items():
        if name not in known:
            raise ServerError("invalid params", message=f"unknown field {name}")
        if value is None or not known[name](value):
            raise wrong_json(name)


def _picked(document: Mapping[str, Any], names: Sequence[str] | Mapping[str, Fits]) -> dict[str, Any]:
    return {name: document[name] for name in names if name in document}


_TAGS = re.compile(r"<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>")


def read_tag(prompt: str) -> tuple[str, dict[str, Any]]:
    """The prompt without any tag, and what the first of them says. Raises ServerError."""
    found = _TAGS.search(prompt)
    if found is None:
        return prompt, {}
    try:
        told = json.loads(found[1])
    except ValueError as error:
        raise ServerError("invalid sd_cpp_extra_args") from error
    if not isinstance(told, dict) or not all(name in TAG and TAG[name](value) for name, value in told.items()):
        raise ServerError("invalid sd_cpp_extra_args")
    return _TAGS.sub("", prompt).strip(), told


def _order(plain: Mapping[str, Any], inputs: tuple[bytes, ...], mask: bytes | None, grid_px: int) -> ImageOrder:
    prompt, told = read_tag(plain.get("prompt", ""))
    settings = {**plain, "prompt": prompt, **told}
    if not settings["prompt"].strip():
        raise ServerError("prompt required")
    own = dimensions(inputs[0]) if inputs else (DEFAULT_SIDE_PX, DEFAULT_SIDE_PX)
    sides = [settings.get(name, side) for name, side in zip(("width", "height"), own, strict=True)]
    if not all(side <= SIDE_MAX_PX for side in sides):
        raise ServerError("invalid generation parameters")
    width_px, height_px = (-(-max(side, SIDE_MIN_PX) // grid_px) * grid_px for side in sides)
    return ImageOrder(
        prompt=settings["prompt"],
        width_px=width_px,
        height_px=height_px,
        seed=settings.get("seed", DEFAULT_SEED),
        count=min(max(settings.get("batch_count", 1), 1), COUNT_MAX),
        steps=min(max(settings.get("sample_params", {}).get("sample_steps", 20), 1), STEPS_MAX),
        file_format=settings.get("output_format", "png"),
        quality=min(max(settings.get("output_compression", 100), 0), 100),
        inputs=inputs,
        mask=mask,
    )


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise wrong_json("images")
    try:
        return readable(base64.b64decode(text.rpartition(",")[2], validate=True))
    except binascii.Error as error:
        raise ServerError("invalid params", message="not base64") from error


def readable(blob: bytes) -> bytes:
    """The bytes of a picture. Raises ServerError for anything else."""
    try:
        check(blob)
    except NotAnImage as error:
        raise ServerError("invalid params", message="an image does not decode") from error
    return blob


def _mask(text: object, inputs: tuple[bytes, ...]) -> bytes | None:
    return None if text is None else inverted_mask(_decoded(text), inputs)


def inverted_mask(blob: bytes, inputs: tuple[bytes, ...]) -> bytes:
    """sd-server's mask (grey, white is repainted) as the sandbox draws by one (alpha 0 is). Raises ServerError."""
    picture = Image.open(io.BytesIO(readable(blob)))
    if picture.mode not in ("L", "1"):
        raise ServerError("invalid params", message=f"a mask is grey, not {picture.mode}")
    if not inputs or picture.size != dimensions(inputs[0]):
        raise ServerError("invalid params", message="the mask fits no picture")
    kept = ImageOps.invert(picture.convert("L"))
    out, veiled = io.BytesIO(), Image.new("RGBA", picture.size)
    veiled.putalpha(kept)
    veiled.save(out, "PNG")
    return out.getvalue()
