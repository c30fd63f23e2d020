"""Install the clients that the tests drive and that cannot be in our own environment: those of JavaScript, and LiteLLM,
which wants another version of the OpenAI client. Each is installed again only when its lock has changed.

Run by ``make setup-clients``. Exits with 1, naming it, where a registry cannot be reached.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.client_programs import CLIENTS, LITELLM, MODULES, NODE, NPM


def _node_packages() -> None:
    # npm runs the scripts of packages by the node on PATH.
    environ = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([NODE, NPM, "ci", "--no-audit", "--no-fund", "--silent"], cwd=CLIENTS, env=environ, check=True)


def _litellm() -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", LITELLM.parent.parent], check=True)
    pip = [LITELLM, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-qq", "--require-hashes"]
    subprocess.run([*pip, "-r", CLIENTS / "litellm.lock"], check=True)


def _install(name: str, lock: Path, folder: Path, run: Callable[[], None]) -> bool:
    stamp = folder / ".lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return True
    try:
        run()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name} cannot be installed here ({error}); its tests are skipped", file=sys.stderr)  # noqa: T201
        return False
    stamp.write_text(digest)
    return True


if __name__ == "__main__":
    done = [
        _install("the JavaScript clients", CLIENTS / "package-lock.json", MODULES, _node_packages),
        _install("LiteLLM", CLIENTS / "litellm.lock", LITELLM.parent.parent, _litellm),
    ]
    sys.exit(0 if all(done) else 1)
