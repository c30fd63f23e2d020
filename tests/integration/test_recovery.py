"""Recovery by search: a prediction of Replicate whose answer was lost is found, and never bought twice."""

from __future__ import annotations

from typing import Any

import pytest
from job_engine import Engine, image_bytes

from accounts.keys import Caller
from jobs import lifecycle
from jobs.call import Call
from jobs.execution import recovery
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.submission.order import ReferenceImage
from sandbox.testing import Sandbox

SCHNELL, SDXL = "replicate-flux-schnell", "replicate-sdxl"


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return {"REPLICATE_BASE_URL": sandbox.replicate_url, "REPLICATE_API_TOKEN": "test-token"}


def order(engine: Engine, account: Caller, prompt: str, **fields: Any) -> str:
    return engine.order(account, prompt, **{"model": SCHNELL, "publish": False, **fields}).task.id


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["replicate"])


def test_a_lost_prediction_is_found_and_its_images_kept(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = order(engine, account, "a kite [sandbox:drop]", n=2)
    engine.run(job_id)
    [call] = engine.calls(job_id)
    assert (engine.job(job_id).status, call.outcome, call.upstream_id) == ("waiting", "uncertain", None)
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    assert engine.one("SELECT count(*) FROM images") == 2
    assert (tally(sandbox)["submits"], tally(sandbox)["accepted"]) == (1, 1)
    engine.assert_books_balance()


def test_two_lost_predictions_of_the_same_prompt_are_not_matched(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    jobs = [order(engine, account, "a kite [sandbox:drop]") for _ in range(2)]
    for job_id in jobs:
        engine.run(job_id)
    engine.poll("replicate")
    assert [engine.calls(job_id)[0].upstream_id for job_id in jobs] == [None, None]
    assert tally(sandbox)["submits"] == 2
    engine.assert_books_balance()


def test_a_call_after_a_failover_with_the_same_request_prevents_a_match(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    """Its first model had another request (width and height); the lost call had the same one."""
    same: dict[str, Any] = {"size": "1024x1024"}
    plain = order(engine, account, "a kite [sandbox:drop]", **same)
    fallen = order(engine, account, "a kite [sandbox:drop]", model=SDXL, fallback_models=[SCHNELL], **same)
    with engine.database.transaction() as connection:
        lifecycle.fail_over(connection, fallen, None, code="provider_closed")
    engine.run(plain)
    engine.run(fallen)
    # The upstream accepted only one of the two, which may be either's.
    engine.sql("UPDATE upstream_calls SET outcome = 'lost' WHERE job_id = :id", id=fallen)
    found = recovery.search(engine.context, engine.context.registry.of("replicate")[0], *lost_call(engine, plain))
    assert found is None
    assert tally(sandbox)["submits"] == 2


def lost_call(engine: Engine, job_id: str) -> tuple[LiveJob, Call]:
    with engine.database.autocommit() as connection:
        job = worker.load(connection, job_id)
    assert job is not None
    return job, job.calls[0]


def test_an_inpainting_mask_has_the_polarity_of_its_model(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    """The emulator refuses a mask with transparency."""
    references = [
        ReferenceImage("image", image_bytes(), "image"),
        ReferenceImage("mask", image_bytes(mode="L"), "mask"),
    ]
    job_id = order(engine, account, "snow", model=SDXL, operation="inpaint", references=references)
    engine.run(job_id)
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    assert tally(sandbox)["accepted"] == 1
