"""Pixels: open, decode, set upright, convert, encode. Everything that uses Pillow.

Runs only in the decoder process. Formats are opened by their own class, never by guessing, so that no
parser but the five we accept ever sees the bytes.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator

from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from storage.base import MediaError
from storage.decoder_protocol import Bounds
from storage.sniff import AVIF, GIF, JPEG, PNG, WEBP

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    PNG: PngImagePlugin.PngImageFile,
    JPEG: JpegImagePlugin.JpegImageFile,  # instead of the factory, which would follow a second image after it
    WEBP: WebPImagePlugin.WebPImageFile,
    GIF: GifImagePlugin.GifImageFile,
    AVIF: AvifImagePlugin.AvifImageFile,
}
# One thread each: there are as many decoders as the operator wants cores spent.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# What Pillow raises on bad bytes. Anything else ends the process, which its parent reads as undecodable.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


@contextlib.contextmanager
def damage_as_media_error() -> Iterator[None]:
    """Whatever Pillow makes of bad bytes becomes a MediaError."""
    try:
        yield
    except MediaError:
        raise
    except _DAMAGE as error:
        code = "truncated_image" if "truncated" in str(error) else "image_undecodable"
        raise MediaError(code, type(error).__name__) from None


def open_image(data: bytes, mime: str, bounds: Bounds) -> ImageFile.ImageFile:
    """Read the header by the library that will decode it and check the bounds; nothing is decoded yet.

    Raises MediaError.
    """
    Image.MAX_IMAGE_PIXELS = bounds.max_pixels
    with damage_as_media_error():
        image = _READERS[mime](io.BytesIO(data))
        check_bounds(*image.size, bounds)
        frames = getattr(image, "n_frames", 1)
    if frames > bounds.max_frames:
        raise MediaError("image_too_many_frames", f"{frames}, at most {bounds.max_frames}")
    return image


def check_bounds(width_px: int, height_px: int, bounds: Bounds) -> None:
    """Raises MediaError ``image_too_many_pixels``."""
    if width_px * height_px > bounds.max_pixels or max(width_px, height_px) > bounds.max_edge_px:
        wanted = f"at most {bounds.max_pixels} pixels and {bounds.max_edge_px} px a side"
        raise MediaError("image_too_many_pixels", f"{width_px}x{height_px}, {wanted}")


def decode_all(image: ImageFile.ImageFile, bounds: Bounds) -> None:
    """Decode every frame and keep none. Raises MediaError."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and frames * image.width * image.height > bounds.max_animation_pixels:
        raise MediaError("image_too_many_pixels", f"{frames} frames of {image.width}x{image.height}")
    with damage_as_media_error():
        for frame in range(frames):
            image.seek(frame)
            image.load()


def upright(image: ImageFile.ImageFile) -> Image.Image:
    """Decoded, turned as its metadata says, eight bit, in sRGB, without metadata: L, RGB or RGBA."""
    with damage_as_media_error():
        image.load()
        profile = image.info.get("icc_profile")
        _turn(image)
        plain = _eight_bit(image)
        if profile:
            plain = _in_srgb(plain, profile)
        if plain.mode == "CMYK":
            plain = plain.convert("RGB")
        plain.info = {}  # Pillow's writers copy comments and profiles from here
        return plain


def _turn(image: Image.Image) -> None:
    """In place: at 40 million pixels each copy is 160 MB."""
    # A broken EXIF block on a valid image says nothing about its orientation.
    with contextlib.suppress(*_DAMAGE):
        ImageOps.exif_transpose(image, in_place=True)


def is_sideways(image: Image.Image) -> bool:
    """Whether setting the image upright will swap its width and height."""
    return orientation_of(image) in _SIDEWAYS


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation; 1, upright, when it says nothing readable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """As L, RGB, RGBA or CMYK."""
    if image.mode in _SIXTEEN_BIT:  # convert() alone clips at 255
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        mode = "RGBA"
    elif image.mode in ("1", "L"):
        mode = "L"
    else:
        mode = "CMYK" if image.mode == "CMYK" else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply the colour profile, which is removed with the metadata; a useless one is ignored."""
    if image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, *_DAMAGE):
        return image
    return converted or image


def as_mask(image: Image.Image) -> Image.Image:
    """A mask in the one form we store: where it is transparent the image may change.

    One without any transparency is read as black and white, white for change, which is how most programs without
    alpha write masks.
    """
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        return image
    mask = Image.new("RGBA", image.size, "black")
    mask.putalpha(ImageOps.invert(image.convert("L")))
    return mask


def white_edits(mask: Image.Image) -> Image.Image:
    """Our mask in the other polarity, for upstreams that want it: 8-bit grey, white where the image may change."""
    return ImageOps.invert(mask.convert("RGBA").getchannel("A"))


def shrink(image: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """The image in a smaller size, edges smooth."""
    if image.size == size_px:
        return image
    return image.resize(size_px, Image.Resampling.LANCZOS, reducing_gap=3.0)


def encode_upload(image: Image.Image, mime: str) -> bytes:
    """Without visible loss: PNG, or JPEG without chroma subsampling."""
    if mime == JPEG:
        return _saved(image, "JPEG", quality=95, subsampling=0)
    return _saved(image, "PNG", compress_level=4)


def encode_variant(image: Image.Image, mime: str) -> bytes:
    """For viewing: small and quick to make. JPEG has no alpha and gets a white background."""
    if mime == JPEG:
        return _saved(_on_white(image), "JPEG", quality=87, progressive=True)
    if mime == WEBP:
        return _saved(image, "WEBP", quality=85, method=2)
    if mime == AVIF:
        return _saved(image, "AVIF", quality=65, speed=8, max_threads=1)
    return _saved(image, "PNG", compress_level=4)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _saved(image: Image.Image, form: str, **options: int | bool) -> bytes:
    with damage_as_media_error():
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()
