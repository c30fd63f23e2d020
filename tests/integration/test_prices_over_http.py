"""What an order was charged, against what its upstream says it cost: driven over HTTP, read from the database.

The emulators count what the vendors bill (tokens, megapixels, credits), by rules of their own.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from job_engine import Engine
from PIL import Image
from submissions import make_submission

from accounts.keys import Caller
from core.db import Database
from jobs.reads.margins import margins
from jobs.submission.order import ReferenceImage
from jobs.submission.service import SubmissionService
from providers.catalog.catalog import Catalog
from providers.configured import configured_names
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media

MICROUSD_PER_MICROCREDIT = 100
PROVIDERS = ("openai", "gemini", "xai", "replicate", "stability", "flux", "huggingface")


def microusd(microcredits: int) -> float:
    """1 credit is 1 US cent."""
    return microcredits / MICROUSD_PER_MICROCREDIT


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=False)
    return {name: value for provider in PROVIDERS for name, value in sandbox.environ(provider).items()}


@pytest.fixture
def submission(
    database: Database, media: Media, store: LocalStore, models: Catalog, upstreams: dict[str, str]
) -> SubmissionService:
    """Prices at cost: markup 1, and no least price."""
    return make_submission(
        database, media, store, models, configured=configured_names(upstreams), minimum_unit_price_microcredits=1
    )


def png(width: int = 256, height: int = 256, *, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), (40, 90, 160, 0)[: len(mode)]).save(buffer, "PNG")
    return buffer.getvalue()


def images(count: int, width: int = 256, height: int = 256) -> list[ReferenceImage]:
    return [ReferenceImage("image", png(width, height), f"images[{place}]") for place in range(count)]


GPT = "gpt-image-2"
MASK = ReferenceImage("mask", png(1024, 768, mode="RGBA"), "mask")
ORDERS: dict[str, tuple[str, list[ReferenceImage], dict[str, Any]]] = {
    "plain": ("generate", [], {"model": GPT}),
    "high-square-2048": ("generate", [], {"model": GPT, "quality": "high", "size": "2048x2048"}),
    "high-1248": ("generate", [], {"model": GPT, "quality": "high", "size": "1248x1248"}),
    "high-4k": ("generate", [], {"model": GPT, "quality": "high", "size": "3840x2160"}),
    "wide": ("generate", [], {"model": GPT, "quality": "low", "size": "1776x592"}),
    "auto": ("generate", [], {"model": GPT, "quality": "auto", "size": "auto"}),
    "n": ("generate", [], {"model": GPT, "quality": "low", "n": 4}),
    "edit": ("edit", images(1, 1024, 768), {"model": GPT, "quality": "low"}),
    "edit-of-a-large-one": ("edit", images(1, 2400, 1600), {"model": GPT, "quality": "high"}),
    "edit-many": ("edit", images(5, 1600, 1200), {"model": GPT, "quality": "low", "size": "1024x1024"}),
    "inpaint": ("inpaint", [*images(1, 1024, 768), MASK], {"model": GPT, "quality": "low", "size": "1024x768"}),
    "long-prompt": ("generate", [], {"model": GPT, "quality": "low", "prompt": "a fox in the snow, " * 900}),
    "flare-max": ("generate", [], {"model": "gpt-image-2.5-flare", "quality": "max", "size": "2560x1440"}),
    "sunburst-xhigh-edit": ("edit", images(2, 900, 900), {"model": "gpt-image-2.5-sunburst", "quality": "xhigh"}),
    "2.6-low": ("generate", [], {"model": "gpt-image-2.6-flare", "quality": "low", "size": "1536x1024"}),
    "1.5-edit": ("edit", images(2, 3000, 1000), {"model": "gpt-image-1.5", "quality": "medium", "size": "1024x1536"}),
    "mini": ("generate", [], {"model": "gpt-image-1-mini"}),
    "gemini": ("generate", [], {"model": "gemini-3-pro-image", "resolution": "4K"}),
    "gemini-edit": ("edit", images(3), {"model": "gemini-3.1-flash-image"}),
    "gemini-lite": ("edit", images(2), {"model": "gemini-3.1-flash-lite-image"}),
    "gemini-2.5": ("edit", images(2), {"model": "gemini-2.5-flash-image"}),
    "xai": ("edit", images(2), {"model": "grok-imagine-image"}),
    "xai-2k": ("generate", [], {"model": "grok-imagine-image-2.0", "resolution": "2k"}),
    "stability": ("generate", [], {"model": "stable-image-core"}),
    "flux": ("generate", [], {"model": "flux-2-pro", "size": "1920x1088"}),
    "flux-edit-of-a-large-one": ("edit", images(1, 2400, 1600), {"model": "flux-2-pro", "size": "1024x1024"}),
    "flux-edit-as-large": ("edit", images(2, 1900, 1300), {"model": "flux-2-flex"}),
    "flux-edit": ("edit", images(2, 1024, 1024), {"model": "flux-2-max", "size": "1024x1024"}),
}
# No answer of theirs names money, or counts with a known price.
COUNTED: dict[str, dict[str, Any]] = {
    "replicate": {"model": "replicate-flux-schnell"},
    "huggingface": {"model": "hf-flux-dev", "size": "1024x1024"},
}


@pytest.mark.parametrize("name", ORDERS)
def test_no_order_is_sold_below_what_its_answer_says_it_cost(engine: Engine, account: Caller, name: str) -> None:
    operation, references, fields = ORDERS[name]
    asked = {"prompt": "a small fox", **fields}
    job_id = engine.order(account, asked.pop("prompt"), operation=operation, references=references, **asked).task.id
    engine.drive()
    job, [call] = engine.job(job_id), engine.calls(job_id)
    assert (job.status, bool(call.usage)) == ("succeeded", True)
    assert call.reported_cost is not None
    assert 0 < call.reported_cost <= call.expected_cost
    assert microusd(job.captured) >= call.reported_cost
    # The bound is one of this order: no flat price that is right for the dearest alone.
    most = {"auto": 25, "n": 2, "edit": 2, "inpaint": 2, "long-prompt": 5, "wide": 4}.get(name, 1.7)
    assert microusd(job.captured) <= most * call.reported_cost


@pytest.mark.parametrize("provider", COUNTED)
def test_counts_without_a_price_are_stored_too(engine: Engine, account: Caller, provider: str) -> None:
    job_id = engine.order(account, **COUNTED[provider]).task.id
    engine.drive()
    [call] = engine.calls(job_id)
    assert (engine.job(job_id).status, call.provider, call.reported_cost) == ("succeeded", provider, None)
    assert call.usage


def test_an_estimate_and_a_fallback_cost_the_same_as_an_order(engine: Engine, account: Caller) -> None:
    fields = {"quality": "high", "size": "3840x2160"}
    alone = engine.order(account, model=GPT, **fields).task.id
    behind = engine.order(account, "a small fox", model="gpt-image-2.5-flare", fallback_models=[GPT], **fields).task.id
    engine.drive()
    # What is held is the dearest that may run; what is taken is the price of the one that ran.
    assert engine.job(behind).quoted == engine.job(alone).quoted == engine.job(alone).captured
    assert engine.job(behind).captured < engine.job(behind).quoted


def test_a_large_input_image_is_paid_for_whichever_model_takes_the_order(engine: Engine, account: Caller) -> None:
    large = {"references": images(1, 2400, 1600), "size": "1024x1024", "operation": "edit"}
    alone = engine.order(account, model="flux-2-max", **large).task.id
    behind = engine.order(account, "a small fox", model="grok-imagine-image", fallback_models=["flux-2-max"], **large)
    small = engine.order(account, "a fox", model="flux-2-max", **{**large, "references": images(1)}).task.id
    assert engine.job(behind.task.id).quoted == engine.job(alone).quoted > engine.job(small).quoted
    [held] = engine.rows("SELECT fallbacks FROM orders WHERE job_id = :id", id=behind.task.id)
    assert held.fallbacks[0]["unit_price"] == engine.job(alone).quoted


def test_the_margin_of_no_model_is_negative(engine: Engine, account: Caller) -> None:
    for operation, references, fields in (ORDERS[name] for name in ("high-square-2048", "edit-many", "gemini-edit")):
        engine.order(account, operation=operation, references=references, **fields)
    engine.drive()
    with engine.database.autocommit() as connection:
        lines = [line for line in margins(connection, days=1) if line.reported_calls]
    assert len(lines) == 2
    for line in lines:
        assert line.reported_micro_usd <= line.expected_of_reported_micro_usd
        assert line.reported_micro_usd <= microusd(line.sold_microcredits)
