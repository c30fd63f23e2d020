"""Submit, follow the job by its events, fetch the images. pip install requests"""

import json
import os

import requests

server = os.environ["DARKROOM_SERVER"]
session = requests.Session()
session.headers["Authorization"] = f"Bearer {os.environ['DARKROOM_KEY']}"

answer = session.post(
    f"{server}/api/images/generate",
    json={"prompt": "a red fox asleep", "size": "1024x1024", "n": 2},
    headers={"Idempotency-Key": os.urandom(8).hex()},  # sent again with the same key, this is the same job
    timeout=30,
)
answer.raise_for_status()
task = answer.json()

with session.get(f"{server}/api/images/tasks/{task['id']}/events", stream=True, timeout=60) as events:
    for line in events.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            print(line.removeprefix("event: "))

task = session.get(f"{server}/api/images/tasks/{task['id']}", timeout=30).json()
if task["status"] != "succeeded":
    raise SystemExit(json.dumps(task["error"]))
for image in task["images"]:
    # A signed link: good for an <img>, a mail or a chat, without the key.
    found = requests.get(requests.compat.urljoin(server, image["signed_url"]), timeout=30)
    found.raise_for_status()
    with open(f"fox-{image['index']}.png", "wb") as file:
        file.write(found.content)
