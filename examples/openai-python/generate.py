"""The OpenAI client, pointed at Darkroom: only base_url differs. pip install openai"""

import base64
import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["DARKROOM_SERVER"] + "/v1", api_key=os.environ["DARKROOM_KEY"])

made = client.images.generate(model="gpt-image-2", prompt="a red fox asleep", size="1024x1024")
with open("fox.png", "wb") as file:
    file.write(base64.b64decode(made.data[0].b64_json))

with open("fox.png", "rb") as image:
    edited = client.images.edit(model="gpt-image-2", image=image, prompt="put it in the snow")
with open("snow.png", "wb") as file:
    file.write(base64.b64decode(edited.data[0].b64_json))

# Any other model of Darkroom's, by the same call; fields of ours go in extra_body.
other = client.images.generate(
    model="flux-2-pro", prompt="a red fox asleep", response_format="url", extra_body={"seed": 7}
)
print(other.data[0].url)
