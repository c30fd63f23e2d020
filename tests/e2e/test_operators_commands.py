"""What an operator asks of a running service, by the commands of docs/operating.md."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.commands import darkroom_here
from tests.e2e.conftest import Service

PROMPT = "ein roter Fuchs ✓ for the operator"
DARKROOM = "import sys; from app.cli import main; sys.argv[0] = 'darkroom'; main()"


def darkroom(service: Service, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """The command in the place of the service; without ``key`` by the admin's."""
    return darkroom_here(arguments, _environ(service, key), Path.cwd())


def darkroom_process(service: Service, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """As an operator runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", DARKROOM, *arguments],
        env=_environ(service, key),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _environ(service: Service, key: str) -> dict[str, str]:
    return {**service.running.environ, "DARKROOM_KEY": key}


def said(service: Service, *arguments: str) -> str:
    done = darkroom(service, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(service: Service, *conditions: str) -> list[dict[str, Any]]:
    """The tasks that a search of every account finds."""
    tasks: list[dict[str, Any]] = json.loads(said(service, "tasks", "--json", *conditions))["data"]
    return tasks


@pytest.fixture(scope="module")
def studio(service: Service) -> str:
    """The key of an account that is not the admin's."""
    said(service, "account", "create", "studio")
    said(service, "grant", "studio", "1000")
    token: str = json.loads(said(service, "key", "create", "studio", "--json"))["token"]
    return token


@pytest.fixture(scope="module")
def theirs(service: Service, studio: str) -> dict[str, Any]:
    """A task of that account that has an image, and next to it one that failed."""
    headers = {"Authorization": f"Bearer {studio}", "Prefer": "wait=60"}
    made = [
        requests.post(
            service.url("/api/images/generate"),
            json={"prompt": prompt, "model": "gpt-image-2", "metadata": {"customer": "a secret name"}},
            headers={**headers, "X-Request-Id": request_id},
            timeout=90,
        )
        for prompt, request_id in ((PROMPT, "order-of-studio"), ("no [sandbox:refuse]", "refused-of-studio"))
    ]
    assert [(each.status_code, each.json()["status"]) for each in made] == [(200, "succeeded"), (200, "failed")]
    task: dict[str, Any] = made[0].json()
    task["refused"] = made[1].json()
    return task


def test_a_task_of_another_account_is_found_by_what_is_known_of_it(service: Service, theirs: dict[str, Any]) -> None:
    shown = darkroom_process(service, "show", theirs["id"], "--json")
    upstream_id = json.loads(shown.stdout)["calls"][0]["upstream_id"]
    refused = theirs["refused"]
    for conditions in (
        ("--request-id", "order-of-studio"),
        ("--prompt", PROMPT),
        ("--prompt-hash", sha256(PROMPT.encode()).hexdigest()),
        ("--account", "studio", "--status", "succeeded"),
        ("--account", "studio", "--provider", "openai", "--status", "succeeded", "--model", "gpt-image-2"),
        *([("--upstream-id", upstream_id)] if upstream_id else []),
    ):
        assert [each["id"] for each in found(service, *conditions)] == [theirs["id"]], conditions
    assert [each["id"] for each in found(service, "--account", "studio")] == [refused["id"], theirs["id"]]
    assert [each["id"] for each in found(service, "--code", refused["error"]["code"], "--account", "studio")] == [
        refused["id"]
    ]
    assert found(service, "--account", "studio", "--created-before", theirs["created_at"]) == []
    assert found(service, "--account", "no one") == []


def test_a_search_shows_the_prompt_only_when_it_is_asked_for(service: Service, theirs: dict[str, Any]) -> None:
    plain = said(service, "tasks", "--request-id", "order-of-studio") + said(service, "show", theirs["id"])
    assert "studio" in plain and "order-of-studio" in plain and "succeeded" in plain
    for hidden in (PROMPT, "a secret name", "signature="):
        assert hidden not in plain
    assert PROMPT in said(service, "tasks", "--request-id", "order-of-studio", "--contents")
    assert PROMPT in said(service, "show", theirs["id"], "--contents")


def test_another_accounts_task_is_shown_with_its_calls_and_its_timeline(
    service: Service, theirs: dict[str, Any]
) -> None:
    shown = said(service, "show", theirs["refused"]["id"])
    assert theirs["refused"]["error"]["code"] in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("call ")]
    steps = [line.split()[-1] for line in shown.splitlines() if line.startswith("step ")]
    assert (steps[0], steps[-1]) == ("queued", "failed")


def test_without_the_scope_admin_no_other_account_is_seen(
    service: Service, studio: str, theirs: dict[str, Any]
) -> None:
    ours = service.wait_for("generate", prompt="the admin's own")
    searched = darkroom_process(service, "tasks", "--account", "admin", key=studio)
    assert (searched.returncode, "scope admin" in searched.stderr, searched.stdout) == (4, True, "")
    shown = darkroom_process(service, "show", ours["id"], key=studio)
    assert (shown.returncode, "not_found" in shown.stderr, shown.stdout) == (1, True, "")
    listed = darkroom(service, "tasks", key=studio)
    assert theirs["id"] in listed.stdout and ours["id"] not in listed.stdout


def test_a_pause_is_said_of_the_tasks_behind_it_and_resume_lifts_it(service: Service, studio: str) -> None:
    said(service, "providers", "pause", "gemini", "--reason", "invoice unpaid")
    try:
        headers = {"Authorization": f"Bearer {studio}"}
        order = {"prompt": "behind a pause", "model": "gemini-3.1-flash-image"}
        task = requests.post(service.url("/api/images/generate"), json=order, headers=headers, timeout=30).json()
        assert "invoice unpaid" in said(service, "providers")
        own = darkroom(service, "show", task["id"], key=studio).stdout
        for shown in (own, said(service, "show", task["id"]), said(service, "tasks", "--account", "studio")):
            assert "paused" in shown
    finally:
        said(service, "providers", "resume", "gemini")
    assert "invoice unpaid" not in said(service, "providers")


def test_the_callers_request_id_goes_with_the_call_to_the_upstream(service: Service, theirs: dict[str, Any]) -> None:
    asked = f"{service.running.sandbox_url}/control/requests?provider=openai"
    sent = [each["headers"].get("X-Client-Request-Id", "") for each in requests.get(asked, timeout=30).json()]
    assert [name.partition(":")[0] for name in sent if "of-studio" in name] == ["order-of-studio", "refused-of-studio"]
