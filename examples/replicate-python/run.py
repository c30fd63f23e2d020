"""Replicate's client, pointed at Darkroom. pip install replicate"""

import os
import urllib.request

# Without /v1: the client adds it.
os.environ["REPLICATE_BASE_URL"] = os.environ["DARKROOM_SERVER"]
os.environ["REPLICATE_API_TOKEN"] = os.environ["DARKROOM_KEY"]

import replicate

output = replicate.run("black-forest-labs/flux-schnell", input={"prompt": "a red fox asleep", "num_outputs": 1})
# A link, which needs no key. (Over https the client makes a FileOutput of it, whose str() is the link.)
urllib.request.urlretrieve(str(output[0]), "fox.webp")
