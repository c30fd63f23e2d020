"""LiteLLM's SDK, pointed at Darkroom. pip install litellm"""

import base64
import os

import litellm

server, key = os.environ["DARKROOM_SERVER"], os.environ["DARKROOM_KEY"]

made = litellm.image_generation("a red fox asleep", model="openai/gpt-image-2", api_base=f"{server}/v1", api_key=key)
with open("fox.png", "wb") as file:
    file.write(base64.b64decode(made.data[0].b64_json))

other = litellm.image_generation(
    "a red fox asleep", model="fal_ai/fal-ai/flux/schnell", api_base=f"{server}/fal/run", api_key=key
)
print(other.data[0].url)
