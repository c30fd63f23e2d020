"""For tests and benchmarks: a sandbox in a process of its own, and a client for its control endpoints."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from sandbox.emulators import Emulator, all_emulators

START_S = 20.0
STOP_S = 5.0
READY = "sandbox ready "


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. ``environ`` leads an adapter to its twin; ``<name>_url`` are base URLs."""

    url: str
    pid: int

    def environ(self, provider: str, *, key: str = "test-key") -> dict[str, str]:
        """The variables that configure this provider, and no other, with its twin for an upstream."""
        return self._emulator(provider).leading_here(self.url, key)

    def base_url(self, provider: str) -> str:
        """Where the twin's paths begin."""
        return self.url + self._emulator(provider).prefix

    @staticmethod
    def _emulator(provider: str) -> Emulator:
        return next(emulator for emulator in all_emulators() if emulator.name == provider)

    @property
    def chatgpt2api_url(self) -> str:
        """For ``CHATGPT2API_BASE_URL``, with or without ``/v1`` appended."""
        return f"{self.url}/c2a"

    @property
    def openai_url(self) -> str:
        """For ``OPENAI_BASE_URL``."""
        return f"{self.url}/openai/v1"

    @property
    def stability_url(self) -> str:
        """For ``STABILITY_BASE_URL``."""
        return f"{self.url}/stability"

    @property
    def flux_url(self) -> str:
        """For ``BFL_API_BASE``."""
        return f"{self.url}/flux"

    @property
    def wavespeed_url(self) -> str:
        """For ``WAVESPEED_BASE_URL``."""
        return f"{self.url}/wavespeed"

    @property
    def replicate_url(self) -> str:
        """For ``REPLICATE_BASE_URL``, with or without ``/v1`` appended."""
        return f"{self.url}/replicate"

    @property
    def huggingface_url(self) -> str:
        """For ``HF_ROUTER_BASE_URL`` and ``HF_ENDPOINT``: the twin is router, Hub and CDN in one."""
        return f"{self.url}/huggingface"

    @property
    def llamaswap_url(self) -> str:
        """For ``LLAMASWAP_BASE_URL``, with or without ``/v1`` appended."""
        return f"{self.url}/llamaswap"

    @property
    def gemini_url(self) -> str:
        """For ``GOOGLE_GEMINI_BASE_URL``."""
        return f"{self.url}/gemini"

    @property
    def xai_url(self) -> str:
        """For ``XAI_BASE_URL``."""
        return f"{self.url}/xai/v1"

    def counts(self, *, keys: bool = True) -> dict[str, Any]:
        """Tallies by provider."""
        return dict(self._call("GET", f"/control/counts?keys={int(keys)}"))

    def requests(self, provider: str | None = None) -> list[dict[str, Any]]:
        """The latest requests of one provider or of all, oldest first; those that no twin took among the latter."""
        return list(self._call("GET", "/control/requests" + (f"?provider={provider}" if provider else "")))

    def reset(self) -> None:
        """Forget jobs, counts and faults."""
        self._call("POST", "/control/reset")

    def settings(self, **changed: object) -> dict[str, Any]:
        """Change settings, and read all of them."""
        return dict(self._call("PUT", "/control/settings", changed))

    def add_fault(self, faults: str, **narrowed: object) -> dict[str, Any]:
        """Set a rule: ``add_fault("500", provider="openai", route="submit", count=2)``."""
        return dict(self._call("POST", "/control/faults", {"faults": faults, **narrowed}))

    def clear_faults(self) -> None:
        """Drop every rule."""
        self._call("DELETE", "/control/faults")

    def advance_clock(self, seconds: float) -> None:
        """Let time pass for the sandbox alone."""
        self._call("POST", "/control/clock", {"advance_s": seconds})

    def restart(self, provider: str) -> int:
        """Let one twin behave as if restarted; says how many jobs broke off."""
        return int(self._call("POST", "/control/restart", {"provider": provider})[provider])

    def _call(self, method: str, path: str, document: object = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        asked = Request(f"{self.url}{path}", data=body, method=method, headers=headers)  # noqa: S310 - our own URL
        with urlopen(asked, timeout=10) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def running_sandbox(*, latency_s: float = 0.0, **settings: object) -> Iterator[Sandbox]:
    """Start a sandbox on a free port of the loopback, and stop it afterwards, come what may."""
    given = {f"SANDBOX_{name.upper()}": str(value) for name, value in settings.items()}
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0", "--latency", str(latency_s)],
        env={**os.environ, **given, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        sandbox = Sandbox(_ready_url(process), process.pid)
        sandbox.settings(latency_s=latency_s)
        yield sandbox
    finally:
        _stop(process)


def _ready_url(process: "subprocess.Popen[str]") -> str:
    if process.stdout is None:
        raise RuntimeError("the sandbox was started without a pipe")
    readable, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if readable else ""
    if not line.startswith(READY):
        raise RuntimeError(f"the sandbox did not start within {START_S} s; it said {line!r}")
    return line.removeprefix(READY).strip()


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
