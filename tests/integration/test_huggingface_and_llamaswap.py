"""Hugging Face and llama-swap, run by the engine: direct answers, tasks of routed providers, jobs of sd-server."""

from __future__ import annotations

import pytest
from job_engine import Engine, image_bytes, refuse_to_keep

from accounts.keys import Caller
from jobs.submission.order import ReferenceImage
from sandbox.testing import Sandbox


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return {
        "HF_TOKEN": "hf_test",
        "HF_ROUTER_BASE_URL": sandbox.huggingface_url,
        "HF_ENDPOINT": sandbox.huggingface_url,
        "LLAMASWAP_BASE_URL": sandbox.llamaswap_url,
        "LLAMASWAP_ASYNC": "true",
    }


def order(engine: Engine, account: Caller, model: str, operation: str = "generate") -> str:
    references = [ReferenceImage("image", image_bytes(), "image")] if operation == "edit" else []
    return engine.order(
        account, "a kite", model=model, operation=operation, references=references, publish=False
    ).task.id


@pytest.mark.parametrize(
    ("model", "operation"),
    [
        ("hf-sd3-medium", "generate"),
        ("hf-qwen-image", "generate"),
        ("hf-flux-2-dev-edit", "edit"),
        ("llamaswap-z-image", "generate"),
    ],
)
@pytest.mark.parametrize("kept_by", ["the look that finds it", "a later look"])
def test_an_order_succeeds(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    operation: str,
    kept_by: str,
) -> None:
    job_id = order(engine, account, model, operation)
    provider = engine.context.catalog.resolve(model).model.provider
    engine.run(job_id)
    if model != "hf-sd3-medium":
        assert engine.job(job_id).status == "waiting"
        if kept_by == "a later look":
            with monkeypatch.context() as away:
                refuse_to_keep(away)
                engine.poll(provider)
            assert engine.job(job_id).status == "waiting"
        engine.poll(provider)
    assert engine.job(job_id).status == "succeeded"
    assert sandbox.counts()[provider]["accepted"] == 1
    engine.assert_books_balance()
