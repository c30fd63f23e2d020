"""From a FLUX order to what is drawn: the size by each family's rule, masks and margins.

Source: providers/upstreams/flux/CONTRACT.md, section 6.
"""

import io
import math

from PIL import Image

from sandbox.drawing.images import Recipe, clear_where_white, dimensions, has_alpha
from sandbox.emulators.flux.rules import MEGAPIXEL, Order, ratio_of

STEP_PX = 16
ULTRA_AREA_PX = 4 * MEGAPIXEL
_FLUX_3_AREAS_PX = {"768sq": 768**2, "1k": MEGAPIXEL, "1.5k": 1536**2, "2k": 4 * MEGAPIXEL, "4k": 16 * MEGAPIXEL}


def recipe_for(order: Order, seed: int) -> Recipe:
    """How the one image of a task is drawn."""
    inputs, mask = order.images, _mask(order)
    if order.model.size == "margins":
        canvas, mask = _widened(order)
        inputs = (canvas,)
    size_px = dimensions(inputs[0]) if order.model.size == "margins" else _size(order)
    file_format = order.fields.get("output_format", order.model.file_format)
    return Recipe(
        order.prompt, order.model.name, *size_px, seed=seed, file_format=file_format, inputs=inputs, mask=mask
    )


def _mask(order: Order) -> bytes | None:
    """White is repainted; without a mask the image's own transparency says where."""
    if order.mask is not None:
        return clear_where_white(order.mask)
    if order.model.size == "input" and has_alpha(order.images[0]):
        return order.images[0]
    return None


def _size(order: Order) -> tuple[int, int]:
    """Width and height in pixels."""
    fields = order.fields
    own = dimensions(order.images[0]) if order.images else None
    match order.model.size:
        case "pixels":
            return fields.get("width", 1024), fields.get("height", 768)
        case "ultra":
            return _shaped(ratio_of(fields.get("aspect_ratio", "16:9")), ULTRA_AREA_PX)
        case "kontext":
            return _shaped(ratio_of(fields.get("aspect_ratio") or "") or _ratio(own), MEGAPIXEL)
        case "flux-2":
            width_px, height_px = own or (1024, 1024)
            return fields.get("width", _stepped(width_px)), fields.get("height", _stepped(height_px))
        case "flux-3":
            area_px = _FLUX_3_AREAS_PX[fields.get("resolution", "1k")]
            return _shaped(ratio_of(fields.get("aspect_ratio", "auto")) or _ratio(own), area_px)
    return own or (1024, 1024)


def _ratio(own: tuple[int, int] | None) -> float:
    return own[0] / own[1] if own else 1.0


def _shaped(ratio: float, area_px: int) -> tuple[int, int]:
    return _stepped(math.sqrt(area_px * ratio)), _stepped(math.sqrt(area_px / ratio))


def _stepped(side_px: float) -> int:
    return max(64, round(side_px / STEP_PX) * STEP_PX)


def _widened(order: Order) -> tuple[bytes, bytes]:
    """The input on a larger canvas, and a mask that is clear where the canvas is new."""
    top, bottom, left, right = (order.fields.get(side, 0) for side in ("top", "bottom", "left", "right"))
    with Image.open(io.BytesIO(order.images[0])) as given:
        size = (given.width + left + right, given.height + top + bottom)
        canvas, mask = Image.new("RGB", size, "grey"), Image.new("RGBA", size)
        canvas.paste(given.convert("RGB"), (left, top))
        mask.paste((0, 0, 0, 255), (left, top, left + given.width, top + given.height))
    return _png(canvas), _png(mask)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
