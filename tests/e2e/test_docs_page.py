"""The reference page in a real browser, and the programs that it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import Service

HERE = Path(__file__).resolve().parents[2]
EXAMPLES = HERE / "app" / "web" / "examples"
# A browser that has not drawn the page by then never will.
HUNG_S = 120.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUNNERS = {
    "generate.sh": [shutil.which("bash")],
    "generate.py": [sys.executable],
    "generate.mjs": [shutil.which("node")],
}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs Debian's")
def test_the_page_is_drawn_by_a_browser(service: Service, tmp_path: Path) -> None:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
               "--virtual-time-budget=20000", "--window-size=1400,3000", "--dump-dom",
               service.url("/docs")]  # fmt: skip
    page = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True).stdout
    shown = re.sub(r"<(script|style).*?</\1>|<!--.*?-->", "", page, flags=re.DOTALL)
    for words in ("Submit an order", "Bearer Token", "In Python", "In JavaScript", "Shell Curl"):
        assert words in shown, words
    # What is code is drawn as code (the viewer has a backtick of its own, in a drawing of letters).
    prose = re.sub(r"<pre.*?</pre>", "", shown, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", "", prose)
    assert not (stray := re.search(r".{0,40}(\w`|`\w).{0,40}", text)), stray


@pytest.mark.parametrize("name", RUNNERS)
def test_the_programs_of_the_page_run(service: Service, tmp_path: Path, name: str) -> None:
    runner = RUNNERS[name]
    if runner[0] is None:
        pytest.skip("its interpreter is not installed here; .ci/run installs what tests need")
    key = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    environ = {"PATH": os.environ["PATH"], "DARKROOM_SERVER": service.running.url, "DARKROOM_KEY": key}
    done = subprocess.run(
        [*map(str, runner), str(EXAMPLES / name)],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=HUNG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [made] = tmp_path.glob("fox*.png")
    with Image.open(made) as image:
        assert image.size == (1024, 1024)


@pytest.mark.parametrize("name", RUNNERS)
def test_the_programs_of_the_page_end_on_errors(service: Service, tmp_path: Path, name: str) -> None:
    """A wrong key once made a loop ask a hundred times in five seconds."""
    runner = RUNNERS[name]
    if runner[0] is None:
        pytest.skip("its interpreter is not installed here; .ci/run installs what tests need")
    environ = {"PATH": os.environ["PATH"], "DARKROOM_SERVER": service.running.url, "DARKROOM_KEY": "dk_no_key"}
    done = subprocess.run(
        [*map(str, runner), str(EXAMPLES / name)],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=HUNG_S, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert not list(tmp_path.glob("fox*"))
