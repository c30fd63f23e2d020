"""A page of a file, opened in Chromium at an origin of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HUNG_S = 120.0


def opened(page: Path, fragment: str, profile: Path) -> str:
    """The page as it stands once its scripts have nothing more to do. Skips the test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; .ci/run installs Debian's")
    with _origin(page.parent) as origin:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
                   "--timeout=60000", "--virtual-time-budget=60000", "--dump-dom",
                   f"{origin}/{page.name}#{fragment}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True)
    return done.stdout


@contextmanager
def _origin(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
