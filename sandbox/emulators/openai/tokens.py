"""How many tokens an answer bills: of the image by quality and size, of the input images, of the prompt.

The rule of gpt-image-2 and newer gives, at the prices of tokens, every price per image that is published
(providers/upstreams/openai/CONTRACT.md, "Prices, USD per image").
"""

import math

from sandbox import chat
from sandbox.drawing.images import dimensions
from sandbox.drawing.sizes import parse_wxh
from sandbox.emulators.openai.rules import ImageOrder

# Of the models before gpt-image-2: a square, a tall and a wide image.
_FIXED = {"low": (272, 408, 400), "medium": (1056, 1584, 1568), "high": (4160, 6240, 6208)}
# Patches along the longer side of an image.
_EDGE = {
    "gpt-image-2": {"low": 16, "medium": 48, "high": 96},
    "gpt-image-2.5": {"low": 16, "medium": 24, "high": 48, "xhigh": 64, "max": 96},
    "gpt-image-2.6": {"low": 32, "medium": 48, "high": 48, "xhigh": 64, "max": 96},
}
_AUTO_PX = 1024 * 1536  # what an image of size auto comes to, whatever its shape
_MOST_PATCHES = 1536
_FRAME_TOKENS = 8  # around every prompt


def of_output(order: ImageOrder, quality: str) -> int:
    """Tokens of one image."""
    width, height = order.recipe.width_px, order.recipe.height_px
    edges = _edges(order.model)
    if edges is None:
        return _FIXED[quality][0 if width == height else 1 if width < height else 2]
    area = width * height if parse_wxh(order.fields.get("size", "")) else _AUTO_PX
    edge = edges[quality]
    patches = edge * max(1, round(edge * min(width, height) / max(width, height)))
    return math.ceil(patches * (2_000_000 + area) / 4_000_000)


def of_inputs(order: ImageOrder) -> int:
    """Tokens of the input images, the mask among them."""
    images = [*order.recipe.inputs, *([order.recipe.mask] if order.recipe.mask else [])]
    count = _tiles if _edges(order.model) is None else _patches
    return sum(count(*dimensions(each)) for each in images)


def of_text(prompt: str) -> int:
    """Tokens of the prompt and what is put around it."""
    return _FRAME_TOKENS + chat.tokens_in(prompt)


def _edges(model: str) -> dict[str, int] | None:
    return next((_EDGE[name] for name in reversed(_EDGE) if model.startswith(name)), None)


def _patches(width: int, height: int) -> int:
    """Squares of 32 pixels; what has more is scaled down."""
    return min(_MOST_PATCHES, math.ceil(width / 32) * math.ceil(height / 32))


def _tiles(width: int, height: int) -> int:
    """Tiles of 512 pixels, of the image scaled into 2048 x 2048 and then to a shorter side of 512."""
    scale = min(1, 2048 / max(width, height))
    scale *= min(1, 512 / (min(width, height) * scale))
    return 65 + 129 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
