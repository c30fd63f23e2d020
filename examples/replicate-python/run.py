"""Replicate's client, pointed at Darkroom. pip install replicate"""

import os

# Without /v1: the client adds it.
os.environ["REPLICATE_BASE_URL"] = os.environ["DARKROOM_SERVER"]
os.environ["REPLICATE_API_TOKEN"] = os.environ["DARKROOM_KEY"]

import replicate

output = replicate.run("black-forest-labs/flux-schnell", input={"prompt": "a red fox asleep", "num_outputs": 1})
with open("fox.webp", "wb") as file:
    file.write(output[0].read())
