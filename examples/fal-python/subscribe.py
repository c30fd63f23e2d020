"""fal's client, pointed at Darkroom. It always speaks https, so Darkroom stands behind a proxy with a certificate.
pip install fal-client"""

import os
from urllib.parse import urlsplit

host = urlsplit(os.environ["DARKROOM_SERVER"]).netloc
os.environ["FAL_RUN_HOST"] = f"{host}/fal/run"
os.environ["FAL_QUEUE_RUN_HOST"] = f"{host}/fal/queue"
os.environ["FAL_KEY"] = os.environ["DARKROOM_KEY"]

import fal_client  # noqa: E402 - it reads its hosts when it is imported
import httpx  # noqa: E402

result = fal_client.subscribe(
    "fal-ai/flux/dev", {"prompt": "a red fox asleep", "image_size": "square_hd", "output_format": "png"}
)
image = httpx.get(result["images"][0]["url"]).raise_for_status()
with open("fox.png", "wb") as file:
    file.write(image.content)

# fal_client.upload() would send the file, and your key, to fal's own hosts: send the image in the request instead.
edited = fal_client.subscribe(
    "fal-ai/nano-banana/edit",
    {"prompt": "put it in the snow", "image_urls": [fal_client.encode_file("fox.png")]},
)
print(edited["images"][0]["url"])
