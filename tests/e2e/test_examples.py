"""Every file of examples/ is run as it is, against the running service."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests
from dotenv import dotenv_values
from PIL import Image

from tests.client_programs import command_of_this_code, run_client
from tests.e2e.browser import opened
from tests.e2e.conftest import Service
from tests.e2e.tls_proxy import make_certificate, tls_in_front_of

GIVEN = (512, 512)  # of the fox.png that some of them edit
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# What each one leaves in its folder.
MADE = {
    "curl/generate.sh": ["fox.png"],
    "curl/edit.sh": ["snow.png"],
    "requests/generate.py": ["fox-0.png", "fox-1.png"],
    "openai-python/generate.py": ["fox.png", "snow.png"],
    "openai-python/batch.py": ["fox.png", "owl.png"],
    "openai-node/generate.mjs": ["fox.png", "snow.png"],
    "ai-sdk/generate.mjs": ["openai.png", "compatible.png", "replicate.webp", "fal.jpeg"],
    "litellm/generate.py": ["fox.png"],
    "replicate-python/run.py": ["fox.webp"],
    "replicate-node/run.mjs": ["fox.webp"],
    "fal-python/subscribe.py": ["fox.png"],
    "fal-node/subscribe.mjs": ["fox.png"],
    "mcp/generate.py": ["fox.png"],
}


def test_every_example_is_run() -> None:
    programs = {
        str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.*") if path.suffix in (".sh", ".py", ".mjs")
    }
    assert programs == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_an_example_makes_its_images(service: Service, tmp_path: Path, name: str) -> None:
    Image.new("RGB", GIVEN, "orange").save(tmp_path / "fox.png")
    with _address_for(name, service, tmp_path) as environ:
        environ["DARKROOM_KEY"] = _key(service)
        if name.startswith("mcp"):
            environ["PATH"] = f"{command_of_this_code(tmp_path)}:{os.environ['PATH']}"
        done = run_client(EXAMPLES / name, cwd=tmp_path, environ=environ, litellm=name.startswith("litellm"))
    assert done.returncode == 0, done.stdout + done.stderr
    for made in MADE[name]:
        with Image.open(tmp_path / made) as image:
            assert image.format is not None
            assert made.endswith(f".{image.format.lower()}"), (made, image.format)
            assert made == "snow.png" or image.size != GIVEN, made


@contextmanager
def _address_for(name: str, service: Service, folder: Path) -> Iterator[dict[str, str]]:
    """Where the example finds the service: fal's client for Python speaks https alone."""
    if not name.startswith("fal-python"):
        yield {"DARKROOM_SERVER": service.running.url}
        return
    certificate = make_certificate(folder)
    with tls_in_front_of(int(service.running.url.rpartition(":")[2]), certificate) as port:
        yield {"DARKROOM_SERVER": f"https://127.0.0.1:{port}", "SSL_CERT_FILE": str(certificate)}


@pytest.fixture
def settings_of(service: Service, monkeypatch: pytest.MonkeyPatch) -> partial[dict[str, str | None]]:
    """Reads an example's file of variables, with our address and key in their places."""
    monkeypatch.setenv("DARKROOM_SERVER", service.running.url)
    monkeypatch.setenv("DARKROOM_KEY", _key(service))
    return partial(dotenv_values, interpolate=True)


def _key(service: Service) -> str:
    return str(service.http.headers["Authorization"]).removeprefix("Bearer ")


def _png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_open_webui_generates_and_edits(service: Service, settings_of: partial[dict[str, str | None]]) -> None:
    """Its requests as they were recorded: no response_format for gpt-image, a link fetched with the same header."""
    told = settings_of(EXAMPLES / "open-webui" / "open-webui.env")
    headers = {"Authorization": f"Bearer {told['IMAGES_OPENAI_API_KEY']}"}
    base, model, size = told["IMAGES_OPENAI_API_BASE_URL"], told["IMAGE_GENERATION_MODEL"], told["IMAGE_SIZE"]
    order = {"model": model, "prompt": "a red fox asleep", "n": 1, "size": size}
    made = requests.post(f"{base}/images/generations", json=order, headers=headers, timeout=60)
    assert made.status_code == 200, made.text
    image = base64.b64decode(made.json()["data"][0]["b64_json"])
    assert _png(image).size == (1024, 1024)
    form = {"model": told["IMAGE_EDIT_MODEL"], "prompt": "in winter", "n": "1"}
    edited = requests.post(
        f"{told['IMAGES_EDIT_OPENAI_API_BASE_URL']}/images/edits",
        data=form,
        files=[("image[]", ("a.png", image, "image/png")), ("image[]", ("b.png", image, "image/png"))],
        headers=headers,
        timeout=60,
    )
    assert edited.status_code == 200, edited.text
    linked = {**order, "response_format": "url"}
    [link] = requests.post(f"{base}/images/generations", json=linked, headers=headers, timeout=60).json()["data"]
    shown = requests.get(link["url"], headers=headers, timeout=60)
    assert shown.headers["Content-Type"].startswith("image/")


def test_librechat_generates_and_edits(settings_of: partial[dict[str, str | None]]) -> None:
    told = settings_of(EXAMPLES / "librechat" / "librechat.env")
    headers = {"Authorization": f"Bearer {told['IMAGE_GEN_OAI_API_KEY']}"}
    order = {"model": told["IMAGE_GEN_OAI_MODEL"], "prompt": "a red fox asleep", "n": 1, "size": "1024x1024"}
    url = f"{told['IMAGE_GEN_OAI_BASEURL']}/images"
    made = requests.post(f"{url}/generations", json=order, headers=headers, timeout=60).json()
    image = base64.b64decode(made["data"][0]["b64_json"])
    assert _png(image).size == (1024, 1024)
    edited = requests.post(
        f"{url}/edits",
        data={"model": told["IMAGE_GEN_OAI_MODEL"], "prompt": "in winter"},
        files=[("image[]", ("image.png", image, "image/png"))],
        headers={**headers, "User-Agent": "axios/1.12.2"},
        timeout=60,
    ).json()
    assert _png(base64.b64decode(edited["data"][0]["b64_json"])).size == (1024, 1024)


def test_the_page_generates_in_a_browser(service: Service, tmp_path: Path) -> None:
    given = urlencode({"server": service.running.url, "key": _key(service)})
    page = opened(EXAMPLES / "browser" / "index.html", given, tmp_path)
    assert re.search(r'id="status">succeeded<', page), page
    assert re.search(r'<img id="image"[^>]*src="[^"]+signature=', page), page
