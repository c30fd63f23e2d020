"""What is ordered: a seeded stream of mixed orders, a third of them with a fault at the upstream."""

from __future__ import annotations

import base64
import io
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

Provider = Literal["chatgpt2api", "openai", "replicate", "wavespeed", "flux"]
Way = Literal["native", "rerun", "openai", "replicate", "fal"]
ASYNC_MODEL, SYNC_MODEL = "chatgpt2api-gpt-image-2", "gpt-image-2"
# One of each recovery class at least: A, C that blocks, B, B whose history does not tell (so C), C that is polled.
MODELS: Mapping[Provider, str] = {
    "chatgpt2api": ASYNC_MODEL,
    "openai": SYNC_MODEL,
    "replicate": "replicate-flux-schnell",
    "wavespeed": "ws-flux-schnell",
    "flux": "flux-2-pro",
}
SIZES: Mapping[Provider, Mapping[str, str]] = {
    "chatgpt2api": {"size": "256x256"},
    "openai": {"size": "1024x1024"},
    "replicate": {"aspect_ratio": "1:1"},
    "wavespeed": {"size": "256x256"},
    "flux": {"size": "256x256"},
}
SHARES: Mapping[Provider, float] = {"chatgpt2api": 45, "openai": 20, "replicate": 13, "wavespeed": 13, "flux": 9}
EDITORS = ("chatgpt2api", "openai")
WAYS: Mapping[Way, float] = {"native": 40, "rerun": 8, "openai": 20, "replicate": 16, "fal": 16}
_POLLED = (
    "latency=0",
    "latency=3",
    "429 retry_after=1 times=1",
    "drop at=check times=2",
    "500 at=check times=2",
    "garbage at=check times=1",
    "refuse",
)

# Faults that pass by themselves and are over before the drain ends.
PASSING: Mapping[Provider, tuple[str, ...]] = {
    "chatgpt2api": (
        "latency=0",
        "latency=3",
        "429 retry_after=1 times=1",
        "500 times=1",
        "503 times=1",
        "drop times=1",
        "drop=reset times=1",
        "cut times=1",
        "garbage times=1",
        "garbage=empty times=1",
        "hang=3 times=1",
        "steps=2",
        "backwards",
        "drop at=check times=2",
        "500 at=check times=2",
        "garbage at=check times=1",
        "drop at=download times=1",
        "500 at=download times=1",
        "refuse",
    ),
    "openai": (
        "latency=0",
        "latency=3",
        "429 retry_after=1 times=1",
        "500 accept=0 times=1",
        "refuse",
        "fewer=1",
        "truncated",
    ),
    "replicate": (*_POLLED, "drop times=1", "cut times=1"),
    "wavespeed": _POLLED,
    "flux": _POLLED,
}
# Faults that take longer: repeated failures, and calls whose outcome no one can know.
LASTING: Mapping[Provider, tuple[str, ...]] = {
    "chatgpt2api": (
        "latency=8",
        "fail=connection",
        "fail=policy",
        "restart times=1",
        "expire",
        "empty",
        "truncated",
        "timeout",
    ),
    "openai": ("latency=8", "drop times=1", "cut times=1", "garbage times=1", "timeout", "hang=4 times=1", "svg"),
    "replicate": ("latency=8", "fail", "garbage times=1"),
    "wavespeed": ("latency=8", "fail", "drop times=1", "cut times=1", "garbage times=1"),
    "flux": ("latency=8", "fail", "drop times=1", "garbage times=1"),
}


@dataclass(frozen=True)
class MixedOrder:
    """One order of a client. ``plain``: without a fault at the upstream."""

    key: str
    customer: int
    operation: str
    body: Mapping[str, Any] = field(repr=False)
    provider: Provider
    plain: bool
    cancel_after_s: float | None
    doubled: bool  # the client sends it twice, under its one key
    way: Way = "native"
    uploaded: bool = False  # its images are sent beforehand
    hooked: bool = False  # it has a URL of its own that is told
    followed: bool = False  # its stream of events is read
    given_up_after_s: int | None = None  # Cancel-After

    @property
    def prompt(self) -> str:
        return str(self.body["prompt"])


def stream(seed: int, *, customers: int, canary: str, gentle: bool) -> Iterator[MixedOrder]:
    """Orders without end, the same for the same seed. ``gentle``: only those that end within seconds."""
    chance = random.Random(seed)
    image = _data_url()
    for number in itertools.count(1):
        yield _order(chance, number, customers=customers, canary=canary, gentle=gentle, image=image)


def prompt_start(canary: str) -> str:
    """How every prompt of a run begins, by which it would be found in a log."""
    return f"{canary} image"


def _order(chance: random.Random, number: int, *, customers: int, canary: str, gentle: bool, image: str) -> MixedOrder:
    provider = _provider(chance, gentle=gentle)
    faults = PASSING[provider] + (() if gentle else LASTING[provider])
    marker = f" [sandbox:{chance.choice(faults)}]" if chance.random() < 0.35 else ""
    edits = provider in EDITORS and chance.random() < 0.12
    way = "native" if edits else _way(chance, provider)
    body: dict[str, Any] = {
        "prompt": f"{prompt_start(canary)} {number}{marker}",
        "model": MODELS[provider],
        "n": chance.choice((1, 1, 1, 2, 3, 4)),
        **SIZES[provider],
        "priority": chance.choice(("normal", "normal", "low")),
        "metadata": {"number": str(number)},
    }
    if edits:
        body["images"] = [image]
    return MixedOrder(
        key=f"{canary}-{number}",
        customer=chance.randrange(customers),
        operation="edit" if edits else "generate",
        body=body,
        provider=provider,
        plain=not marker,
        # A held call names its job when it ends, and two equal first attempts of it are two jobs.
        cancel_after_s=chance.uniform(0, 4) if chance.random() < 0.06 and way != "openai" else None,
        doubled=chance.random() < 0.06 and way != "openai",
        way=way,
        uploaded=edits and chance.random() < 0.5,
        hooked=way != "openai" and chance.random() < 0.3,
        followed=way != "openai" and chance.random() < 0.2,
        given_up_after_s=5 if way == "replicate" and chance.random() < 0.2 else None,
    )


def _way(chance: random.Random, provider: Provider) -> Way:
    [way] = chance.choices(list(WAYS), weights=list(WAYS.values()))
    # OpenAI's route has no aspect ratio.
    return "native" if way == "openai" and provider not in EDITORS else way


def _provider(chance: random.Random, *, gentle: bool) -> Provider:
    if gentle:
        return "chatgpt2api"
    [provider] = chance.choices(list(SHARES), weights=list(SHARES.values()))
    return provider


def _data_url() -> str:
    out = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 120, 40)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
