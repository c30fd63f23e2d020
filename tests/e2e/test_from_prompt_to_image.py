"""What the README promises, from outside, through every real part."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from PIL import Image, ImageChops

from core.db import Database, make_engine
from jobs.maintenance import audit
from tests.e2e.conftest import Service, until

# Its calls may be sent again, it makes an image of any size, and the sandbox counts them by our keys.
RESENDABLE = "chatgpt2api-gpt-image-2"


def image_of(service: Service, task: dict[str, Any], index: int = 0) -> tuple[bytes, requests.Response]:
    answer = service.http.get(service.url(task["images"][index]["url"]), timeout=30)
    assert answer.status_code == 200
    return answer.content, answer


def test_a_prompt_becomes_the_image_that_the_task_describes(service: Service) -> None:
    task = service.ended(service.submit(prompt="a lighthouse at dawn", size="640x384", model=RESENDABLE)["id"])

    assert task["status"] == "succeeded"
    data, answer = image_of(service, task)
    [said] = task["images"]
    assert hashlib.sha256(data).hexdigest() == said["sha256"]
    assert answer.headers["ETag"] == f'"{said["sha256"]}"'
    assert (len(data), answer.headers["Content-Type"]) == (said["size_bytes"], said["mime"])
    assert Image.open(io.BytesIO(data)).size == (said["width"], said["height"]) == (640, 384)


def test_success_is_held_and_captured_failure_is_held_and_released(service: Service) -> None:
    good = service.ended(service.submit(prompt="a bridge")["id"])
    bad = service.ended(service.submit(prompt="[sandbox:refuse] a bridge")["id"])

    price = good["price"]["quoted_microcredits"]
    assert price > 0
    assert service.ledger(good["id"]) == {"hold": price, "capture": price}
    assert (bad["status"], bad["error"]["code"]) == ("failed", "content_refused")
    assert service.ledger(bad["id"]) == {"hold": price, "release": price}


@pytest.mark.parametrize("model", ["gpt-image-2", "chatgpt2api-gpt-image-2"])
def test_an_edit_changes_only_what_the_mask_leaves_open(service: Service, model: str) -> None:
    size = (1024, 1024)
    before = Image.radial_gradient("L").resize(size).convert("RGB")
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    window = (256, 256, 768, 768)
    mask.paste((0, 0, 0, 0), window)
    answer = service.http.post(
        service.url("/api/images/edit"),
        data={"prompt": "put a red boat in the middle", "model": model},
        files={"image": ("in.png", png(before), "image/png"), "mask": ("mask.png", png(mask), "image/png")},
        timeout=30,
    )
    assert answer.status_code == 202, answer.text
    task = service.ended(answer.json()["id"])
    assert task["status"] == "succeeded", task["error"]
    after = Image.open(io.BytesIO(image_of(service, task)[0])).convert("RGB")

    assert ImageChops.difference(before.crop(window), after.crop(window)).getbbox() is not None
    outside = ImageChops.difference(before, after)
    outside.paste((0, 0, 0), window)
    assert outside.getbbox() is None


def test_many_at_once_all_end_and_each_was_submitted_once(service: Service) -> None:
    prompts = [f"number {number} of many" for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(
            pool.map(lambda prompt: service.submit(prompt=prompt, size="256x256", model=RESENDABLE)["id"], prompts)
        )

    assert {task["status"] for task in service.all_ended(ids)} == {"succeeded"}
    assert_submitted_once(service)


def test_a_killed_worker_loses_no_job_and_buys_nothing_twice(service: Service) -> None:
    ids = [
        service.submit(prompt=f"[sandbox:latency=2] survivor {number}", size="256x256", model=RESENDABLE)["id"]
        for number in range(20)
    ]
    until(lambda: any(service.task(task_id)["status"] == "running" for task_id in ids), 30, "a job to run")
    service.kill("worker")

    assert {task["status"] for task in service.all_ended(ids, within_s=90)} == {"succeeded"}
    assert_submitted_once(service)
    assert books(service) == []


def test_flower_lists_the_worker_and_the_tasks(service: Service) -> None:
    job_id = service.submit(prompt="seen by flower")["id"]
    service.ended(job_id)
    flower = requests.Session()
    flower.auth = ("admin", service.running.flower_password_path.read_text().strip())

    def tasks() -> list[dict[str, Any]]:
        answer = flower.get(f"{service.running.flower_url}/api/tasks", params={"search": job_id}, timeout=30)
        rows = [task for task in answer.json().values() if task["name"] == "jobs.run" and task["uuid"] == job_id]
        return rows if rows and rows[0]["state"] != "STARTED" else []  # its end is told a moment later

    [task] = until(tasks, 30, "Flower to hear how the job ended")
    assert task["state"] == "SUCCESS"
    assert task["runtime"] is not None
    workers = flower.get(f"{service.running.flower_url}/api/workers", timeout=30).json()
    assert any(name.startswith("worker@") for name in workers)
    assert requests.get(f"{service.running.flower_url}/api/tasks", timeout=30).status_code == 401


def test_the_command_line_makes_an_image_from_a_script(service: Service, tmp_path: Any) -> None:
    target = tmp_path / "fox.png"
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from app.cli import main; main()"),
            *(
                "generate",
                "a fox",
                "-o",
                str(target),
                "--size",
                "320x320",
                "-m",
                RESENDABLE,
                "--server",
                service.running.url,
            ),
        ],
        env={**service.running.environ, "DARKROOM_KEY": service.running.admin_key_path.read_text().strip()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(target).size == (320, 320)


def assert_submitted_once(service: Service) -> None:
    per_key = service.counts()["chatgpt2api"]["submits_by_key"]
    assert per_key
    assert {key: count for key, count in per_key.items() if count > 1} == {}


def books(service: Service) -> list[audit.Finding]:
    database = Database(make_engine(service.running.settings.database_url, pool_size=1))
    try:
        with database.transaction() as connection:
            return audit.check(connection)
    finally:
        database.dispose()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
