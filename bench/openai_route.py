"""What the OpenAI route adds to a call over going straight to the upstream, everything durable; LiteLLM next to it.

The upstream is the sandbox's OpenAI emulator over HTTP in all cases, and takes exactly as long for each. LiteLLM's
proxy keeps nothing: no row, no image, no credits. It is measured where ``make setup-bench`` has installed it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests

from bench.load import Load, LoadPlan, request
from bench.open_load import OpenLoad, OpenPlan
from bench.rounds import percentile
from bench.stand import stand
from bench.table import Bound, Row
from core.embedded import ports

LATENCY_S = 0.5
RATES = (1, 10, 40)  # calls a second
LITELLM = Path(__file__).parent / ".venv-litellm" / "bin" / "litellm"
LITELLM_KEY = "sk-bench"
START_S = 120.0
ORDER = {
    "model": "gpt-image-2", "prompt": f"a red kite [sandbox:latency={LATENCY_S}]", "size": "1024x1024",
    "quality": "low", "n": 1,
}  # fmt: skip
P50, P95 = Bound("ours", at_most=50), Bound("ours", at_most=150)
SANDBOX_KEY = "sk-sandbox"


def measure(folder: Path, *, seconds: float, rounds: int = 3) -> list[Row]:
    """One service; each contender takes its turn at each rate."""
    with (
        stand(folder / "openai", sandbox={"SANDBOX_LATENCY_S": str(LATENCY_S)}) as service,
        OpenLoad() as load,
        _litellm(folder, str(service.running.sandbox_url)) as litellm_port,
    ):
        upstream = urlsplit(str(service.running.sandbox_url)).port or 80
        calls = {
            "straight": (upstream, request("POST", "/openai/v1/images/generations", key=SANDBOX_KEY, body=ORDER)),
            "ours": (service.port, request("POST", "/v1/images/generations", key=service.admin_key, body=ORDER)),
        }
        if litellm_port:
            path = "/v1/images/generations"
            calls["litellm"] = (litellm_port, request("POST", path, key=LITELLM_KEY, body=ORDER))
        for port, text in calls.values():  # connections, statements, imports
            load.send(OpenPlan(port, text, 5, 2.0))
        rows: list[Row] = []
        for rate in RATES:
            took: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name, (port, text) in calls.items():
                    took[name] += load.send(OpenPlan(port, text, rate, max(seconds, 10 / rate))).took_ms
            rows += _rows(rate, took)
        if litellm_port:
            rows.append(_capacity(litellm_port, calls["litellm"][1], seconds))
        return rows


def _rows(rate: int, took: dict[str, list[float]]) -> Iterator[Row]:
    for share, bound in ((0.5, P50), (0.95, P95)):
        added = {name: percentile(ms, share) - percentile(took["straight"], share) for name, ms in took.items()}
        yield Row(
            f"added by the OpenAI route, {rate} calls/s, p{share * 100:.0f}",
            "ms",
            added["ours"],
            added.get("litellm"),
            "LiteLLM, which keeps nothing" if "litellm" in added else "",
            bound,
            {"straight_ms": percentile(took["straight"], share)},
        )


def _capacity(port: int, text: str, seconds: float) -> Row:
    """LiteLLM's own rate with many calls at once, for orientation."""
    with Load() as load:
        result = load.send(LoadPlan(port, [text], connections=150, seconds=seconds * 4), expected=200)
    return Row("LiteLLM's image route, as many as it takes", "calls/s", result.rate)


@contextlib.contextmanager
def _litellm(folder: Path, sandbox_url: str) -> Iterator[int | None]:
    """The port of a LiteLLM proxy before the same upstream; None where it is not installed."""
    if not LITELLM.exists():
        yield None
        return
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: gpt-image-2\n"
        "    litellm_params:\n"
        f"      {{model: openai/gpt-image-2, api_base: '{sandbox_url}/openai/v1', api_key: {SANDBOX_KEY}}}\n"
        f"general_settings: {{master_key: {LITELLM_KEY}}}\n"
    )
    [port] = ports.free_ports(1)
    # The file of prices that it would fetch at its start is not what is measured.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(
            [LITELLM, "--config", config, "--port", str(port), "--host", "127.0.0.1"],
            env=environ,
            stdout=log,
            stderr=log,
        )
        try:
            _until_up(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=30)


def _until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    until_at = time.monotonic() + START_S
    while time.monotonic() < until_at and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"http://127.0.0.1:{port}/health/liveliness", timeout=2).ok:
                return
        time.sleep(0.5)
    raise TimeoutError("LiteLLM did not start")
