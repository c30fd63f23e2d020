"""Images by litellm; with a number of seconds as argument 3, one that takes so long. Prints one JSON line."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib

import litellm

base, key, *slow = sys.argv[1:]
given = {"api_base": f"{base}/v1", "api_key": key}
found: dict[str, object] = {}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png() -> io.BytesIO:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress((b"\x00" + b"\xc8\x1e\x1e" * 64) * 64))
    image = io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + pixels + _chunk(b"IEND", b""))
    image.name = "fox.png"
    return image


if slow:
    prompt = f"a slow fox by litellm [sandbox:latency={slow[0]}]"
    made = litellm.image_generation(prompt=prompt, model="openai/gpt-image-2", **given)
    found["slow"] = len(made.data[0].b64_json)
else:
    made = litellm.image_generation(prompt="a fox by litellm", model="openai/gpt-image-2", n=2, **given)
    found["made"] = [len(each.b64_json) for each in made.data]
    edited = litellm.image_edit(image=_png(), prompt="a hat on it", model="openai/gpt-image-2", **given)
    found["edited"] = len(edited.data[0].b64_json)
    try:
        litellm.image_generation(prompt="a fox", model="openai/gpt-imag-2", **given)
    except litellm.NotFoundError as error:
        found["unknown"] = error.status_code
sys.stdout.write(json.dumps(found) + "\n")
