"""A job made in one dialect is read in each other one by its own id, and by no other account."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from joserfc import jwk
from joserfc import jwt as foreign

from tests.e2e.conftest import JWT_SECRET, Service

STRANGER = 815


def _native(order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/api/images/generate", order


def _replicate(order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/predictions", {"version": "openai/gpt-image-2", "input": order}


def _chatgpt2api(order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/api/image-tasks/generations", {"client_task_id": "one-in-all", "model": "gpt-image-2", **order}


MADE_IN: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "native": _native,
    "openai": lambda order: ("/v1/images/generations/async", order),
    "replicate": _replicate,
    "fal": lambda order: ("/fal/queue/fal-ai/gpt-image-1", order),
    "chatgpt2api": _chatgpt2api,
    "generation": lambda order: ("/api/generation", order),
}
# Where it is read, what says that it has ended well, and where its first image is.
READ_IN: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], str]]] = {
    "native": (
        "/api/images/tasks/{id}",
        lambda said: said["status"] == "succeeded",
        lambda said: said["images"][0]["signed_url"],
    ),
    "openai": (
        "/v1/images/tasks/{id}",
        lambda said: said["status"] == "completed",
        lambda said: said["result"]["data"][0]["b64_json"],
    ),
    "replicate": (
        "/v1/predictions/{id}",
        lambda said: said["status"] == "succeeded",
        lambda said: said["output"] if isinstance(said["output"], str) else said["output"][0],
    ),
    "fal": (
        "/fal/queue/fal-ai/gpt-image-1/requests/{id}",
        lambda said: said["images"],
        lambda said: said["images"][0]["url"],
    ),
    "chatgpt2api": (
        "/api/image-tasks?ids={id}",
        lambda said: said["items"][0]["status"] == "success",
        lambda said: said["items"][0]["data"][0]["url"],
    ),
    "generation": (
        "/api/generation?sessionId={id}&providerId=openai",
        lambda said: said["status"] == "succeeded",
        lambda said: said["output"][0],
    ),
}
NOT_FOUND: dict[str, Callable[[Any], Any]] = {
    "native": lambda said: said["code"] == "not_found",
    "openai": lambda said: said["error"]["type"] == "not_found_error",
    "replicate": lambda said: said["title"] and said["detail"] and said["status"] == 404,
    "fal": lambda said: said["detail"] and said["error_type"] == "not_found",
    "generation": lambda said: said["id"] is None and said["status"] == "failed" and said["error"],
}


@pytest.fixture(scope="module")
def jobs(service: Service) -> dict[str, str]:
    """The id of the job made in each dialect; all have ended."""

    for dialect, request in MADE_IN.items():
        path, body = request({"prompt": f"a fox made in {dialect}"})
        answer = service.http.post(service.url(path), json=body, timeout=30)
        assert answer.ok, (dialect, answer.text)
    tasks = service.http.get(service.url("/api/images/tasks?limit=100"), timeout=30).json()["data"]
    ids = {task["request"]["prompt"]: task["id"] for task in tasks}
    found = {dialect: ids[f"a fox made in {dialect}"] for dialect in MADE_IN}
    for task in service.all_ended(list(found.values())):
        assert task["status"] == "succeeded", task
    return found


def _read(service: Service, dialect: str, job_id: str, headers: dict[str, str] | None = None) -> requests.Response:
    key = headers or {"Authorization": str(service.http.headers["Authorization"])}
    url = service.url(READ_IN[dialect][0].format(id=job_id))
    return requests.get(url, headers={**key, "Accept": "application/json"}, timeout=30)


@pytest.mark.parametrize("dialect", READ_IN)
def test_a_job_is_read_in_each_dialect_wherever_it_was_made(
    service: Service, jobs: dict[str, str], dialect: str
) -> None:
    _, ended, link = READ_IN[dialect]
    for made_in, job_id in jobs.items():
        answer = _read(service, dialect, job_id)
        assert answer.status_code == 200, (made_in, answer.text)
        said = answer.json()
        assert ended(said), (made_in, answer.text)
        assert _is_image(service, link(said)), made_in


def _is_image(service: Service, found: str) -> bool:
    """Whether a link without a key, or base64, is one."""
    if not found.startswith(("/", "http")):
        return base64.b64decode(found).startswith(b"\x89PNG")
    head = requests.head(requests.compat.urljoin(service.url("/"), found), timeout=30)
    return head.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("dialect", READ_IN)
def test_another_accounts_job_is_not_found_in_the_dialects_own_form(
    service: Service, jobs: dict[str, str], dialect: str
) -> None:
    said = {"customer_id": STRANGER, "exp": int(time.time()) + 300}
    token = foreign.encode({"alg": "HS256"}, said, jwk.OctKey.import_key(JWT_SECRET))
    for job_id in jobs.values():
        answer = _read(service, dialect, job_id, {"Authorization": f"Bearer {token}"})
        if dialect == "chatgpt2api":  # its list names what is missing
            assert answer.json() == {"items": [], "missing_ids": [job_id]}
        else:
            assert answer.status_code == 404, answer.text
            assert NOT_FOUND[dialect](answer.json()), answer.text
