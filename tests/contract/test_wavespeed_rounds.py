"""The WaveSpeed adapter against its twin over real HTTP: every live model, every way it can go wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from providers import catalog
from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Order, Running
from providers.entries import AspectRatioRule, Model, PixelsRule, ResolutionRule, SizesRule
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.wavespeed import MAX_INLINE_BYTES, Config, WaveSpeed
from sandbox.testing import Sandbox, running_sandbox

MODELS = catalog.load().models
LIVE = [model for model in MODELS.values() if model.provider == "wavespeed" and model.live]
ROUNDS = [(model, operation) for model in LIVE for operation in sorted(model.operations)]
_numbers = count(1)


def picture(colour: str = "navy", mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> InputImage:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", *size)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(prepared=True) as running:
        yield running


@pytest.fixture
def provider(sandbox: Sandbox) -> WaveSpeed:
    sandbox.reset()
    return with_key(sandbox, "wsk_secret")


def with_key(sandbox: Sandbox, key: str) -> WaveSpeed:
    return WaveSpeed(Config(api_key=SecretStr(key), base_url=sandbox.wavespeed_url))


def order(model: str | Model = "qwen-image", operation: str | None = None, **facts: Any) -> Order:
    """The least a model needs, and ``facts``."""
    known = MODELS[model] if isinstance(model, str) else model
    operation = operation or known.operation
    inputs = known.inputs
    face = picture("pink") if "face" in inputs.roles else None
    least = inputs.images.min if operation in ("generate", "text_to_3d") else max(1, inputs.images.min)
    colours = ["navy", "teal", "olive", "maroon"]
    default = {
        "prompt": None if inputs.prompt == "none" else "a red kite",
        "images": [picture(colours[number]) for number in range(least - (face is not None))],
        "face": face,
        "mask": picture("white", "L") if inputs.mask == "required" or operation == "inpaint" else None,
        "params": {name: spec.default for name, spec in known.order_params(operation).items() if spec.required},
        "size": {
            "aspect_ratio": rule.default
            for rule in ([] if isinstance(known.size, str) else known.size.values())
            if isinstance(rule, AspectRatioRule) and rule.required
        },
    }
    return Order(**{"operation": operation, "model": known, **default, **facts})


def call(accepted: Accepted, model: str = "qwen-image") -> CallRef:
    return CallRef("call", "key", model, upstream_id=accepted.upstream_id)


def started(provider: WaveSpeed, asked: Order) -> CallRef:
    answer = provider.submit(asked, dedupe_key="key")
    assert isinstance(answer, Accepted)
    return call(answer)


def finished(provider: WaveSpeed, asked: Order) -> Finished:
    done = provider.check(started(provider, asked))
    assert isinstance(done, Finished), done
    return done


def accepted(sandbox: Sandbox) -> int:
    return int(sandbox.counts()["wavespeed"]["accepted"])


def statuses(sandbox: Sandbox) -> set[int]:
    return {int(status) for status in sandbox.counts()["wavespeed"]["statuses"]}


# ---------------------------------------------------------------- success


def everything(model: Model, operation: str) -> dict[str, Any]:
    """Every setting of a model, and an explicit size."""
    made: dict[str, Any] = {}
    for name, spec in model.order_params(operation).items():
        match spec.type:
            case "str":
                made[name] = spec.enum[-1] if spec.enum else "plain"
            case "bool":
                made[name] = True
            case "list":
                made[name] = []
            case _:
                made[name] = spec.max if spec.max is not None else spec.min or 1
    size: dict[str, str | int] = {}
    for rule in [] if isinstance(model.size, str) else model.size.values():
        match rule:
            case PixelsRule():
                size["size"] = f"{max(rule.min, 256)}x{max(rule.min, 256)}"
            case SizesRule():
                size["size"] = rule.values[-1]
            case AspectRatioRule():
                size["aspect_ratio"] = rule.enum[-1]
            case ResolutionRule():
                size["resolution"] = rule.enum[0]
            case _:
                size["factor"] = 2
    return {"params": made, "size": size, "n": min(2, model.max_per_call)}


def shown(model: Model, data: bytes) -> None:
    match model.output:
        case "image":
            Image.open(io.BytesIO(data)).verify()
        case "model_3d":
            assert data.startswith(b"glTF")
        case "text":
            assert data.decode().startswith("A picture of 64 by 48")


@pytest.mark.parametrize(("model", "operation"), ROUNDS, ids=lambda part: getattr(part, "id", part))
@pytest.mark.parametrize("full", [False, True], ids=["least", "everything"])
def test_every_live_model_delivers(provider: WaveSpeed, model: Model, operation: str, full: bool) -> None:
    asked = order(model, operation, **(everything(model, operation) if full else {}))
    done = finished(provider, asked)
    assert len(done.images) == asked.n
    for image in done.images:
        shown(model, image.data or provider.download(image.url or ""))
