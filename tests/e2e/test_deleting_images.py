"""Deleting a task's images in the running service, and what its administrator then sees."""

from __future__ import annotations

import json

from click.testing import CliRunner

from app.cli import main
from tests.e2e.conftest import Service


def test_deleted_images_are_gone_from_the_disk_and_audit_and_doctor_find_nothing(service: Service, monkeypatch) -> None:
    task = service.ended(service.submit(prompt="a fox", size="1024x1024")["id"])
    var = service.running.admin_key_path.parent
    folder = var / "blobs" / "jobs" / task["id"]
    address = service.url(f"/api/images/tasks/{task['id']}")
    assert service.http.get(f"{address}/image?width=64", timeout=30).status_code == 200
    assert list(folder.rglob("*.*"))

    answer = service.http.delete(address, timeout=30)
    assert (answer.status_code, answer.json()["images"][0]["deleted"]) == (200, True)
    assert service.http.get(f"{address}/image", timeout=30).status_code == 410
    assert not folder.exists()
    assert not (var / "blobs" / "variants" / "jobs" / task["id"]).exists()

    books = service.http.get(service.url("/api/admin/audit"), timeout=60)
    assert books.json() == {"clean": True, "findings": []}
    monkeypatch.setenv("DARKROOM_VAR", str(var))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    examined = CliRunner().invoke(main, ["doctor", "--json"])
    assert (examined.exit_code, json.loads(examined.stdout)) == (
        0,
        {"clean": True, "findings": [], "paused": [], "screens": []},
    )
