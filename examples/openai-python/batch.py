"""A batch by the OpenAI client: a file of orders, submitted as the queue has room. pip install openai"""

import base64
import json
import os
import time

from openai import OpenAI

client = OpenAI(base_url=os.environ["DARKROOM_SERVER"] + "/v1", api_key=os.environ["DARKROOM_KEY"])

orders = {"fox": "a red fox asleep", "owl": "an owl in the rain"}
with open("orders.jsonl", "w", encoding="utf-8") as lines:
    for name, prompt in orders.items():
        body = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024"}
        line = {"custom_id": name, "method": "POST", "url": "/v1/images/generations", "body": body}
        lines.write(json.dumps(line) + "\n")

with open("orders.jsonl", "rb") as lines:
    file = client.files.create(file=lines, purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")

while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(1)
    batch = client.batches.retrieve(batch.id)
print(batch.status, batch.request_counts)

for line in client.files.content(batch.output_file_id).iter_lines():
    made = json.loads(line)
    with open(made["custom_id"] + ".png", "wb") as image:
        image.write(base64.b64decode(made["response"]["body"]["data"][0]["b64_json"]))
