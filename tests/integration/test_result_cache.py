"""Equal orders with a seed: which are answered by an earlier job, what that costs, and what becomes of the images."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from crash_stage import until
from job_engine import Engine, image_bytes
from kept_jobs import expire
from receivers import make_sender, receiver
from sqlalchemy import text

from accounts.keys import Caller
from core import failpoints, version
from core.db import Database, make_engine
from jobs import lifecycle
from jobs.lifecycle import Submitted
from jobs.maintenance import deletion, orphans
from jobs.maintenance.deletion import Reason
from jobs.maintenance.retention import Retention
from jobs.maintenance.usage_rollup import add_up_next
from jobs.reads.usage import DIMENSIONS, usage
from jobs.submission import result_cache
from jobs.submission.estimates import Estimates
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import JobWebhook, Order, ReferenceImage
from jobs.submission.result_cache import CacheTerms, ResultCache
from providers.catalog.catalog import Catalog
from quota.errors import InsufficientCreditsError
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media
from webhooks.receivers import policy

CORE, ULTRA, INPAINT = "stable-image-core", "stable-image-ultra", "stability-inpaint"
PRICE = 3_000_000  # of an image by CORE
SOLD_AT = 10  # percent


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return sandbox.environ("stability")


@pytest.fixture(autouse=True)
def cache(engine: Engine, store: LocalStore) -> ResultCache:
    return use(engine, store)


def use(engine: Engine, store: LocalStore, *, percent: float = SOLD_AT, max_age_s: float = 3600) -> ResultCache:
    cache = ResultCache(engine.database, store, CacheTerms(max_age_s, Decimal(str(percent))))
    engine.submission._cache = cache
    return cache


def order(engine: Engine, customer: Caller, *, about: dict[str, Any] | None = None, **fields: Any) -> Submitted:
    asked = {"prompt": "a small fox", "model": CORE, "seed": 7, **fields}
    wanted = Order("generate", {name: value for name, value in asked.items() if value is not None})
    return engine.submission.submit(customer, replace(wanted, **(about or {})))


def made(engine: Engine, customer: Caller, **fields: Any) -> str:
    """The id of a job that the upstream has made."""
    job_id = order(engine, customer, **fields).task.id
    engine.run(job_id)
    assert engine.job(job_id).status == "succeeded"
    return job_id


def answered_by(submitted: Submitted) -> str | None:
    return submitted.task.cached_from


# ---------------------------------------------------------------- a hit


@pytest.mark.parametrize("percent", [0, 0.1, SOLD_AT, 100])
def test_an_equal_order_is_answered_at_the_stated_price_and_nothing_is_asked_upstream(
    engine: Engine, account: Caller, store: LocalStore, sandbox: Sandbox, percent: float
) -> None:
    use(engine, store, percent=percent)
    first = made(engine, account, n=2)
    asked, before = sandbox.counts()["stability"]["accepted"], engine.balance(account)
    done = order(engine, account, n=2, metadata={"nth": "2"})
    task = done.task
    assert (task.status, task.cached_from, task.attempt) == ("succeeded", first, 0)
    unit = int(PRICE * percent / 100)
    assert (task.quoted_microcredits, task.captured_microcredits, task.released_microcredits) == (2 * unit, 2 * unit, 0)
    assert engine.transfers(task.id) == ({"hold": 2 * unit, "capture": 2 * unit} if unit else {})
    after = engine.balance(account)
    assert (before.spendable - after.spendable, after.held, after.queued) == (2 * unit, 0, 0)
    assert done.spendable_microcredits == after.spendable
    assert engine.events(task.id) == ["queued", "succeeded"]
    assert [nudge.task for nudge in done.nudges] == ["wake"]
    mine, theirs = task.images, engine.task(account, first).images
    assert [(each.index, each.sha256, each.seed, each.width_px) for each in mine] == [
        (each.index, each.sha256, each.seed, each.width_px) for each in theirs
    ]
    assert [store.read(each.key) for each in mine] == [store.read(each.key) for each in theirs]
    assert {each.key for each in mine}.isdisjoint(each.key for each in theirs)
    assert task.metadata == {"nth": "2"}
    assert engine.calls(task.id) == []
    assert sandbox.counts()["stability"]["accepted"] == asked
    engine.assert_books_balance()


def test_warnings_of_the_first_go_along(engine: Engine, account: Caller) -> None:
    first = made(engine, account)
    engine.sql("UPDATE jobs SET notes = '[\"the upstream said so\"]' WHERE id = :id", id=first)
    assert "the upstream said so" in order(engine, account).task.warnings


def test_what_is_not_of_the_image_is_no_difference(engine: Engine, account: Caller) -> None:
    first = made(engine, account)
    for fields in (
        {"metadata": {"a": "b"}},
        {"priority": "low"},
        {"deadline_s": 60},
        {"use_cache": True},
        {"store": False},
        {"fallback_models": [ULTRA]},
    ):
        assert answered_by(order(engine, account, **fields)) == first, fields
    assert answered_by(order(engine, account, about={"cancel_after_s": 60})) == first
    assert answered_by(order(engine, account, about={"webhook": JobWebhook("https://a.example/")})) == first
    engine.assert_books_balance()


# ---------------------------------------------------------------- misses


DIFFERENT: dict[str, dict[str, Any]] = {
    "seed": {"seed": 8},
    "no seed": {"seed": None},
    "the model's own seed, a random one": {"seed": 0},
    "prompt": {"prompt": "a small  fox"},
    "model": {"model": ULTRA},
    "n": {"n": 2},
    "a setting": {"negative_prompt": "blue"},
    "size": {"aspect_ratio": "16:9"},
    "format": {"output_format": "jpeg"},
    "extra": {"extra": {"unheard_of": 1}},
    "safe_prompt": {"safe_prompt": True},
    "refused by a field": {"use_cache": False},
    "refused by no-cache": {"about": {"cache_control": frozenset({"no-cache"})}},
    "refused by no-store": {"about": {"cache_control": frozenset({"max-age=0", "no-store"})}},
    "a job repeated on purpose": {"about": {"parent_id": "job_1"}},
}


def test_an_order_that_differs_is_made(engine: Engine, account: Caller) -> None:
    made(engine, account)
    for name, fields in DIFFERENT.items():
        done = order(engine, account, **fields)
        assert (done.task.status, answered_by(done)) == ("queued", None), name
    engine.assert_books_balance()


@pytest.mark.parametrize("name", ["no seed", "the model's own seed, a random one", "refused by no-store"])
def test_what_is_random_or_refused_answers_none_of_its_kind(engine: Engine, account: Caller, name: str) -> None:
    first = made(engine, account, **DIFFERENT[name])
    assert answered_by(order(engine, account, **{**DIFFERENT[name], "about": {}})) is None
    assert engine.one("SELECT order_sha256 FROM orders WHERE job_id = :id", id=first) is None


def test_what_was_asked_for_afresh_answers_later_orders(engine: Engine, account: Caller) -> None:
    made(engine, account)
    fresh = made(engine, account, use_cache=False)
    assert answered_by(order(engine, account)) == fresh


def test_another_account_another_catalogue_and_another_release_never_hit(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch, models: Catalog
) -> None:
    first = made(engine, account)
    other = engine.account()
    assert answered_by(order(engine, other)) is None
    row = engine.rows("SELECT order_sha256 FROM orders WHERE job_id = :id", id=first)[0]
    # Not even by the digest of another's order.
    engine.sql("UPDATE orders SET order_sha256 = :sha WHERE job_id <> :id", sha=row.order_sha256, id=first)
    with monkeypatch.context() as patched:
        patched.setattr(result_cache, "order_sha256", lambda _job: bytes(row.order_sha256))
        assert answered_by(order(engine, other)) is None
    with engine.database.transaction() as connection, pytest.raises(lifecycle.SourceGoneError):
        job = replace(_new_job(engine, other), quoted_microcredits=0)
        lifecycle.answer(connection, job, cached_from=first, copies=[lifecycle.Copy(0, "k")])
    with monkeypatch.context() as patched:
        patched.setattr(result_cache, "VERSION", version.VERSION + ".1")
        assert answered_by(order(engine, account)) is None
    with monkeypatch.context() as patched:
        patched.setattr(engine.submission.quoting, "_catalogs", replace_version(models))
        assert answered_by(order(engine, account)) is None
    assert answered_by(order(engine, account)) == first


def replace_version(models: Catalog) -> Catalog:
    return replace(models, version="other")


def _new_job(engine: Engine, customer: Caller) -> lifecycle.NewJob:
    wanted = Order("generate", {"prompt": "a small fox", "model": CORE, "seed": 7})
    quote = engine.submission.quoting.quote(wanted)
    return engine.submission._new_job(
        customer, f"job_{9:026d}", quote, wanted, kept=[], request_id="", traceparent=None
    )


def test_images_are_compared_by_their_content_and_their_role(engine: Engine, account: Caller) -> None:
    fox, blue, mask = image_bytes(), image_bytes(64, 64, "RGBA"), image_bytes(64, 64, "L")

    def inpaint(image: bytes, role_of_second: Any, second: bytes) -> Submitted:
        references = [ReferenceImage("image", image, "images[0]"), ReferenceImage(role_of_second, second, "mask")]
        fields = {"prompt": "a hat", "model": INPAINT, "seed": 7}
        return engine.submission.submit(account, Order("inpaint", fields, references))

    first = inpaint(fox, "mask", mask).task.id
    engine.run(first)
    assert engine.job(first).status == "succeeded"
    hit = inpaint(fox, "mask", mask)
    assert answered_by(hit) == first
    assert engine.one("SELECT count(*) FROM inputs WHERE job_id = :id AND deleted_at IS NULL", id=hit.task.id) == 2
    assert answered_by(inpaint(blue, "mask", mask)) is None
    assert answered_by(inpaint(fox, "mask", blue)) is None


@pytest.mark.parametrize(
    "changed",
    {
        "still at work": "UPDATE jobs SET status = 'waiting', money = 'held', finished_at = NULL, captured = NULL,"
        " released = NULL",
        "failed": "UPDATE jobs SET status = 'failed', failure_code = 'upstream_failed'",
        "cancelled": "UPDATE jobs SET status = 'cancelled'",
        "an image is missing": "DELETE FROM images WHERE index = 1",
        "an image is deleted": "UPDATE images SET deleted_at = now() WHERE index = 1",
        "made by a fallback": f"UPDATE jobs SET model = '{ULTRA}'",
        "made of another wording": "UPDATE jobs SET safe_prompt = 'adjusted'",
        "too old": "UPDATE jobs SET finished_at = finished_at - interval '3601 seconds'",
    }.items(),
    ids=lambda change: change[0],
)
def test_only_a_job_that_is_whole_and_young_answers(engine: Engine, account: Caller, changed: tuple[str, str]) -> None:
    first = made(engine, account, n=2)
    engine.sql(changed[1])
    assert answered_by(order(engine, account, n=2)) is None
    assert engine.job(first) is not None


def test_images_of_a_short_life_answer_no_one(engine: Engine, account: Caller) -> None:
    made(engine, account, store=False)
    assert answered_by(order(engine, account)) is None


def test_an_equal_order_while_the_first_is_made_is_made_too(engine: Engine, account: Caller) -> None:
    first, second = order(engine, account).task.id, order(engine, account).task.id
    for job_id in (first, second):
        engine.run(job_id)
    assert answered_by(order(engine, account)) == max(first, second)


# ---------------------------------------------------------------- what becomes of the images


def test_the_copies_outlive_what_is_deleted_and_the_rest_is_made_again(
    engine: Engine, account: Caller, media: Media, store: LocalStore
) -> None:
    first = made(engine, account)
    second = order(engine, account).task
    with engine.database.transaction() as connection:
        keys = deletion.delete_task(connection, account.account_id, first)
    assert deletion.delete_blobs(engine.database, media, keys) == 1
    assert not store.exists(keys[0])
    assert store.read(second.images[0].key)
    assert answered_by(order(engine, account)) is None  # a copy answers no one: what was deleted is not found again
    engine.assert_books_balance()


def test_the_original_outlives_its_copies(engine: Engine, account: Caller, media: Media, store: LocalStore) -> None:
    first, second = made(engine, account), order(engine, account).task
    with engine.database.transaction() as connection:
        keys = deletion.delete_images(connection, [second.id], reason=Reason.REQUESTED)
    assert deletion.delete_blobs(engine.database, media, keys) == 1
    assert store.read(engine.task(account, first).images[0].key)
    assert answered_by(order(engine, account)) == first


def test_retention_takes_each_by_its_own_age(engine: Engine, account: Caller, media: Media, store: LocalStore) -> None:
    first = made(engine, account)
    second, short = order(engine, account).task, order(engine, account, store=False).task
    engine.sql("UPDATE jobs SET finished_at = finished_at - interval '31 days' WHERE id = :id", id=first)
    engine.sql("UPDATE images SET created_at = created_at - interval '31 days' WHERE job_id = :id", id=first)
    engine.sql("UPDATE jobs SET finished_at = finished_at - interval '1 hour' WHERE id = :id", id=short.id)
    retention = Retention("wkr_test", engine.database, media, store, keep_images_days=30, keep_inputs_days=30)
    assert expire(retention) == 2
    assert retention.delete_listed_blobs() == 2
    assert [each.deleted_at is None for each in engine.task(account, second.id).images] == [True]
    assert store.read(second.images[0].key)


def test_an_image_deleted_between_the_look_and_the_copy_or_the_row_is_made_again(
    engine: Engine, account: Caller, cache: ResultCache, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(engine, account)
    key = engine.task(account, first).images[0].key
    find = cache.find

    def found_and_gone(*args: Any) -> Any:
        hit = find(*args)
        with engine.database.transaction() as connection:
            deletion.delete_images(connection, [first], reason=Reason.REQUESTED)
        return hit

    with monkeypatch.context() as patched:
        patched.setattr(ResultCache, "find", lambda _self, *args: found_and_gone(*args))
        late = order(engine, account)
    assert (answered_by(late), late.task.status) == (None, "queued")
    assert list(store.iter_keys(f"jobs/{late.task.id}/")) == []
    engine.sql("UPDATE images SET deleted_at = NULL WHERE job_id = :id", id=first)
    store.delete(key)
    assert answered_by(order(engine, account)) is None


# ---------------------------------------------------------------- money, keys, callbacks


def test_a_hit_that_cannot_be_paid_is_refused_and_leaves_nothing(
    engine: Engine, account: Caller, store: LocalStore
) -> None:
    made(engine, account)
    engine.sql("UPDATE balances SET spendable = 0")
    blobs = set(store.iter_keys("jobs/"))
    with pytest.raises(InsufficientCreditsError) as refused:
        order(engine, account)
    assert refused.value.facts["price_microcredits"] == PRICE // SOLD_AT
    assert engine.one("SELECT count(*) FROM jobs") == 1
    assert set(store.iter_keys("jobs/")) == blobs


def test_an_idempotency_key_goes_before_the_cache_and_stays_with_its_job(engine: Engine, account: Caller) -> None:
    first = made(engine, account)
    wanted = Order("generate", {"prompt": "a small fox", "model": CORE, "seed": 7})
    key = IdempotencyKey("k", b"f")
    hit = engine.submission.submit(account, wanted, key=key)
    again = engine.submission.submit(account, wanted, key=key)
    assert (answered_by(hit), again.task.id, again.replayed) == (first, hit.task.id, True)
    assert len(engine.rows("SELECT 1 FROM jobs")) == 2


def test_equal_orders_at_once_are_each_answered_and_paid_once(engine: Engine, account: Caller) -> None:
    first, before = made(engine, account), engine.balance(account).spendable
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: order(engine, account), range(16)))
    assert {answered_by(each) for each in done} == {first}
    assert len({each.task.id for each in done}) == 16
    assert before - engine.balance(account).spendable == 16 * PRICE // SOLD_AT
    engine.assert_books_balance()


def test_its_receiver_is_told_of_the_order_and_the_end(engine: Engine, account: Caller) -> None:
    engine.submission._receivers = policy(["127.0.0.1"])
    first = made(engine, account)
    sender = make_sender(engine.database)
    with receiver() as shop:
        webhook = JobWebhook(shop.url, ["image.task.queued", "image.task.started", "image.task.succeeded"])
        done = order(engine, account, about={"webhook": webhook})
        assert [nudge.task for nudge in done.nudges] == ["wake", "webhooks.deliver"]
        until(lambda: (sender.send_due(), len(shop.got) == 2)[1], 20, shop.types)
    sender.stop()
    told = {each.type: each.document["data"] for each in shop.got}
    assert told.keys() == {"image.task.queued", "image.task.succeeded"}
    assert told["image.task.succeeded"]["cached_from"] == first


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize("percent", [0, SOLD_AT])
@pytest.mark.parametrize("rolled_up", [False, True])
def test_usage_counts_it_as_cached_at_no_cost_and_agrees_with_the_ledger(
    engine: Engine, account: Caller, store: LocalStore, percent: float, rolled_up: bool
) -> None:
    use(engine, store, percent=percent)
    made(engine, account)
    for _ in range(3):
        order(engine, account)
    if rolled_up:
        _in_an_hour_that_has_ended(engine)
        with engine.database.transaction() as connection:
            end = connection.execute(text("SELECT date_trunc('hour', now())")).scalar_one()
            assert add_up_next(connection, end)
    with engine.database.autocommit() as connection:
        now = connection.execute(text("SELECT now()")).scalar_one()
        since = {"from_at": now - timedelta(days=1), "to_at": now + timedelta(hours=1)}
        found = usage(connection, **since, by=("outcome",), account_id=None, costs=True)
        all_of_it = usage(connection, **since, by=DIMENSIONS, account_id=account.account_id, costs=True)
    sold = {each.outcome: each.amounts for each in found}
    unit = PRICE * percent // 100
    assert (sold["cached"].jobs, sold["cached"].images, sold["cached"].captured) == (3, 3, 3 * unit)
    assert (sold["cached"].calls, sold["cached"].cost, sold["cached"].uncosted_calls) == (0, 0, 0)
    assert (sold["succeeded"].jobs, sold["succeeded"].captured, sold["succeeded"].calls) == (1, PRICE, 1)
    ledger = engine.rows(
        "SELECT coalesce(sum(t.amount), 0) AS captured FROM transfers AS t JOIN jobs AS j ON j.id = t.job_id"
        " WHERE t.kind = 'capture' GROUP BY j.cached_from IS NOT NULL ORDER BY 1"
    )
    assert sorted(row.captured for row in ledger) == sorted(each.captured for each in sold.values() if each.captured)
    assert sum(each.amounts.captured for each in all_of_it) == PRICE + 3 * unit
    engine.assert_books_balance()


def _in_an_hour_that_has_ended(engine: Engine) -> None:
    engine.sql("UPDATE jobs SET finished_at = date_trunc('hour', now()) - interval '90 minutes'")
    engine.sql("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final")
    engine.sql("UPDATE transfers SET created_at = date_trunc('hour', now()) - interval '90 minutes'")
    engine.sql("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final")


def test_estimates_of_waits_leave_it_out(engine: Engine, account: Caller, models: Catalog) -> None:
    for seed in range(1, 4):
        made(engine, account, seed=seed)
    engine.sql("UPDATE jobs SET started_at = started_at - interval '10 s', created_at = created_at - interval '30 s'")
    before = Estimates(engine.database)._ask("stability", CORE)
    assert before is not None
    assert before.p50_s >= 10
    for _ in range(9):
        assert answered_by(order(engine, account, seed=1))
    assert Estimates(engine.database)._ask("stability", CORE) == before
    [half] = Estimates(engine.database).service_s([models.resolve(CORE).model]).values()
    assert half == before.p50_s


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("point", ["cache.copied", "cache.uncommitted", "submit.committed"])
def test_a_process_that_dies_meanwhile_leaves_nothing_but_orphans(
    engine: Engine, account: Caller, store: LocalStore, cache: ResultCache, point: str
) -> None:
    first, before = made(engine, account), set(store.folders("jobs"))
    assert dies(engine, lambda: order(engine, account), at=point) == signal.SIGKILL
    [copied] = set(store.folders("jobs")) - before
    keys = list(store.iter_keys(f"jobs/{copied}/"))
    for key in keys:
        os.utime(store.root / key, (0, 0))
    found = orphans.find_orphans(engine.database, store, "jobs", [first, copied]).orphans
    if point == "submit.committed":
        assert engine.task(account, copied).cached_from == first
        assert found == []
    else:
        assert [row.id for row in engine.rows("SELECT id FROM jobs")] == [first]
        assert found == keys
    assert answered_by(order(engine, account)) == first
    engine.assert_books_balance()


def dies(engine: Engine, work: Callable[[], object], *, at: str) -> int:
    """Do it in a process of its own, with connections of its own; the signal that it dies by, 0 for none."""
    url = engine.database.engine.url.render_as_string(hide_password=False)
    child = os.fork()
    if child == 0:
        try:
            failpoints._TARGET, failpoints._NTH, failpoints._arrivals = at, 1, itertools.count(1)
            own = Database(make_engine(url, pool_size=1))
            engine.submission._database = own
            engine.submission._cache = replace(engine.submission._cache, database=own)  # type: ignore[type-var]
            work()
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
