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

ASYNC_MODEL, SYNC_MODEL = "chatgpt2api-gpt-image-2", "gpt-image-2"
Provider = Literal["chatgpt2api", "openai"]

# Faults that pass by themselves, and outlast no drain. {n} is a number of askers.
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
}
# Faults that take their time: repeated failures, and calls that nobody can know about.
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
}


@dataclass(frozen=True)
class Order:
    """One order as a client means it. ``plain``: the upstream does nothing strange with it."""

    key: str
    customer: int
    operation: str
    body: Mapping[str, Any] = field(repr=False)
    provider: Provider
    plain: bool
    cancel_after_s: float | None
    doubled: bool  # the client sends it twice, under its one key

    @property
    def prompt(self) -> str:
        return str(self.body["prompt"])


def stream(seed: int, *, customers: int, canary: str, gentle: bool) -> Iterator[Order]:
    """Orders without end, the same for the same seed. ``gentle``: only what ends within seconds."""
    chance = random.Random(seed)
    picture = _data_url()
    for number in itertools.count(1):
        yield _order(chance, number, customers=customers, canary=canary, gentle=gentle, picture=picture)


def _order(chance: random.Random, number: int, *, customers: int, canary: str, gentle: bool, picture: str) -> Order:
    provider: Provider = "openai" if not gentle and chance.random() < 0.35 else "chatgpt2api"
    faults = PASSING[provider] + (() if gentle else LASTING[provider])
    marker = f" [sandbox:{chance.choice(faults)}]" if chance.random() < 0.35 else ""
    edits = chance.random() < 0.12
    body: dict[str, Any] = {
        "prompt": f"{canary} picture {number}{marker}",
        "model": ASYNC_MODEL if provider == "chatgpt2api" else SYNC_MODEL,
        "n": chance.choice((1, 1, 1, 2, 3, 4)),
        "size": "256x256" if provider == "chatgpt2api" else "1024x1024",
        "priority": chance.choice(("normal", "normal", "low")),
        "metadata": {"number": str(number)},
    }
    if edits:
        body["images"] = [picture]
    return Order(
        key=f"{canary}-{number}",
        customer=chance.randrange(customers),
        operation="edit" if edits else "generate",
        body=body,
        provider=provider,
        plain=not marker,
        cancel_after_s=chance.uniform(0, 4) if chance.random() < 0.06 else None,
        doubled=chance.random() < 0.06,
    )


def _data_url() -> str:
    out = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 120, 40)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
