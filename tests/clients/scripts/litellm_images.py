"""Images by litellm from OpenAI's and fal's routes; one takes a number of seconds, argument 3. Prints one JSON line."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib

import httpx
import litellm

base, key, slow = sys.argv[1:]
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


prompt = f"a slow fox by litellm [sandbox:latency={slow}]"
made = litellm.image_generation(prompt=prompt, model="openai/gpt-image-2", **given)
found["slow"] = len(made.data[0].b64_json)
made = litellm.image_generation(prompt="a fox by litellm", model="openai/gpt-image-2", n=2, **given)
found["made"] = [len(each.b64_json) for each in made.data]
edited = litellm.image_edit(image=_png(), prompt="a hat on it", model="openai/gpt-image-2", **given)
found["edited"] = len(edited.data[0].b64_json)
try:
    litellm.image_generation(prompt="a fox", model="openai/gpt-imag-2", **given)
except litellm.NotFoundError as error:
    found["unknown"] = error.status_code
for model in ("fal-ai/flux-pro/v1.1", "fal-ai/imagen4/preview", "fal-ai/recraft/v3/text-to-image"):
    made = litellm.image_generation(
        prompt="a red fox", model=f"fal_ai/{model}", api_base=f"{base}/fal/run", api_key=key, n=1, size="1024x1024"
    )
    image = httpx.get(made.data[0].url)
    found[model] = [len(made.data), image.status_code, image.headers["content-type"]]
try:  # bria's models are not among ours
    litellm.image_generation(
        prompt="a red fox", model="fal_ai/bria/text-to-image/3.2", api_base=f"{base}/fal/run", api_key=key
    )
except litellm.NotFoundError as error:
    found["unknown_app"] = "did you mean" in str(error)
sys.stdout.write(json.dumps(found) + "\n")
