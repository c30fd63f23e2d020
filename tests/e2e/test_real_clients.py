"""Other services' own packages, unmodified, against the running service: each program of tests/clients/scripts/.

Most of them check what they see themselves and exit with 0. What the others saw is compared here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.client_programs import CLIENTS, run_client
from tests.e2e.browser import opened
from tests.e2e.conftest import Service
from tests.e2e.nginx import NGINX, nginx_in_front_of
from tests.e2e.tls_proxy import make_certificate, tls_in_front_of

SCRIPTS = CLIENTS / "scripts"
# Argument 3 of those that wait for an image: longer than the service's silence (conftest.py), and than the patience of
# the proxy that they go through where nginx is installed.
SLOW_S = "5"
READ_TIMEOUT_S = 2
THIRD = {
    "openai_images.mjs": SLOW_S,
    "openai_ai_sdk.mjs": SLOW_S,
    "litellm_images.py": SLOW_S,
    "fal_node.mjs": "blob",
}
PAGE = "uploads_browser.html"
SELF_CHECKED = (
    "options_chat.mjs",
    "replicate_ai_sdk.mjs",
    "replicate_js.mjs",
    "uploads_fal_storage.mjs",
    "uploads_openai_files.py",
    "uploads_replicate_files.mjs",
    "uploads_replicate_files.py",
    "webhooks_verify.mjs",  # by Standard Webhooks' own package, and by Replicate's
)
SEEN: dict[str, dict[str, Any]] = {
    "openai_images.mjs": {
        "url": 2,
        "events": ["image_generation.completed"],
        "refused": {"name": "BadRequestError", "code": "moderation_blocked", "id": True},
        "unknown": {"name": "NotFoundError", "code": "model_not_found", "param": "model"},
        "slow": True,
        "late": {"name": "TypeError", "message": "terminated"},  # it does not repeat an answer that has begun
    },
    "openai_ai_sdk.mjs": {"compatible": 2, "unknown": 404},
    "litellm_images.py": {
        "unknown": 404,
        "fal-ai/flux-pro/v1.1": [1, 200, "image/jpeg"],
        "fal-ai/imagen4/preview": [1, 200, "image/png"],
        "fal-ai/recraft/v3/text-to-image": [1, 200, "image/png"],
        "unknown_app": True,
    },
    "fal_ai_sdk.mjs": {
        "generate": ["image/png", "image/png"],
        "metadata": [1024, False],
        "edit": 1,
        "refused": [422, "body.prompt: must say what the image shall show"],
    },
    "fal_node.mjs": {
        "polling": [1, True, 36, "COMPLETED"],
        "streaming": [1, True, 36, "COMPLETED"],
        "stream": ["COMPLETED", "COMPLETED"],
        "status": "COMPLETED",
        "result": "image/png",
        "cancel": ["ApiError", 400, "the request has ended already", "bad_request", True],
        "bad_input": [
            "ValidationError",
            422,
            "prompt: must be a text; num_images: must be a whole number",
            "type_error",
            True,
        ],
        "foreign": ["ApiError", 404, "no such task", "not_found", True],
        "run": ["data:image/png;", "data:image/png;"],
        "blob": 1,
    },
    "fal_python.py": {
        "subscribe": [2, True],  # images; and their links open without a key
        "updates": ["Completed", 1],
        "events": ["Completed", True, True],  # with a log and the time it took
        "get": 1,
        "again": 1024,
        "result": 1,
        "cancel_late": [400, "ALREADY_COMPLETED"],
        "run": "data:image/png;",
        "bad_input": [422, "type_error", ["body.num_images", "body.prompt"]],
        "missing": [422, "missing", ["body.prompt"]],
        "unknown": [404, "not_found", True],
        "wrong_key": 401,
        "async": [1, 1, 1, 1],
        "cancel": "requested",
    },
}


def test_every_script_is_run() -> None:
    programs = {path.name for path in SCRIPTS.iterdir() if path.is_file()}
    assert programs == {*SELF_CHECKED, *SEEN, PAGE}


@pytest.mark.parametrize("name", SELF_CHECKED)
def test_a_client_finds_what_it_expects(service: Service, tmp_path: Path, name: str) -> None:
    if name == "uploads_replicate_files.py":  # it takes its image from there
        shutil.copy(SCRIPTS / "uploads_openai_files.py", tmp_path)
    _run(service, name, tmp_path)


@pytest.mark.parametrize("name", SEEN)
def test_a_client_has_seen_what_was_sent(service: Service, tmp_path: Path, name: str) -> None:
    seen = _run(service, name, tmp_path)
    assert {key: seen.get(key) for key in SEEN[name]} == SEEN[name]


def _run(service: Service, name: str, folder: Path) -> dict[str, Any]:
    key = service.running.admin_key_path.read_text().strip()
    with _address_for(name, service, folder) as (base, environ):
        arguments = (base, key, THIRD.get(name, ""))
        done = run_client(SCRIPTS / name, *arguments, cwd=folder, environ=environ, litellm=name.startswith("litellm"))
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def _address_for(name: str, service: Service, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The base for a program, and what it needs to believe it: fal's client for Python speaks https alone."""
    if THIRD.get(name) == SLOW_S and NGINX:
        with nginx_in_front_of(service.running.url, folder / "nginx", read_timeout_s=READ_TIMEOUT_S) as address:
            yield address, {}
        return
    if name != "fal_python.py":
        yield service.running.url, {}
        return
    certificate = make_certificate(folder)
    with tls_in_front_of(int(service.running.url.rpartition(":")[2]), certificate) as port:
        yield f"https://127.0.0.1:{port}", {"SSL_CERT_FILE": str(certificate)}


def test_a_page_of_another_origin_uploads_edits_and_shows(service: Service, tmp_path: Path) -> None:
    key = service.running.admin_key_path.read_text().strip()
    page = opened(SCRIPTS / PAGE, f"{service.running.url}|{key}", tmp_path)
    said = re.search(r'<pre id="out">(.*?)</pre>', page)
    assert said, page
    assert said[1] != "...", page
    seen = json.loads(unescape(said[1]))
    assert (seen["status"], seen["w"], seen["gone"], seen["del"]) == (200, 128, 404, 200), seen
    assert seen["blob"] > 0
    assert all(seen[header] for header in ("request_id", "task", "cost", "rate")), seen
