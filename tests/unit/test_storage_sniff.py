"""What bytes claim to be, and where an image ends, without decoding."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from storage import sniff
from storage.base import MediaError
from storage.structure import read_structure

FORMATS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
}


def encoded(form: str, size: tuple[int, int] = (40, 30), **options) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, form, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("form", FORMATS)
def test_format_and_size_are_read_from_the_header(form):
    assert sniff.read_header(encoded(form)) == sniff.Header(FORMATS[form], 40, 30)


def test_lossless_and_extended_webp_tell_their_size():
    assert sniff.read_header(encoded("WEBP", lossless=True)).width_px == 40
    extended = encoded("WEBP", (300, 200), exif=Image.Exif().tobytes() + b"x" * 20)
    assert extended[12:16] == b"VP8X"
    assert sniff.read_header(extended) == sniff.Header("image/webp", 300, 200)


def test_the_size_of_a_jpeg_is_found_behind_its_metadata():
    data = encoded("JPEG", exif=Image.Exif().tobytes() + b"\0" * 60_000, comment=b"c" * 60_000)
    padded = data[:2] + b"\xff" * 20 + data[2:]
    assert sniff.read_header(padded) == sniff.Header("image/jpeg", 40, 30)


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_an_image"),
        (b"just some text", "not_an_image"),
        (b"<!doctype html><p>hello", "not_an_image"),
        (b"PK\x03\x04" + b"\0" * 40, "not_an_image"),
        (b"\x89PNG", "not_an_image"),
        (SVG, "unsupported_image_type"),
        (b"\xef\xbb\xbf  <SVG onload='x'>", "unsupported_image_type"),
        (encoded("BMP"), "unsupported_image_type"),
        (encoded("TIFF"), "unsupported_image_type"),
        (encoded("ICO"), "unsupported_image_type"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_image_type"),
        (b"\x89PNG\r\n\x1a\n", "truncated_image"),
        (b"GIF89a\x01", "truncated_image"),
        (b"\xff\xd8\xff\xe0\x00\x10JF", "truncated_image"),
        (b"RIFF\x10\0\0\0WEBPVP8X", "truncated_image"),
        (b"\xff\xd8\xff\xd9", "image_undecodable"),
        (
            b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0)),
            "image_undecodable",
        ),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"tEXt", b"x" * 20), "image_undecodable"),
    ],
)
def test_what_is_no_acceptable_image_is_named(data, code):
    with pytest.raises(MediaError) as refusal:
        sniff.read_header(data)
    assert refusal.value.code == code


@pytest.mark.parametrize("form", FORMATS)
def test_a_header_cut_at_any_byte_is_an_answer_and_never_a_crash(form):
    data = encoded(form)
    for end in range(min(len(data), 700)):
        try:
            header = sniff.read_header(data[:end])
        except MediaError:
            continue
        assert (header.width_px, header.height_px) == (40, 30)


def test_a_jpeg_of_a_million_segments_is_given_up_soon():
    data = b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2_000_000
    started_s = time.process_time()
    with pytest.raises(MediaError) as refusal:
        sniff.read_header(data)
    assert refusal.value.code == "image_undecodable"
    assert time.process_time() - started_s < 0.05


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("tail", [b"x", b"<script>alert(1)</script>", b"\0\0\0\0\0\0\0\0", b"PK\x03\x04zipzip"])
def test_the_end_of_an_image_is_found_whatever_follows(form, tail):
    data = encoded(form)
    assert read_structure(data, FORMATS[form], max_frames=50).end == len(data)
    assert read_structure(data + tail, FORMATS[form], max_frames=50).end == len(data)


@pytest.mark.parametrize("form", FORMATS)
def test_an_image_cut_short_anywhere_is_truncated(form):
    data = encoded(form)
    for end in {len(data) - 1, len(data) - 5, len(data) * 3 // 4, len(data) // 2}:
        with pytest.raises(MediaError) as refusal:
            read_structure(data[:end], FORMATS[form], max_frames=50)
        assert refusal.value.code in ("truncated_image", "image_undecodable")


def test_a_progressive_jpeg_ends_behind_its_last_scan():
    data = encoded("JPEG", (200, 200), progressive=True)
    assert data.count(b"\xff\xda") > 1
    assert read_structure(data + b"tail", "image/jpeg", max_frames=50).end == len(data)


def test_a_thumbnail_inside_a_jpeg_does_not_end_it():
    data = encoded("JPEG", exif=Image.Exif().tobytes() + encoded("JPEG"))
    assert read_structure(data, "image/jpeg", max_frames=50).end == len(data)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_frames_are_counted_before_anything_is_decoded(form):
    frames = [Image.new("RGB", (8, 8), (index * 20, 255 - index * 20, 0)) for index in range(6)]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=50)
    assert read_structure(file.getvalue(), FORMATS[form], max_frames=6).frames == 6
    with pytest.raises(MediaError) as refusal:
        read_structure(file.getvalue(), FORMATS[form], max_frames=5)
    assert refusal.value.code == "image_too_many_frames"


def test_a_gif_frame_that_reaches_beyond_the_screen_is_seen():
    data = bytearray(encoded("GIF", (10, 10)))
    at = data.rindex(b"\x2c\0\0\0\0\x0a\0\x0a\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 60_000, 50_000)
    found = read_structure(bytes(data), "image/gif", max_frames=5)
    assert (found.width_px, found.height_px) == (60_010, 50_010)


def test_a_png_chunk_whose_sum_is_wrong_is_damage():
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") + 10] ^= 1
    with pytest.raises(MediaError) as refusal:
        read_structure(bytes(data), "image/png", max_frames=5)
    assert refusal.value.code == "image_undecodable"
