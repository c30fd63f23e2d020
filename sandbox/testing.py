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


class _Url:
    """The base URL of one emulator, as the official client of its upstream wants it."""

    def __init__(self, provider: str, path: str = "") -> None:
        self._provider, self._path = provider, path

    def __get__(self, sandbox: "Sandbox", _kind: type) -> str:
        return sandbox.base_url(self._provider) + self._path


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. ``environ`` leads an adapter to its emulator; ``<name>_url`` are base URLs."""

    url: str
    pid: int

    chatgpt2api_url = _Url("chatgpt2api")
    flux_url = _Url("flux")
    gemini_url = _Url("gemini")
    huggingface_url = _Url("huggingface")  # router, Hub and CDN in one
    llamaswap_url = _Url("llamaswap")
    openai_url = _Url("openai", "/v1")
    replicate_url = _Url("replicate")
    stability_url = _Url("stability")
    wavespeed_url = _Url("wavespeed")
    xai_url = _Url("xai", "/v1")

    def environ(self, provider: str, *, key: str = "test-key") -> dict[str, str]:
        """The variables that configure this provider, and no other, with its emulator for an upstream."""
        return self._emulator(provider).leading_here(self.url, key)

    def base_url(self, provider: str) -> str:
        """Where the emulator's paths begin."""
        return self.url + self._emulator(provider).prefix

    @staticmethod
    def _emulator(provider: str) -> Emulator:
        return next(emulator for emulator in all_emulators() if emulator.name == provider)

    def counts(self, *, keys: bool = True) -> dict[str, Any]:
        """Tallies by provider."""
        return dict(self._call("GET", f"/control/counts?keys={int(keys)}"))

    def requests(self, provider: str | None = None) -> list[dict[str, Any]]:
        """The latest requests of one provider or of all, oldest first; those that no emulator took among the latter."""
        return list(self._call("GET", "/control/requests" + (f"?provider={provider}" if provider else "")))

    def reset(self) -> None:
        """Delete jobs, counts and faults."""
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

    def change_models(self, provider: str, **change: object) -> None:
        """Let the list of an upstream leave out (``drop``), change (``merge``) or ``add`` items; nothing: as it was."""
        self._call("PUT", f"/control/models/{provider}", change)

    def advance_clock(self, seconds: float) -> None:
        """Let time pass for the sandbox alone."""
        self._call("POST", "/control/clock", {"advance_s": seconds})

    def restart(self, provider: str) -> int:
        """Let one emulator behave as if restarted; says how many jobs broke off."""
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
        env={**os.environ, **given, "DARKROOM_LOG_FORMAT": "text", "PYTHONPATH": paths},
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
