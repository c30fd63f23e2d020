"""Every file of examples/ is run as it is, against the running service."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.client_programs import run_client
from tests.e2e.conftest import Service

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# What each one leaves in its folder.
MADE = {
    "curl/generate.sh": ["fox.png"],
    "curl/edit.sh": ["snow.png"],
    "requests/generate.py": ["fox-0.png", "fox-1.png"],
    "openai-python/generate.py": ["fox.png", "snow.png"],
    "openai-node/generate.mjs": ["fox.png", "snow.png"],
    "ai-sdk/generate.mjs": ["openai.png", "compatible.png", "replicate.png", "fal.png"],
    "litellm/generate.py": ["fox.png"],
    "replicate-python/run.py": ["fox.webp"],
    "replicate-node/run.mjs": ["fox.webp"],
    "fal-python/subscribe.py": ["fox.png"],
    "fal-node/subscribe.mjs": ["fox.png"],
}


def test_every_example_is_run() -> None:
    programs = {
        str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.*") if path.suffix in (".sh", ".py", ".mjs")
    }
    assert programs == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_an_example_makes_its_images(service: Service, tmp_path: Path, name: str) -> None:
    key = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    Image.new("RGB", (512, 512), "orange").save(tmp_path / "fox.png")
    environ = {"DARKROOM_SERVER": service.running.url, "DARKROOM_KEY": key}
    done = run_client(EXAMPLES / name, cwd=tmp_path, environ=environ, litellm=name.startswith("litellm"))
    assert done.returncode == 0, done.stdout + done.stderr
    for made in MADE[name]:
        with Image.open(tmp_path / made) as image:
            assert min(image.size) >= 1000, made
