"""Images made to order: deterministic from prompt, seed and model, in exactly the size asked."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

from PIL import ExifTags, Image, ImageChops, ImageOps

from sandbox.bounded import BoundedStore
from sandbox.drawing import effects, lettering, scenery
from sandbox.drawing.effects import Effect
from sandbox.markers import without_markers

PREPARED_PER_SIZE = 4
_PILLOW_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF"}
CONTENT_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "svg": "image/svg+xml",
}
PIXELS_MAX = 50_000_000


class NotAnImage(ValueError):  # noqa: N818 - reads as what it is
    """The bytes of an input do not decode to an image."""


@dataclass(frozen=True)
class Recipe:
    """All that an image depends on. Kept instead of the image: a task waits as a few hundred bytes.

    ``inputs`` and ``mask`` are encoded image bytes; with inputs the recipe is an edit. In a mask alpha 0
    means "edit here". ``width_px`` and ``height_px`` are exact. ``quality`` is 0 to 100 for jpeg and webp.
    ``effect`` is what a tool does to the first input instead of repainting it; ``corner_px`` is where outpaint puts it.
    """

    prompt: str
    model: str
    width_px: int
    height_px: int
    seed: int = 0
    file_format: str = "png"
    transparent: bool = False
    quality: int = 90
    frames: int = 1
    frame_ms: int = 200
    inputs: tuple[bytes, ...] = ()
    mask: bytes | None = None
    effect: Effect = field(default="", repr=False)
    corner_px: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def size_bytes(self) -> int:
        """Memory the recipe holds on to, roughly."""
        return len(self.prompt) + sum(map(len, self.inputs)) + len(self.mask or b"")

    @property
    def fingerprint(self) -> str:
        """32 hex digits, different whenever the image would be."""
        digest = hashlib.md5(usedforsecurity=False)
        digest.update(repr(replace(self, inputs=(), mask=None)).encode())
        if self.effect:
            digest.update(f"{self.effect} {self.corner_px}".encode())
        for blob in (*self.inputs, self.mask or b""):
            digest.update(hashlib.sha256(blob).digest())
        return digest.hexdigest()


def render(recipe: Recipe) -> bytes:
    """The finished file. Raises NotAnImage when an input of an edit does not decode."""
    if recipe.file_format == "svg":
        return _svg(recipe)
    if recipe.file_format == "gif":
        return _gif(recipe)
    return encode(draw(recipe), recipe)


def draw(recipe: Recipe) -> Image.Image:
    """The image before encoding: RGB, or RGBA where there is transparency."""
    return _edited(recipe) if recipe.inputs else _generated(recipe)


def encode(image: Image.Image, recipe: Recipe) -> bytes:
    """PNG loses nothing; JPEG flattens transparency onto white."""
    out = io.BytesIO()
    if recipe.file_format == "jpeg" and image.mode == "RGBA":
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    if recipe.file_format == "png":
        image.save(out, "PNG", compress_level=2)
    else:
        image.save(out, _PILLOW_FORMATS[recipe.file_format], quality=recipe.quality, method=0)
    return out.getvalue()


def dimensions(blob: bytes) -> tuple[int, int]:
    """Width and height, upright, of an encoded image. Raises NotAnImage."""
    image = _opened(blob)
    on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.height, image.width) if on_its_side else image.size


def has_alpha(blob: bytes) -> bool:
    """Whether an encoded image carries transparency. Raises NotAnImage."""
    image = _opened(blob)
    return "A" in image.getbands() or "transparency" in image.info


def check(blob: bytes) -> None:
    """Decode ``blob`` to the end. Raises NotAnImage."""
    _decoded(blob)


def clear_where_white(mask: bytes) -> bytes:
    """A mask whose white means change, as a recipe takes it: clear where it changes. Raises NotAnImage."""
    clear = Image.new("RGBA", (opened := _opened(mask)).size)
    clear.putalpha(ImageOps.invert(opened.convert("L")))
    out = io.BytesIO()
    clear.save(out, "PNG")
    return out.getvalue()


def digest_of_marked(image: bytes, mask: bytes) -> str:
    """A digest of the pixels of ``image`` where ``mask`` is clear; of what lies outside nothing. Raises NotAnImage."""
    base = _decoded(image).convert("RGB")
    keep = _resized(_decoded(mask).convert("RGBA"), base.size).getchannel("A")
    base.paste((0, 0, 0), mask=keep)
    return hashlib.sha256(base.tobytes()).hexdigest()[:16]


def partial(recipe: Recipe, done: int, rounds: int) -> bytes:
    """The image as it looks ``done`` steps of ``rounds`` into the work: the same, but blurred."""
    image = draw(recipe)
    shrunk = (max(1, image.width * done // (rounds * 16)), max(1, image.height * done // (rounds * 16)))
    return encode(image.resize(shrunk).resize(image.size, Image.Resampling.BILINEAR), recipe)


def _scene(recipe: Recipe) -> Image.Image:
    words = without_markers(recipe.prompt)
    return scenery.compose(
        words,
        width_px=recipe.width_px,
        height_px=recipe.height_px,
        dice=scenery.generator(words, recipe.seed, recipe.model),
        transparent=recipe.transparent,
    )


def _generated(recipe: Recipe) -> Image.Image:
    image, words = _scene(recipe), without_markers(recipe.prompt)
    lettering.inscribe(image, words, f"{recipe.model} · {recipe.width_px} x {recipe.height_px}")
    return image


def _edited(recipe: Recipe) -> Image.Image:
    """The first input, repainted where the mask is clear; without a mask, tinted and lettered all over."""
    if recipe.effect:
        return _treated(recipe)
    base = _resized(_decoded(recipe.inputs[0]), (recipe.width_px, recipe.height_px))
    if recipe.mask is None:
        return _repainted_all_over(base, recipe)
    keep = _resized(_decoded(recipe.mask).convert("RGBA"), base.size).getchannel("A")
    edit = ImageChops.invert(keep)
    box = edit.getbbox()
    if box is None:
        return base
    patch = _generated(replace(recipe, inputs=(), mask=None, width_px=box[2] - box[0], height_px=box[3] - box[1]))
    # Pasted through the mask: where it is opaque the input's own pixels stay, to the last bit.
    base.paste(patch.convert(base.mode), box[:2], edit.crop(box))
    return base


def _treated(recipe: Recipe) -> Image.Image:
    """The first input after a tool's work, in the size of the recipe; every pixel it keeps is legible as it was."""
    given, size_px = _decoded(recipe.inputs[0]), (recipe.width_px, recipe.height_px)
    if recipe.effect == "cut_out":
        return effects.cut_out(_resized(given, size_px))
    if recipe.effect == "enlarge":
        return effects.enlarged(given, size_px)
    scene = _scene(replace(recipe, transparent=False))  # without words, which the image would half cover
    lettering.inscribe(scene, "", f"{recipe.model} · {recipe.width_px} x {recipe.height_px}")
    if recipe.effect == "new_background":
        return Image.composite(_resized(given, size_px).convert("RGB"), scene, effects.subject(size_px))
    canvas, new = effects.placed(given, size_px, recipe.corner_px)
    canvas.paste(scene, mask=new)
    return canvas


def _repainted_all_over(base: Image.Image, recipe: Recipe) -> Image.Image:
    words = without_markers(recipe.prompt)
    palette = scenery.palette_for(words, scenery.generator(words, recipe.seed, recipe.model))
    tint = ImageOps.colorize(base.convert("L"), palette.near, palette.light, palette.accent).convert("RGB")
    image = Image.blend(base.convert("RGB"), tint, 0.45)
    for place, extra in enumerate(recipe.inputs[1:4]):
        _inset(image, _decoded(extra), place)
    if base.mode == "RGBA":
        image.putalpha(base.getchannel("A"))
    lettering.inscribe(image, words, f"{recipe.model} · edit · {recipe.width_px} x {recipe.height_px}", veil=255)
    return image


def _inset(image: Image.Image, extra: Image.Image, place: int) -> None:
    """Further inputs show as small images along the right edge: a person sees that they arrived."""
    edge_px = max(8, min(image.size) // 5)
    small = ImageOps.fit(extra.convert("RGB"), (edge_px, edge_px))
    gap_px = edge_px // 8
    image.paste(small, (image.width - edge_px - gap_px, gap_px + place * (edge_px + gap_px)))


def _opened(blob: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(blob), formats=("PNG", "JPEG", "WEBP", "GIF"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NotAnImage(str(error)) from error
    if image.width * image.height > PIXELS_MAX:
        raise NotAnImage(f"{image.width} x {image.height} pixels are too many")
    return image


def _decoded(blob: bytes) -> Image.Image:
    """Upright, RGB or RGBA."""
    opened = _opened(blob)
    try:
        image = ImageOps.exif_transpose(opened)
        clear = "A" in image.getbands() or "transparency" in image.info
        return image.convert("RGBA" if clear else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise NotAnImage(str(error)) from error


def _resized(image: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    return image if image.size == size_px else image.resize(size_px, Image.Resampling.BICUBIC)


def _gif(recipe: Recipe) -> bytes:
    frames = list(_frames(recipe))
    out = io.BytesIO()
    frames[0].save(
        out, "GIF", save_all=True, append_images=frames[1:], duration=recipe.frame_ms, loop=0, optimize=False
    )
    return out.getvalue()


def _frames(recipe: Recipe) -> Iterator[Image.Image]:
    for number in range(recipe.frames):
        frame = draw(replace(recipe, seed=recipe.seed + number)).convert("RGB")
        yield frame.quantize(128, method=Image.Quantize.FASTOCTREE)


def _svg(recipe: Recipe) -> bytes:
    words = without_markers(recipe.prompt)
    palette = scenery.palette_for(words, scenery.generator(words, recipe.seed, recipe.model))
    top, low, accent = (f"rgb{colour}" for colour in (palette.top, palette.low, palette.accent))
    w, h = recipe.width_px, recipe.height_px
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}">'
        f'<defs><linearGradient id="sky" x2="0" y2="1"><stop stop-color="{top}"/>'
        f'<stop offset="1" stop-color="{low}"/></linearGradient></defs>'
        f'<rect width="{w}" height="{h}" fill="url(#sky)"/>'
        f'<circle cx="{w // 2}" cy="{h // 3}" r="{min(w, h) // 8}" fill="{accent}"/>'
        f'<text x="{w // 20}" y="{h * 3 // 4}" font-size="{h // 18}" fill="white">'
        f"{escape(words)}</text></svg>"
    ).encode()


class Gallery:
    """Where finished images come from: drawn when first asked for, the latest ones kept, within bounds."""

    def __init__(self, *, kept_bytes: int = 64 * 2**20, edge_max_px: Callable[[], int] = lambda: 0) -> None:
        self._edge_max_px = edge_max_px
        self._kept: BoundedStore[str, bytes] = BoundedStore(items_max=4096, size_max=kept_bytes, size_of=len)

    def file(self, recipe: Recipe, *, prepared: bool) -> bytes:
        """The bytes of ``recipe``'s image; with ``prepared``, one of a few of that size for any prompt."""
        recipe = _bounded(recipe, self._edge_max_px())
        if prepared and not recipe.inputs:
            recipe = _standard(recipe)
        key = recipe.fingerprint
        blob = self._kept.get(key)
        if blob is None:
            blob = render(recipe)
            self._kept.put(key, blob)
        return blob


def _bounded(recipe: Recipe, edge_max_px: int) -> Recipe:
    longest_px = max(recipe.width_px, recipe.height_px)
    if not 0 < edge_max_px < longest_px:
        return recipe
    width_px, height_px = (max(1, side * edge_max_px // longest_px) for side in (recipe.width_px, recipe.height_px))
    return replace(recipe, width_px=width_px, height_px=height_px, corner_px=None)


def _standard(recipe: Recipe) -> Recipe:
    number = int(recipe.fingerprint[:4], 16) % PREPARED_PER_SIZE
    return replace(recipe, prompt=f"prepared image {number}", model="prepared", seed=number)
