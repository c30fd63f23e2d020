"""litellm's provider of fal against a service: python fal_litellm.py BASE KEY. Prints one JSON line."""

from __future__ import annotations

import json
import sys

import httpx
import litellm

BASE, KEY = sys.argv[1:3]
seen: dict[str, object] = {}
for model in ("fal_ai/fal-ai/flux-pro/v1.1", "fal_ai/fal-ai/imagen4/preview", "fal_ai/fal-ai/recraft/v3/text-to-image"):
    made = litellm.image_generation(
        "a red fox", model=model, api_base=f"{BASE}/fal/run", api_key=KEY, n=1, size="1024x1024"
    )
    image = httpx.get(made.data[0].url)
    seen[model] = [len(made.data), image.status_code, image.headers["content-type"]]
try:  # bria's models are not among ours
    litellm.image_generation(
        "a red fox", model="fal_ai/bria/text-to-image/3.2", api_base=f"{BASE}/fal/run", api_key=KEY
    )
except Exception as error:  # noqa: BLE001 (litellm has an error of its own for each status)
    seen["unknown"] = [type(error).__name__, "did you mean" in str(error)]
sys.stdout.write(json.dumps(seen) + "\n")
