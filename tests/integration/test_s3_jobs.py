"""Jobs whose images lie in a bucket: the way from prompt to image, and what a fault on it costs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from job_engine import SYNC_MODEL, Engine

from accounts.keys import Caller
from jobs.execution import claim, collect
from jobs.maintenance import orphans
from jobs.maintenance.retention import Retention
from jobs.submission.order import ReferenceImage
from sandbox.testing import Sandbox
from storage.media import Media
from storage.s3 import S3Store
from tests.s3_server import Front, new_bucket, options, running_front

SYNC: dict[str, Any] = {"model": SYNC_MODEL, "size": "1024x1024"}
# boto3 sends a PUT twice before it says so; an image is tried thrice at least.
SENT, TRIES = 2, 3


@pytest.fixture(scope="module")
def front_process(s3_url: str) -> Iterator[Front]:
    with running_front(s3_url) as front:
        yield front


@pytest.fixture
def front(front_process: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The way to the bucket; pauses between tries pass at once."""
    monkeypatch.setattr(collect._keep_one.retry, "wait", lambda state: 0)
    yield front_process
    front_process.heal()


@pytest.fixture(scope="module")
def store(front_process: Front, s3_url: str) -> S3Store:
    return S3Store(options(front_process.url, new_bucket(s3_url), prefix="darkroom"))


@pytest.fixture(scope="module")
def media(store: S3Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    staging = tmp_path_factory.mktemp("staging")
    media = Media(store, staging, decoders=1)
    yield media
    media.close()
    assert list(staging.iterdir()) == []


def image_count(engine: Engine, account: Caller, job_id: str) -> list[Any]:
    return list(engine.task(account, job_id).images)


def submits(sandbox: Sandbox, provider: str = "openai") -> int:
    return int(sandbox.counts()[provider]["submits"])


@pytest.mark.parametrize("fields", [{}, SYNC], ids=["polled", "at once"])
def test_a_prompt_becomes_an_image_in_the_bucket(
    engine: Engine, account: Caller, store: S3Store, fields: dict[str, Any]
) -> None:
    job_id = engine.order(account, **fields).task.id
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    [image] = image_count(engine, account, job_id)
    assert hashlib.sha256(store.read(image.key)).hexdigest() == image.sha256
    assert list(store.iter_keys(f"jobs/{job_id}/")) == [image.key]
    engine.assert_books_balance()


def test_a_reference_image_goes_into_the_bucket_and_from_there_to_the_upstream(
    engine: Engine, account: Caller, store: S3Store, png: bytes
) -> None:
    job_id = engine.order(account, operation="edit", references=[ReferenceImage("image", png)]).task.id
    assert len(list(store.iter_keys(f"inputs/{job_id}/"))) == 1
    engine.drive()
    assert engine.job(job_id).status == "succeeded"


def test_bytes_in_hand_wait_for_a_bucket_that_comes_back(
    engine: Engine, account: Caller, front: Front, sandbox: Sandbox
) -> None:
    front.fail(503, "SlowDown", method="PUT", times=SENT * (TRIES + 1))
    job_id = engine.order(account, **SYNC).task.id
    engine.run(job_id)
    assert (engine.job(job_id).status, submits(sandbox)) == ("succeeded", 1)
    engine.assert_books_balance()


def test_bytes_in_hand_are_given_up_when_their_step_must_end(
    engine: Engine, account: Caller, front: Front, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LAST_TRY_S", 1e9)
    front.fail(403, "AccessDenied", method="PUT", times=99)
    before = engine.balance(account)
    job_id = engine.order(account, **SYNC).task.id
    engine.drive()
    row, [call] = engine.job(job_id), engine.calls(job_id)
    assert (row.status, row.failure_code, call.written_off) == ("failed", "storage_unavailable", True)
    assert (engine.balance(account), submits(sandbox)) == (before, 1)
    engine.assert_books_balance()


def test_of_two_images_the_one_that_could_be_kept_is_delivered(
    engine: Engine, account: Caller, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LAST_TRY_S", 1e9)
    front.fail(403, "AccessDenied", method="PUT", times=TRIES)  # which boto3 does not repeat
    job_id = engine.order(account, n=2, **SYNC).task.id
    engine.drive()
    row = engine.job(job_id)
    assert (row.status, row.captured) == ("succeeded", row.unit_price)
    assert [image.index for image in image_count(engine, account, job_id)] == [1]
    engine.assert_books_balance()


def test_a_link_is_kept_later_when_the_bucket_is_away(
    engine: Engine, account: Caller, front: Front, sandbox: Sandbox
) -> None:
    front.fail(503, "SlowDown", method="PUT", times=SENT * TRIES)
    job_id = engine.order(account).task.id
    engine.sent.take()
    engine.run(job_id)
    engine.poll()
    assert (engine.job(job_id).status, engine.calls(job_id)[0].outcome) == ("waiting", "finished")
    engine.drive()
    assert (engine.job(job_id).status, submits(sandbox, "chatgpt2api")) == ("succeeded", 1)
    engine.assert_books_balance()


def test_an_orphan_in_the_bucket_is_found_and_removed(
    engine: Engine, account: Caller, store: S3Store, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = engine.order(account).task.id
    engine.drive()
    [image] = image_count(engine, account, job_id)
    engine.sql("DELETE FROM images WHERE job_id = :id", id=job_id)
    engine.sql("UPDATE jobs SET finished_at = finished_at - interval '2 hours'")
    retention = Retention("wkr_test", engine.database, media, store, keep_images_days=0, keep_inputs_days=0)
    search_the_store(retention)
    assert store.exists(image.key)  # its row might still be on the way
    engine.sql("DELETE FROM marks")
    monkeypatch.setattr(orphans, "MIN_AGE_S", 0.0)
    search_the_store(retention)
    assert not store.exists(image.key)


def search_the_store(retention: Retention) -> None:
    for _ in orphans.ROOTS:
        orphans.list_next_slice(retention.database, retention.store)
    retention.delete_listed_blobs()
