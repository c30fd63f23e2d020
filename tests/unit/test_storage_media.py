"""Images through the real decoder processes: what is kept, what is refused, what is changed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from storage import variants
from storage.base import BlobNotFoundError, MediaError, MediaLimits, StorageUnavailableError
from storage.local import LocalStore
from storage.media import Media

MIB = 1024 * 1024


class FarStore:
    """A store that only takes files, as S3 will: no decoder can write to it."""

    def __init__(self, folder: Path) -> None:
        self._inner = LocalStore(folder)
        self.puts: list[str] = []

    def put_file(self, path: str, key: str) -> None:
        self.puts.append(path)
        self._inner.put_file(path, key)

    def open(self, key: str) -> BinaryIO:
        return self._inner.open(key)

    def read(self, key: str) -> bytes:
        return self._inner.read(key)

    def exists(self, key: str) -> bool:
        return self._inner.exists(key)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def iter_keys(self, prefix: str = "", *, older_than_s: float = 0.0) -> Iterator[str]:
        return self._inner.iter_keys(prefix, older_than_s=older_than_s)

    def check(self) -> None:
        self._inner.check()


@pytest.fixture(scope="module")
def local_media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Media, LocalStore]]:
    folder = tmp_path_factory.mktemp("media")
    store = LocalStore(folder / "store")
    media = Media(store, folder / "work", decoders=1)
    yield media, store
    media.close()
    assert list(store.staging.iterdir()) == []


@pytest.fixture
def media(local_media) -> Media:
    return local_media[0]


@pytest.fixture
def store(local_media) -> LocalStore:
    return local_media[1]


@pytest.fixture
def opened(store):
    return lambda image: Image.open(io.BytesIO(store.read(image.key)))


def gradient(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), ramp)).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@functools.cache
def bomb_png(width: int, height: int) -> bytes:
    """A valid one-bit PNG of a few kilobytes that decodes to width x height."""
    compressor = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    body = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def refusal_code(keep, data: bytes) -> str:
    with pytest.raises(MediaError) as refusal:
        keep(data, prefix="refused")
    return refusal.value.code


@pytest.fixture(params=["keep_upload", "keep_result"])
def keep(request, media):
    return getattr(media, request.param)


# Results


@pytest.mark.parametrize(
    ("form", "mime", "extension"),
    [
        ("PNG", "image/png", "png"),
        ("JPEG", "image/jpeg", "jpg"),
        ("WEBP", "image/webp", "webp"),
        ("GIF", "image/gif", "gif"),
        ("AVIF", "image/avif", "avif"),
    ],
)
def test_a_result_keeps_its_very_bytes_under_its_hash(media, store, form, mime, extension):
    data = encoded(gradient(), form)
    image = media.keep_result(data, prefix="job_1/0")
    sha256 = hashlib.sha256(data).hexdigest()
    assert image.key == f"job_1/0/{sha256}.{extension}"
    assert (image.mime, image.width_px, image.height_px) == (mime, 64, 48)
    assert (image.size_bytes, image.sha256) == (len(data), sha256)
    assert store.read(image.key) == data


def test_a_result_keeps_its_provenance_text(media, opened):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a lighthouse, seed 7")
    image = media.keep_result(encoded(gradient(), pnginfo=text), prefix="job_2/0")
    assert opened(image).info["parameters"] == "a lighthouse, seed 7"


def test_keeping_the_same_result_twice_is_one_blob(media, store):
    data = encoded(gradient((20, 20)))
    assert media.keep_result(data, prefix="twice/0") == media.keep_result(data, prefix="twice/0")
    assert len(list(store.iter_keys("twice/"))) == 1


def test_an_animated_result_is_kept_whole(media, store):
    frames = [Image.new("RGB", (16, 16), (index * 40, 0, 0)) for index in range(5)]
    for form in ("GIF", "WEBP", "PNG", "AVIF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=40)
        assert store.read(media.keep_result(data, prefix="moving/0").key) == data


def test_a_result_with_a_tail_is_refused(media, store):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("run.sh", "rm -rf /")
    for form in ("PNG", "JPEG", "WEBP", "GIF", "AVIF"):
        assert refusal_code(media.keep_result, encoded(gradient(), form) + archive.getvalue()) == "trailing_data"
    assert refusal_code(media.keep_result, encoded(gradient(), "GIF") + b"/*;alert(1)*/") == "trailing_data"
    assert list(store.iter_keys("refused/")) == []


# Both


def test_a_bomb_is_refused_by_its_header(keep):
    data = bomb_png(11_000, 11_000)
    assert len(data) < MIB // 40
    assert refusal_code(keep, data) == "image_too_many_pixels"


def test_a_refused_bomb_starts_no_decoder(tmp_path):
    media = Media(LocalStore(tmp_path / "s"), tmp_path, decoders=0, limits=MediaLimits(decoder_queue_s=0))
    assert refusal_code(media.keep_upload, bomb_png(6_400, 6_400)) == "image_too_many_pixels"
    assert refusal_code(media.keep_result, bomb_png(20_000, 10)) == "image_too_many_pixels"
    assert refusal_code(media.keep_upload, b"\xff\xd8\xff" + b"\0" * 11 * MIB) == "image_too_large_bytes"


def test_uploads_have_shorter_edges_than_results(media):
    data = bomb_png(9_000, 100)
    assert refusal_code(media.keep_upload, data) == "image_too_many_pixels"
    assert media.keep_result(data, prefix="wide/0").width_px == 9_000


def test_an_upscalers_8k_square_is_kept_and_can_be_shown_smaller(media):
    """67 million pixels: paid for, so it must fit; no one may upload as many."""
    data = encoded(Image.new("RGBA", (8192, 8192), (10, 20, 30, 40)), compress_level=1)
    assert refusal_code(media.keep_upload, data) == "image_too_many_pixels"
    kept = media.keep_result(data, prefix="upscaled/0")
    assert (kept.width_px, kept.height_px) == (8192, 8192)
    assert media.variant(kept.key, kept.mime, width=512, format="webp").width_px == 512


def test_a_bomb_that_lies_in_its_header_is_refused_by_the_decoder(keep):
    data = bomb_png(11_000, 11_000)
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 1, 0, 0, 0, 0))
    assert refusal_code(keep, data[:8] + small + data[8:]) in ("image_too_many_pixels", "image_undecodable")


def test_a_gif_frame_beyond_its_screen_is_counted_as_pixels(keep):
    data = bytearray(encoded(gradient((10, 10)), "GIF"))
    at = data.rindex(b"\x2c\0\0\0\0\x0a\0\x0a\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 60_000, 60_000)
    assert refusal_code(keep, bytes(data)) == "image_too_many_pixels"


def test_ten_thousand_frames_are_refused(keep):
    data = encoded(gradient((8, 8)), "GIF")
    frame = data[data.rindex(b"\x2c\0\0\0\0") : -1]
    assert refusal_code(keep, data[:-1] + frame * 9_999 + b";") == "image_too_many_frames"


def test_large_frames_together_are_too_many_pixels(tmp_path, local_media):
    frames = [Image.new("L", (100, 100), index) for index in range(10)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    limits = MediaLimits(max_animation_pixels=90_000)
    with_limit = Media(LocalStore(tmp_path / "s"), tmp_path, decoders=1, limits=limits)
    assert refusal_code(with_limit.keep_result, data) == "image_too_many_pixels"
    with_limit.close()


def with_scans(size: tuple[int, int], extra: int) -> bytes:
    """A progressive JPEG, one of whose scans (a few bytes, all pixels) is repeated."""
    data = encoded(Image.new("RGB", size, (10, 200, 30)), "JPEG", progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    tables = data.rindex(b"\xff\xc4", 0, starts[1])
    end = data.index(b"\xff\xc4", starts[1])
    return data[:end] + data[tables:end] * extra + data[end:]


@pytest.mark.parametrize(("size", "extra"), [((64, 64), 300), ((6000, 6000), 40)])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(keep, size, extra):
    """300 scans in 250 kB kept a decoder busy for half a minute."""
    assert refusal_code(keep, with_scans(size, extra)) == "image_undecodable"


@pytest.mark.parametrize(("size", "extra"), [((64, 64), 50), ((6000, 6000), 0)])
def test_a_thorough_progressive_jpeg_is_kept(media, size, extra):
    assert media.keep_upload(with_scans(size, extra), prefix="inputs/job_1/0").width_px == size[0]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_half_an_image_is_refused(keep, form):
    data = encoded(gradient((300, 200)), form)
    assert refusal_code(keep, data[: len(data) * 2 // 3]) in ("truncated_image", "image_undecodable")


def test_pixels_that_do_not_fill_the_image_are_truncated(keep):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 2, 0, 0, 0))
    short = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 500)) + chunk(b"IEND", b"")
    assert refusal_code(keep, short) == "truncated_image"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image_type"),
        (b"not an image at all", "not_an_image"),
        (b"", "not_an_image"),
        (b"RIFF\x10\0\0\0WEBPVP8 \x04\0\0\0abcd", "truncated_image"),
        (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 77, 9, 0, 0, 0)) + chunk(b"IEND", b""),
            "image_undecodable",
        ),
    ],
)
def test_no_image_no_key(keep, store, data, code):
    assert refusal_code(keep, data) == code
    assert list(store.iter_keys("refused/")) == []


def test_random_damage_is_an_answer_and_the_next_image_is_fine(keep):
    good = encoded(gradient((120, 90)), "JPEG")
    for step in range(12):
        bad = bytearray(good)
        bad[20 + step * 37] ^= 0x55
        try:
            keep(bytes(bad), prefix="damaged")
        except MediaError as refusal:
            assert refusal.code in (
                "image_undecodable",
                "truncated_image",
                "trailing_data",
                "image_too_many_pixels",
            )
    assert keep(good, prefix="fine").width_px == 120


def test_a_decompression_bomb_in_a_text_chunk_is_refused(keep):
    zipped = b"Comment\0\0" + zlib.compress(b"\0" * 90 * MIB)
    data = encoded(gradient())
    at = data.index(b"IDAT") - 4
    assert refusal_code(keep, data[:at] + chunk(b"zTXt", zipped) * 3 + data[at:]) == "image_undecodable"


@pytest.mark.parametrize(
    "prefix", ["", "../up", "a/../b", "/etc", "a/", "a b", "a.b", "a//b", "variants/x", "variants", "é"]
)
def test_a_prefix_that_is_not_our_own_is_a_bug(media, prefix):
    for keep in (media.keep_upload, media.keep_result):
        with pytest.raises(ValueError, match="prefix"):
            keep(encoded(gradient()), prefix=prefix)


# Uploads


def test_an_upload_is_turned_upright_and_loses_its_metadata(media, store, opened):
    image = Image.new("RGB", (80, 40), "blue")
    image.paste("red", (0, 0, 20, 40))  # the left edge, which orientation 6 turns to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "A Camera Maker"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPS
    data = encoded(image, "JPEG", exif=exif, comment=b"my secret comment", quality=95)
    kept = media.keep_upload(data, prefix="up/exif")
    result = opened(kept)
    assert (kept.width_px, kept.height_px) == result.size == (40, 80)
    assert result.getpixel((20, 5))[0] > 200
    assert result.getpixel((20, 70))[2] > 200
    assert dict(result.getexif()) == {}
    for word in (b"A Camera Maker", b"secret comment", b"Exif"):
        assert word in data
        assert word not in store.read(kept.key)


def test_an_uploaded_jpeg_stays_a_fine_jpeg(media, opened):
    kept = media.keep_upload(encoded(gradient((64, 64)), "JPEG", quality=90), prefix="up/jpeg")
    result = opened(kept)
    assert (kept.mime, kept.key[-4:]) == ("image/jpeg", ".jpg")
    assert [component[1:3] for component in result.layer] == [(1, 1)] * 3  # 4:4:4


@pytest.mark.parametrize("form", ["WEBP", "GIF", "AVIF"])
def test_other_formats_become_png(media, opened, form):
    kept = media.keep_upload(encoded(gradient((32, 24)), form), prefix="up/other")
    assert kept.mime == "image/png"
    assert (opened(kept).format, opened(kept).size) == ("PNG", (32, 24))


def test_text_profile_and_tail_of_an_uploaded_png_are_gone(media, store, opened):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "someone's prompt")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(gradient(), pnginfo=text, icc_profile=profile) + b"PK\x03\x04 a zip archive"
    kept = media.keep_upload(data, prefix="up/png")
    assert opened(kept).info == {}
    assert b"zip archive" not in store.read(kept.key)
    assert list(opened(kept).get_flattened_data()) == list(gradient().get_flattened_data())


def test_a_mask_keeps_its_alpha_to_the_bit(media, opened):
    mask = Image.new("RGBA", (20, 20), (10, 20, 30, 255))
    mask.paste((10, 20, 30, 0), (5, 5, 15, 15))
    mask.putpixel((0, 0), (1, 2, 3, 127))
    kept = media.keep_upload(encoded(mask), prefix="up/mask", role="mask")
    assert kept.mime == "image/png"
    assert opened(kept).tobytes() == mask.tobytes()


def test_a_jpeg_mask_becomes_lossless(media):
    kept = media.keep_upload(encoded(gradient(), "JPEG"), prefix="up/mask", role="mask")
    assert kept.mime == "image/png"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_mask_without_transparency_says_change_in_white(media, opened, mode):
    mask = Image.new(mode, (8, 8), "black")
    mask.paste("white", (0, 0, 4, 8))
    kept = opened(media.keep_upload(encoded(mask), prefix="up/mask", role="mask"))
    assert kept.mode == "RGBA"
    assert [kept.getpixel((x, 3))[3] for x in (0, 3, 4, 7)] == [0, 0, 255, 255]


def test_a_mask_in_the_other_polarity_is_white_where_it_was_transparent(media, opened):
    mask = Image.new("RGBA", (8, 8), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 4, 8))
    mask.putpixel((7, 7), (0, 0, 0, 127))
    kept = media.keep_upload(encoded(mask), prefix="up/mask", role="mask")
    for _ in range(2):  # made, then found
        white = media.white_mask(kept.key)
        assert (white.mime, white.width_px, white.height_px) == ("image/png", 8, 8)
        image = opened(white)
        assert image.mode == "L"
        assert [image.getpixel(at) for at in ((0, 0), (3, 3), (4, 4), (7, 7))] == [255, 255, 0, 128]


def test_the_other_polarity_goes_with_its_mask(media, store):
    kept = media.keep_upload(encoded(Image.new("RGBA", (8, 8))), prefix="up/mask", role="mask")
    white = media.white_mask(kept.key)
    media.delete(kept.key)
    assert not store.exists(white.key)


def test_a_palette_with_transparency_becomes_rgba(media, opened):
    image = gradient((16, 16)).quantize(8)
    kept = media.keep_upload(encoded(image, transparency=3), prefix="up/palette")
    result = opened(kept)
    transparent = [index == 3 for index in image.get_flattened_data()]
    assert result.mode == "RGBA"
    assert [alpha == 0 for alpha in result.getchannel("A").get_flattened_data()] == transparent
    assert any(transparent)


def test_sixteen_bits_become_eight_without_clipping(media, opened):
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 0x80FF, 0xFFFF)):
        image.putpixel((x, 0), value)
    result = opened(media.keep_upload(encoded(image), prefix="up/deep"))
    assert (result.mode, list(result.get_flattened_data())) == ("L", [0, 128, 255])


def test_a_cmyk_jpeg_becomes_rgb(media, opened):
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = opened(media.keep_upload(data, prefix="up/cmyk")).getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


def test_colours_of_a_wide_profile_are_converted_before_it_goes(media, opened):
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A profile in which what is called red is what sRGB calls green.
    swapped = standard.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    named = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for mode, green in (("RGB", (0, 255, 0)), ("RGBA", (0, 255, 0, 255))):
        kept = media.keep_upload(encoded(red.convert(mode), icc_profile=named), prefix="up/wide")
        pixel = opened(kept).getpixel((0, 0))
        assert all(abs(is_ - wanted) < 4 for is_, wanted in zip(pixel, green, strict=True))


def test_a_broken_profile_or_exif_block_does_not_cost_the_image(media, opened):
    data = encoded(gradient(), "JPEG", icc_profile=b"no profile at all" * 10, exif=b"Exif\0\0garbage" * 4)
    assert media.keep_upload(data, prefix="up/broken").width_px == 64


def test_the_first_frame_of_an_animation_is_kept(media, opened):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(
            frames[0],
            form,
            save_all=True,
            append_images=frames[1:],
            duration=40,
            **({"lossless": True} if form == "WEBP" else {}),
        )
        result = opened(media.keep_upload(data, prefix="up/moving"))
        assert getattr(result, "n_frames", 1) == 1
        assert result.convert("RGB").getpixel((8, 8)) == (255, 0, 0)


# Variants


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif"])
def test_a_variant_fits_its_box_and_keeps_its_shape(media, store, opened, form):
    kept = media.keep_result(encoded(gradient((400, 200))), prefix="var/fit")
    small = media.variant(kept.key, kept.mime, width=100, height=100, format=form)
    assert (small.width_px, small.height_px) == opened(small).size == (100, 50)
    assert (small.mime, opened(small).format) == (f"image/{form}", form.upper())
    assert small.key == f"variants/{kept.key}/100x50.{'jpg' if form == 'jpeg' else form}"
    assert small.sha256 == hashlib.sha256(store.read(small.key)).hexdigest()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif"])
def test_a_variant_is_made_once(media, store, tmp_path, form):
    kept = media.keep_result(encoded(gradient((200, 101))), prefix="var/once")
    first = media.variant(kept.key, kept.mime, width=51, format=form)
    path = store.root / first.key
    made = path.stat().st_ino
    other = Media(store, tmp_path, decoders=1)  # knows nothing of the first one's
    for maker in (other, media):
        assert maker.variant(kept.key, kept.mime, width=51, format=form) == first
    assert path.stat().st_ino == made
    other.close()


@pytest.mark.parametrize("far", [False, True])
def test_boxes_that_lead_to_one_size_lead_to_one_file(tmp_path, far):
    store = FarStore(tmp_path / "store") if far else LocalStore(tmp_path / "store")
    media = Media(store, tmp_path / "work", decoders=1)
    kept = media.keep_result(encoded(gradient((40, 20))), prefix="var/one")
    asked = [{"width": width, "format": "webp"} for width in (40, 41, 1000, 16_384)]
    asked += [{"height": height, "format": "webp"} for height in (20, 21, 9999)]
    assert len({media.variant(kept.key, kept.mime, **each).key for each in asked}) == 1
    assert len(list(store.iter_keys(variants.variant_prefix(kept.key)))) == 1
    media.close()


@pytest.mark.parametrize("far", [False, True])
def test_an_image_has_so_many_variants_and_no_more(tmp_path, monkeypatch, far):
    """Those that were made are served on, and those of another image are its own."""
    store = FarStore(tmp_path / "store") if far else LocalStore(tmp_path / "store")
    media = Media(store, tmp_path / "work", decoders=1)
    kept = media.keep_result(encoded(gradient((80, 80))), prefix="var/many")
    for width in range(1, variants.MAX_VARIANTS + 1):
        media.variant(kept.key, kept.mime, width=width)
    for format_ in ("png", "webp"):
        with pytest.raises(MediaError) as refusal:
            media.variant(kept.key, kept.mime, width=77, format=format_)
        assert refusal.value.code == "too_many_variants"
    fresh = Media(store, tmp_path / "work", decoders=1)
    assert fresh.variant(kept.key, kept.mime, width=5).width_px == 5
    assert media.variant(kept.key, kept.mime) == kept
    assert len(list(store.iter_keys(variants.variant_prefix(kept.key)))) == variants.MAX_VARIANTS
    media.close()
    fresh.close()


def test_a_variant_is_never_larger_than_the_image(media, opened):
    kept = media.keep_result(encoded(gradient((40, 20))), prefix="var/large")
    assert opened(media.variant(kept.key, kept.mime, width=4000, format="webp")).size == (40, 20)
    assert media.variant(kept.key, kept.mime, width=4000) == kept
    assert media.variant(kept.key, kept.mime) == kept


def test_a_thin_image_never_shrinks_to_nothing(media, opened):
    kept = media.keep_result(encoded(gradient((1000, 2))), prefix="var/thin")
    assert opened(media.variant(kept.key, kept.mime, width=10)).size == (10, 1)


def test_a_variant_is_upright_and_has_no_metadata(media, opened):
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(gradient((80, 40)), "JPEG", exif=exif, comment=b"a prompt")
    kept = media.keep_result(data, prefix="var/turned")
    small = media.variant(kept.key, kept.mime, width=10)
    assert opened(small).size == (10, 20)
    assert "comment" not in opened(small).info
    whole = media.variant(kept.key, kept.mime)
    assert (whole.width_px, whole.height_px) == (40, 80)


def test_transparency_is_kept_or_laid_on_white(media, opened):
    kept = media.keep_result(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0))), prefix="var/clear")
    assert opened(media.variant(kept.key, kept.mime, width=20, format="webp")).mode == "RGBA"
    assert opened(media.variant(kept.key, kept.mime, width=20, format="jpeg")).getpixel((5, 5)) == (
        255,
        255,
        255,
    )


def test_an_avif_larger_than_a_decoder_can_hold_is_refused_and_a_smaller_one_made(media):
    kept = media.keep_result(bomb_png(6_000, 4_500), prefix="var/avif")
    with pytest.raises(MediaError) as refusal:
        media.variant(kept.key, kept.mime, format="avif")
    assert refusal.value.code == "image_too_many_pixels"
    assert media.variant(kept.key, kept.mime, width=60, format="avif").height_px == 45


def test_a_gif_has_png_variants(media, opened):
    kept = media.keep_result(encoded(gradient((40, 40)), "GIF"), prefix="var/gif")
    assert opened(media.variant(kept.key, kept.mime, width=20)).format == "PNG"


def test_a_variant_of_nothing_is_not_found(media):
    with pytest.raises(BlobNotFoundError):
        media.variant("no/such.png", "image/png", width=10)


@pytest.mark.parametrize(
    "asked", [{"width": 0}, {"height": -1}, {"width": 20_000}, {"format": "svg"}, {"format": "gif"}]
)
def test_a_variant_that_no_one_can_make_is_a_value_error(media, asked):
    with pytest.raises(ValueError):
        media.variant("some/key.png", "image/png", **asked)


def test_delete_takes_the_variants_along_and_no_others(media, store):
    kept = media.keep_result(encoded(gradient((41, 40))), prefix="del/1")
    other = media.keep_result(encoded(gradient((42, 40))), prefix="del/1")
    for image in (kept, other):
        media.variant(image.key, image.mime, width=20)
        media.variant(image.key, image.mime, width=20, format="webp")
    media.delete(kept.key)
    media.delete(kept.key)
    assert list(store.iter_keys("del/1/")) == [other.key]
    assert len(list(store.iter_keys("variants/del/1/"))) == 2
    with pytest.raises(BlobNotFoundError):
        media.variant(kept.key, kept.mime, width=20)


# A store that is not local


def test_a_far_store_is_given_files_and_none_stay_behind(tmp_path):
    store = FarStore(tmp_path / "far")
    media = Media(store, tmp_path / "work", decoders=1)
    data = encoded(gradient((60, 30)))
    kept = media.keep_result(data, prefix="far/0")
    uploaded = media.keep_upload(data, prefix="far/up")
    small = media.variant(kept.key, kept.mime, width=20)
    fresh = Media(store, tmp_path / "work", decoders=1)
    assert store.read(kept.key) == data
    assert fresh.variant(kept.key, kept.mime, width=20) == small
    assert [store.exists(image.key) for image in (uploaded, small)] == [True, True]
    assert len(store.puts) == 3
    assert {Path(path).parent for path in store.puts} == {tmp_path / "work"}
    assert list((tmp_path / "work").iterdir()) == []
    with pytest.raises(BlobNotFoundError):
        media.variant("no/such.png", "image/png", width=10)
    media.close()
    fresh.close()


def test_a_far_store_that_fails_leaves_no_file(tmp_path, monkeypatch):
    store = FarStore(tmp_path / "far")

    def fail(path: str, key: str) -> None:
        raise StorageUnavailableError("503")

    monkeypatch.setattr(store, "put_file", fail)
    media = Media(store, tmp_path / "work", decoders=1)
    with pytest.raises(StorageUnavailableError):
        media.keep_result(encoded(gradient()), prefix="far/0")
    assert list((tmp_path / "work").iterdir()) == []
    media.close()


def test_limits_cannot_be_changed_under_way():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MediaLimits().max_pixels = 1  # type: ignore[misc]
