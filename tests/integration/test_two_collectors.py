"""Two workers keep the images of one call: exactly the images with a row are charged."""

from __future__ import annotations

import pytest
from job_engine import SYNC_MODEL, Engine

from accounts.keys import Caller
from jobs import lifecycle
from jobs.call import Call, KeptImage
from jobs.execution import claim, outcomes
from jobs.execution import finish as finishing
from jobs.execution.outcomes import CallOutcome
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import Outcome


def kept(job_id: str, call: Call, image_count: int) -> CallOutcome:
    images = [KeptImage(n, f"jobs/{job_id}/{n}/x.png", "image/png", 1, 1, 1, "x") for n in range(image_count)]
    return CallOutcome(call, Outcome.KEPT, images=images)


def looked_at(engine: Engine, job: LiveJob) -> LiveJob:
    """Return the lapsed job with its call found finished, as a second worker reads it to fetch the images."""
    [call] = job.calls
    with engine.database.transaction() as connection:
        lifecycle.lapse(connection, job.id, job.fence, code="owner_silent", give_up_s={})
        outcomes.record(connection, CallOutcome(call, Outcome.FINISHED, result=[]))
        now = worker.load(connection, job.id)
    assert now is not None
    return now


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1)])
def test_only_the_images_of_the_first_collector_are_charged(
    engine: Engine, account: Caller, first: int, second: int
) -> None:
    job_id = engine.order(account, model=SYNC_MODEL, n=3).task.id
    claimed = claim.claim(engine.context, job_id)
    assert claimed is not None
    late = claimed.job
    [call] = late.calls
    current = looked_at(engine, late)
    finishing.finish(engine.context, late, [kept(job_id, call, first)])
    assert engine.job(job_id).status == "waiting"
    finishing.finish(engine.context, current, [kept(job_id, call, second)])
    job = engine.job(job_id)
    assert (job.status, job.captured) == ("succeeded", first * job.unit_price)
    assert engine.one("SELECT count(*) FROM images") == first
    engine.assert_books_balance()
