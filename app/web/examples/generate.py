import os
import requests  # pip install requests

server = os.environ["DARKROOM_SERVER"]
session = requests.Session()
session.headers["Authorization"] = f"Bearer {os.environ['DARKROOM_KEY']}"

answer = session.post(f"{server}/api/images/generate", json={"prompt": "a red fox asleep", "size": "1024x1024"})
answer.raise_for_status()
task = answer.json()
while task["status"] not in ("succeeded", "failed", "cancelled"):
    answer = session.get(f"{server}/api/images/tasks/{task['id']}", params={"wait": 30})
    answer.raise_for_status()
    task = answer.json()
if task["error"]:
    raise SystemExit(task["error"]["code"])
for image in task["images"]:
    answer = session.get(f"{server}/api/images/tasks/{task['id']}/image", params={"index": image["index"]})
    answer.raise_for_status()
    with open(f"fox-{image['index']}.png", "wb") as file:
        file.write(answer.content)
