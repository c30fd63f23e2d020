"""The Procfile as it stands, run by honcho: it starts, answers, takes a job to its end, and stops."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from job_engine import root

from core.embedded.ports import answers, free_ports
from providers.configured import PROVIDERS
from sandbox.emulators import environ as sandbox_environ
from sandbox.testing import Sandbox

PROGRAM = "import sys; sys.argv[0] = 'darkroom'; from app.cli import main; sys.exit(main())"


def test_honcho_runs_the_procfile(tmp_path: Path, database_url: str, redis_url: str, sandbox: Sandbox) -> None:
    port, flower_port = free_port_pair()
    providers = {name for known in PROVIDERS.values() for name in known.names()}
    environ = {name: value for name, value in os.environ.items() if name not in providers}
    environ |= {
        **sandbox_environ(sandbox.url),
        # `python` of the Procfile is this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root()),
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "REDIS_URL": redis_url,
        "DARKROOM_VAR": str(tmp_path / "var"),
        "DARKROOM_PORT": str(port),
        "DARKROOM_FLOWER_PORT": "",
    }
    environ.pop("FLOWER_BASIC_AUTH", None)
    for command in (["account", "create", "me"], ["grant", "me", "100"]):
        darkroom(*command, environ=environ)
    key = re.search(r"dk_\S+", darkroom("key", "create", "me", environ=environ))
    assert key
    log = tmp_path / "log"
    with log.open("wb") as output:
        honcho = subprocess.Popen(
            [sys.executable, "-m", "honcho", "-d", str(root()), "-e", str(tmp_path / "none"), "start"],
            env=environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: ready(url) and answers(flower_port), honcho, log)
        task = requests.post(
            f"{url}/api/images/generate",
            json={"prompt": "a fox"},
            headers={"Authorization": f"Bearer {key[0]}", "Prefer": "wait=60"},
            timeout=90,
        ).json()
        assert task["status"] == "succeeded", task
        password = (tmp_path / "var" / "flower.password").read_text().strip()
        flower = f"http://127.0.0.1:{flower_port}/api/workers"
        assert requests.get(flower, timeout=30).status_code == 401
        assert requests.get(flower, auth=("admin", password), timeout=30).status_code == 200
        os.kill(honcho.pid, signal.SIGTERM)
        honcho.wait(40)
        assert not answers(port)
        assert not answers(flower_port)
    finally:
        if honcho.poll() is None:
            os.killpg(honcho.pid, signal.SIGKILL)
            honcho.wait()


def free_port_pair() -> tuple[int, int]:
    """A free port whose next one, which Flower takes, is free, too."""
    while True:
        [port] = free_ports(1)
        if port < 65_535 and not answers(port + 1):
            return port, port + 1


def darkroom(*arguments: str, environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environ,
        cwd=root(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def eventually(holds: Callable[[], object], honcho: subprocess.Popen[bytes], log: Path, within_s: float = 90.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        if honcho.poll() is not None or time.monotonic() > until:
            pytest.fail(log.read_text()[-6000:])
        time.sleep(0.1)
