"""fal-client against a service: python fal_python.py BASE KEY, BASE with https, its certificate in SSL_CERT_FILE.

The hosts are read when fal_client is imported, so they are set first. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

BASE, KEY = sys.argv[1].removeprefix("https://").rstrip("/"), sys.argv[2]
os.environ.update(FAL_RUN_HOST=f"{BASE}/fal/run", FAL_QUEUE_RUN_HOST=f"{BASE}/fal/queue", FAL_KEY=KEY)

import fal_client  # noqa: E402
import httpx  # noqa: E402

APP = "fal-ai/gpt-image-1"
PIXELS = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
seen: dict[str, object] = {}


def opens(url: str) -> bool:
    """Whether a link opens without a key."""
    found = httpx.get(url)
    return found.status_code == 200 and found.headers["content-type"].startswith("image/")


def subscribed() -> None:
    updates: list[str] = []
    ids: list[str] = []
    result = fal_client.subscribe(
        APP,
        {"prompt": "a red fox", "image_size": "square_hd", "num_images": 2, "unheard_of": 1},
        with_logs=True,
        on_enqueue=ids.append,
        on_queue_update=lambda status: updates.append(type(status).__name__),
        priority="low",
        start_timeout=60,
    )
    seen["subscribe"] = [len(result["images"]), all(opens(image["url"]) for image in result["images"])]
    seen["updates"] = [updates[-1], len(ids)]


def handled() -> None:
    handle = fal_client.submit(APP, {"prompt": "a kite"})
    events = list(handle.iter_events(with_logs=True, interval=0.1))
    seen["events"] = [type(events[-1]).__name__, bool(events[-1].logs), "inference_time" in events[-1].metrics]
    seen["get"] = len(handle.get()["images"])
    again = fal_client.SyncClient(key=KEY).get_handle(APP + "/edit", handle.request_id)
    seen["again"] = again.get()["images"][0]["width"]
    seen["result"] = len(fal_client.result(APP, handle.request_id)["images"])
    try:
        handle.cancel()
    except fal_client.FalClientHTTPError as error:
        seen["cancel_late"] = [error.status_code, error.response.json()["status"]]


def ran() -> None:
    result = fal_client.run(f"{APP}/edit-image", {"prompt": "blue", "image_urls": [PIXELS], "sync_mode": True})
    seen["run"] = result["images"][0]["url"][:15]


def refused() -> None:
    for name, app, input_ in (
        ("bad_input", APP, {"prompt": 7, "num_images": "two"}),
        ("unknown", "fal-ai/gpt-image-11", {"prompt": "x"}),
        ("missing", APP, {}),
    ):
        try:
            fal_client.submit(app, input_)
        except fal_client.FalClientHTTPError as error:
            said = error.message
            told = (
                sorted(".".join(map(str, each["loc"])) for each in said)
                if isinstance(said, list)
                else "did you mean" in said
            )
            seen[name] = [error.status_code, error.error_type, told]
    try:
        fal_client.SyncClient(key="dk_wrong_key").submit(APP, {"prompt": "x"})
    except fal_client.FalClientHTTPError as error:
        seen["wrong_key"] = error.status_code


async def at_once() -> None:
    client = fal_client.AsyncClient(key=KEY)
    results = await asyncio.gather(*(client.subscribe(APP, {"prompt": f"a cat {n}"}) for n in range(4)))
    seen["async"] = [len(result["images"]) for result in results]
    handle = await client.submit(APP, {"prompt": "to be cancelled"})
    try:
        await handle.cancel()
        seen["cancel"] = "requested"
    except fal_client.FalClientHTTPError as error:
        seen["cancel"] = error.status_code


subscribed()
handled()
ran()
refused()
asyncio.run(at_once())
sys.stdout.write(json.dumps(seen) + "\n")
