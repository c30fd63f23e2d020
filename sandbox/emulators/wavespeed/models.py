"""The models of the WaveSpeed twin: the table of the contract sheet's section 8, line by line.

Where the sheet gives a group (a model and its variants), each of them stands here by itself. The last table
holds models that the sheet does not name: their fields are those of our catalogue, so there the twin is no
second opinion.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sandbox.emulators.wavespeed.fields import Field, choice, flag, items, number, size, sizes, text, uri, uris, whole

Output = Literal["image", "model_3d", "text"]


@dataclass(frozen=True)
class Model:
    """One path below ``/api/v3/``. ``partner`` models answer with ``succeeded`` and a singular ``output``."""

    path: str
    fields: Mapping[str, Field]
    output: Output = "image"
    partner: bool = False


def _model(path: str, *fields: Field, output: Output = "image", partner: bool = False) -> Model:
    return Model(path, {field.name: field for field in fields}, output, partner)


def _models(paths: str, *fields: Field, output: Output = "image") -> Iterable[Model]:
    return (_model(path, *fields, output=output) for path in paths.split())


_FLUX_2 = ("dev", "pro", "flex", "max", "klein-9b", "klein-4b")
PROMPT, NEGATIVE = text("prompt").must, text("negative_prompt")
IMAGE, IMAGE_OPTIONAL, MASK = uri("image").must, uri("image"), uri("mask_image")
SEED = whole("seed", -1, 2147483647, default=-1)
B64, SYNC = flag("enable_base64_output"), flag("enable_sync_mode")
OF = choice("output_format", "jpeg png webp", "jpeg")
OF_PNG = choice("output_format", "png jpeg", "png")
JPEG_PNG = choice("output_format", "jpeg png", "jpeg")
B, BS, OBS = (B64,), (B64, SYNC), (OF, B64, SYNC)
SIZE, SIZE_1K = size(), size(default="1024*1024")
SEEDREAM_SIZE = size(512, 8192, default="2048*2048")
STRENGTH = number("strength", 0, 1, 0.8)
STEPS = whole("num_inference_steps", 1, 50, 28)
GUIDANCE = number("guidance_scale", 1, 20, 3.5)
COUNT = whole("num_images", 1, 4, 1)
LORAS = items("loras", 4)
FIVE_RATIOS = choice("aspect_ratio", "1:1 16:9 9:16 4:3 3:4", "1:1")
KONTEXT_RATIOS = choice("aspect_ratio", "21:9 16:9 4:3 3:2 1:1 2:3 3:4 9:16 9:21")
BANANA_RATIOS = choice("aspect_ratio", "1:1 3:2 2:3 3:4 4:3 4:5 5:4 9:16 16:9 21:9")
WIDE_RATIOS = choice("aspect_ratio", "1:1 1:2 2:1 1:3 3:1 2:3 3:2 3:4 4:3 4:5 5:4 9:16 16:9 9:21 21:9")
K124 = choice("resolution", "1k 2k 4k", "1k")
GPT_QUALITY = choice("quality", "low medium high", "medium")
GPT2_FORMAT = choice("output_format", "png jpeg webp", "png")

_TEXT_TO_IMAGE = (
    _model(
        "wavespeed-ai/flux-dev", PROMPT, IMAGE_OPTIONAL, MASK, STRENGTH, SIZE_1K, STEPS, GUIDANCE, COUNT, SEED, *OBS
    ),
    _model(
        "wavespeed-ai/flux-dev-lora",
        *(PROMPT, IMAGE_OPTIONAL, MASK, STRENGTH, SIZE_1K, STEPS, COUNT, SEED, LORAS, *OBS),
        number("guidance_scale", 0, 20, 3.5),
    ),
    _model("wavespeed-ai/flux-schnell", PROMPT, IMAGE_OPTIONAL, MASK, STRENGTH, SIZE_1K, COUNT, SEED, *OBS),
    _model("wavespeed-ai/flux-1.1-pro", PROMPT, FIVE_RATIOS, choice("output_format", "jpg png", "jpg"), SEED, B64),
    _model(
        "wavespeed-ai/flux-1.1-pro-ultra",
        *(PROMPT, FIVE_RATIOS, choice("output_format", "jpg png", "jpg"), SEED, B64, flag("raw")),
    ),
    *_models(
        " ".join(f"wavespeed-ai/flux-2-{kind}/text-to-image" for kind in _FLUX_2),
        *(PROMPT, SIZE_1K, SEED, *BS),
    ),
    _model(
        "wavespeed-ai/flux-kontext-pro/text-to-image",
        *(PROMPT, KONTEXT_RATIOS, SEED, GUIDANCE, choice("safety_tolerance", "1 2 3 4 5", "2"), SYNC),
    ),
    _model("wavespeed-ai/flux-kontext-max/text-to-image", PROMPT, KONTEXT_RATIOS, SEED, GUIDANCE, SYNC),
    *_models(
        "wavespeed-ai/qwen-image/text-to-image wavespeed-ai/qwen-image/text-to-image-2512"
        " wavespeed-ai/wan-2.2/text-to-image-realism",
        *(PROMPT, SIZE_1K, SEED, *OBS),
    ),
    *_models(
        "wavespeed-ai/z-image/turbo wavespeed-ai/z-image/base",
        *(PROMPT, IMAGE_OPTIONAL, number("strength", 0, 1, 0.6), SIZE_1K, SEED, *OBS),
    ),
    _model("stability-ai/sdxl", PROMPT, IMAGE_OPTIONAL, SIZE_1K, SEED, B64),
    _model("google/nano-banana/text-to-image", PROMPT, BANANA_RATIOS, OF_PNG, *BS),
    _model("google/nano-banana-pro/text-to-image", PROMPT, BANANA_RATIOS, OF_PNG, K124, *BS),
    *_models("bytedance/seedream-v4 bytedance/seedream-v4.5", PROMPT, SEEDREAM_SIZE, *BS),
    _model(
        "openai/gpt-image-1.5/text-to-image",
        *(PROMPT, sizes("auto 1024*1024 1024*1536 1536*1024", "auto"), GPT_QUALITY, text("background"), JPEG_PNG, *BS),
    ),
    _model("openai/gpt-image-2/text-to-image", PROMPT, WIDE_RATIOS, K124, GPT_QUALITY, GPT2_FORMAT, *BS),
    _model("alibaba/wan-2.5/text-to-image", PROMPT, NEGATIVE, size(768, 1440), flag("enable_prompt_expansion"), SEED),
    _model(
        "ideogram-ai/ideogram-v2a-turbo",
        *(PROMPT, IMAGE_OPTIONAL, MASK, FIVE_RATIOS, B64),
        Field("style", "choice", choices=("Auto", "General", "Realistic", "Design", "Render 3D", "Anime")),
    ),
    _model(
        "ideogram-ai/ideogram-character",
        *(PROMPT, IMAGE, FIVE_RATIOS, B64),
        choice("style", "Auto Fiction Realistic", "Auto"),
        choice("rendering_speed", "Default Turbo Quality", "Default"),
    ),
    _model(
        "wavespeed-ai/flux-controlnet-union-pro-2.0",
        *(PROMPT, uri("control_image").must, SIZE, STEPS, number("guidance_scale", 0, 20, 3.5), *OBS),
        *(number("controlnet_conditioning_scale", 0, 2, 0.7), items("loras", 3), whole("seed", default=0), COUNT),
        *(number("control_guidance_start", 0, 1, 0), number("control_guidance_end", 0, 1, 0.8)),
    ),
    _model(
        "midjourney/text-to-image",
        *(PROMPT, uri("sref"), text("aspect_ratio"), flag("hd"), choice("quality", "1 4"), SEED),
        *(whole("stylize", 0, 1000), whole("chaos", 0, 100), whole("weird", 0, 3000)),
    ),
)

_EDIT = (
    _model("wavespeed-ai/qwen-image/edit", PROMPT, IMAGE, SIZE, SEED, *OBS),
    *_models(
        "wavespeed-ai/qwen-image/edit-plus wavespeed-ai/qwen-image/edit-2511",
        *(PROMPT, uris("images", 1, 3), SIZE, SEED, *OBS),
    ),
    _model("wavespeed-ai/flux-kontext-pro", PROMPT, IMAGE, GUIDANCE, KONTEXT_RATIOS, SYNC),
    _model("wavespeed-ai/flux-kontext-max", PROMPT, IMAGE, GUIDANCE, KONTEXT_RATIOS, SEED, SYNC),
    *_models(
        "wavespeed-ai/flux-kontext-pro/multi wavespeed-ai/flux-kontext-max/multi",
        *(PROMPT, uris("images", 1, 5), GUIDANCE, KONTEXT_RATIOS, SEED, SYNC),
    ),
    _model(
        "wavespeed-ai/flux-kontext-dev",
        *(text("prompt"), IMAGE_OPTIONAL, SIZE, STEPS, number("guidance_scale", 1, 20, 2.5), COUNT, SEED, *OBS),
    ),
    *_models(
        " ".join(f"wavespeed-ai/flux-2-{kind}/edit" for kind in _FLUX_2),
        *(PROMPT, uris("images", 1, 3), SIZE, SEED, *BS),
    ),
    _model(
        "wavespeed-ai/flux-fill-dev",
        *(PROMPT, IMAGE, MASK.must, SIZE, STEPS, number("guidance_scale", 28, 35, 30)),
        *(whole("seed", 0, 2147483647, default=0), COUNT, items("loras")),
    ),
    _model("google/nano-banana-pro/edit", PROMPT, uris("images", 1, 14), BANANA_RATIOS, K124, OF_PNG, *BS),
    _model(
        "google/nano-banana-pro/edit-ultra",
        *(PROMPT, uris("images", 1, 14), BANANA_RATIOS, choice("resolution", "4k 8k", "4k"), OF_PNG, *BS),
    ),
    _model("google/nano-banana/edit", PROMPT, uris("images", 1, 10), BANANA_RATIOS, OF_PNG, *BS),
    *_models(
        "bytedance/seedream-v4/edit bytedance/seedream-v4.5/edit",
        *(PROMPT, uris("images", 1, 10), SEEDREAM_SIZE, *BS),
    ),
    *_models(
        "bytedance/seedream-v4/edit-sequential bytedance/seedream-v4.5/edit-sequential",
        *(PROMPT, uris("images", 1, 10), SEEDREAM_SIZE, whole("max_images", 1, 15, 1), *BS),
    ),
    _model("alibaba/wan-2.5/image-edit", PROMPT, uris("images", 1, 2), NEGATIVE, SEED),
    _model(
        "openai/gpt-image-1",
        *(PROMPT, IMAGE, MASK, sizes("auto 1024*1024 1024*1536 1536*1024", "auto"), GPT_QUALITY, *BS),
    ),
    _model("openai/gpt-image-2/edit", PROMPT, uris("images", 1), WIDE_RATIOS, K124, GPT_QUALITY, GPT2_FORMAT, *BS),
    _model(
        "wavespeed-ai/step1x-edit",
        *(PROMPT, IMAGE, NEGATIVE, SEED, number("guidance_scale", 0, 20, 4)),
        whole("num_inference_steps", 1, 50, 30),
    ),
    _model("wavespeed-ai/hidream-e1-full", PROMPT, IMAGE, SEED, OF, B64),
    _model("wavespeed-ai/z-image/turbo-inpaint", PROMPT, IMAGE, MASK.must, SIZE),
    _model("wavespeed-ai/image-eraser", IMAGE, MASK, text("prompt"), *OBS),
    _model("wavespeed-ai/flux-v1-pro/erase", IMAGE, MASK.must, whole("dilate_pixels", 0, 100, 10), JPEG_PNG),
    _model("bria/eraser", IMAGE, MASK.must, *BS),
    _model("bria/expand", IMAGE, choice("aspect_ratio", "1:1 2:3 3:2 3:4 4:3 4:5 5:4 9:16 16:9").must, *BS),
    _model("bria/generate-background", PROMPT, IMAGE, *BS),
    *_models("bria/remove-background wavespeed-ai/image-background-remover", IMAGE, *BS),
    *_models("wavespeed-ai/image-text-remover wavespeed-ai/image-watermark-remover", IMAGE, *OBS),
    _model("wavespeed-ai/image-zoom-out", IMAGE, SIZE, *OBS),
    _model(
        "wavespeed-ai/image-captioner",
        *(IMAGE_OPTIONAL, choice("detail_level", "low medium high", "medium"), text("focus"), SYNC),
        output="text",
    ),
)

_UPSCALE = (
    *_models(
        "wavespeed-ai/image-upscaler wavespeed-ai/ultimate-image-upscaler wavespeed-ai/seedvr2/image",
        *(IMAGE, choice("target_resolution", "2k 4k 8k", "4k"), *OBS),
    ),
    _model("wavespeed-ai/real-esrgan", IMAGE),
    _model("bria/increase-resolution", IMAGE, whole("desired_increase", 2, 4, 2), *BS),
    _model("clarity-ai/pro-upscaler", IMAGE, whole("target_megapixels", 1, 64, 4), whole("creativity", -10, 10, 0)),
    _model("clarity-ai/crystal-upscaler", IMAGE, whole("target_megapixels", 1, 1500, 4), whole("creativity", 0, 10, 0)),
)

_SWAP = (
    _model("wavespeed-ai/image-face-swap", IMAGE, uri("face_image").must, whole("target_index", 0, 10, 0), *OBS),
    *_models("wavespeed-ai/image-face-swap-pro wavespeed-ai/image-head-swap", IMAGE, uri("face_image").must, *OBS),
    _model("wavespeed-ai/image-body-swap", IMAGE, uri("body_image").must),
    _model("wavespeed-ai/infinite-you", uri("target_image").must, uri("source_image").must),
    _model(
        "akool/image-face-swap",
        *(IMAGE, uris("source_image", 1, 5), uris("target_image", 1, 5), flag("face_enhance"), B64),
        partner=True,
    ),
)

_FACES = whole("face_count", 40000, 1500000, 500000)
_HUNYUAN = (
    flag("enable_pbr"),
    choice("polygon_type", "triangle quadrilateral", "triangle"),
    _FACES,
    choice("generate_type", "Normal LowPoly Geometry", "Normal"),
)
_THREE_SIDES = tuple(uri(f"{side}_image_url").must for side in ("front", "back", "left"))
_RODIN = (
    choice("material", "PBR All Shaded"),
    choice(
        "quality_and_mesh", "4k_Quad 8k_Quad 18k_Quad 50k_Quad 2K_Triangle 20K_Triangle 250K_Triangle 500K_Triangle"
    ),
    choice("geometry_file_format", "glb fbx obj stl usdz"),
    choice("addons", "HighPack"),
    items("bbox_condition"),
    *(flag(name) for name in ("ta_pose", "use_original_alpha", "preview_render")),
    whole("seed", 0, 65535),
)
_MODELS_3D = (
    _model(
        "wavespeed-ai/hunyuan3d-v3/image-to-3d",
        *(IMAGE, uri("back_image"), uri("left_image"), uri("right_image"), *_HUNYUAN),
        output="model_3d",
    ),
    _model("wavespeed-ai/hunyuan3d-v3/text-to-3d", PROMPT, *_HUNYUAN, output="model_3d"),
    _model("wavespeed-ai/hunyuan3d-v3/sketch-to-3d", PROMPT, IMAGE, flag("enable_pbr"), _FACES, output="model_3d"),
    _model("wavespeed-ai/hunyuan-3d-v3.1/image-to-3d-rapid", IMAGE, output="model_3d"),
    _model("wavespeed-ai/hunyuan-3d-v3.1/text-to-3d-rapid", PROMPT, output="model_3d"),
    _model("wavespeed-ai/hunyuan3d/v2-multi-view", *_THREE_SIDES, output="model_3d"),
    _model(
        "wavespeed-ai/hunyuan3d-v2-multi-view",
        *(*_THREE_SIDES, SEED, whole("num_inference_steps", 1, 50, 50), number("guidance_scale", 0, 20, 7.5)),
        *(whole("octree_resolution", 1, 1024, 256), flag("textured_mesh")),
        output="model_3d",
    ),
    *_models(
        "wavespeed-ai/hunyuan3d/v2.1 wavespeed-ai/hunyuan3d/v2-base tripo3d/v2.5/image-to-3d", IMAGE, output="model_3d"
    ),
    _model("tripo3d/v2.5/multiview-to-3d", *_THREE_SIDES, uri("right_image_url").must, output="model_3d"),
    _model("hyper3d/rodin-v2/image-to-3d", uris("images", 1, 5), text("prompt"), *_RODIN, output="model_3d"),
    _model("hyper3d/rodin-v2/text-to-3d", PROMPT, *_RODIN, output="model_3d"),
    _model("wavespeed-ai/sam-3d-body", IMAGE, MASK, output="model_3d"),
    _model("wavespeed-ai/sam-3d-objects", IMAGE, text("prompt"), uris("mask_images", 0, 10), output="model_3d"),
    _model(
        "wavespeed-ai/meshy6/image-to-3d",
        *(IMAGE, text("topology"), whole("target_polycount", 100, 300000, 30000), text("symmetry_mode")),
        *(flag(name) for name in ("should_remesh", "should_texture", "enable_pbr", "ta_pose")),
        *(text("texture_prompt"), uri("texture_image")),
        output="model_3d",
    ),
)

_LANGUAGES = """
    english chinese-simplified chinese-traditional spanish french arabic hindi bengali portuguese russian japanese
    korean german italian dutch polish turkish vietnamese thai indonesian malay filipino urdu persian hebrew swedish
    danish norwegian finnish greek czech hungarian romanian ukrainian"""
_TRANSLATE = (
    _model("wavespeed-ai/image-translator", IMAGE, choice("target_language", _LANGUAGES, "english").must, *OBS),
    _model(
        "alibaba/qwen-image/translate",
        *(IMAGE, choice("target_lang", "en zh ja ko fr de es ru ar", "zh").must, text("domain_hint")),
        *(choice("source_lang", "auto en zh ja ko fr de es ru ar", "auto"), items("sensitives", 50)),
        *(items("terminologies"), flag("skip_image_segment")),
    ),
)

_NOT_IN_THE_SHEET = (
    _model(
        "ideogram-ai/ideogram-v3-turbo",
        *(PROMPT, IMAGE_OPTIONAL, MASK, uris("reference_images", 0, 3), FIVE_RATIOS, B64),
        choice("style", "Auto General Realistic Design", "Auto"),
    ),
    _model(
        "vidu/reference-to-image-q2",
        *(PROMPT, uris("images", 1, 7), choice("aspect_ratio", "auto 1:1 16:9 9:16 4:3 3:4 21:9 2:3 3:2", "auto")),
        *(choice("resolution", "1080p 2K 4K", "1080p"), SEED),
    ),
    _model("wavespeed-ai/hunyuan-image-3", PROMPT, SIZE_1K, SEED, *BS),
    _model(
        "google/nano-banana-2/text-to-image",
        *(PROMPT, choice("aspect_ratio", " ".join((*BANANA_RATIOS.choices, "1:4", "4:1", "1:8", "8:1"))), OF_PNG),
        *(choice("resolution", "0.5k 1k 2k 4k", "1k"), flag("enable_image_search"), flag("enable_web_search"), *BS),
    ),
    _model("wavespeed-ai/flux-redux-dev", IMAGE, SIZE_1K, STEPS, GUIDANCE, COUNT, SEED, *OBS),
)

MODELS: Mapping[str, Model] = {
    model.path: model
    for table in (_TEXT_TO_IMAGE, _EDIT, _UPSCALE, _SWAP, _MODELS_3D, _TRANSLATE, _NOT_IN_THE_SHEET)
    for model in table
}
