"""Submitting: what is refused, that a refusal leaves nothing behind, and what an order becomes."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from job_engine import ASYNC_MODEL, ASYNC_PRICE, SYNC_MODEL, Engine, image_bytes
from PIL import Image
from sqlalchemy import event

from accounts.keys import Caller
from core.errors import DatabaseAwayError, ServiceError
from jobs.errors import BadImageError, IdempotencyMismatchError, InvalidOrderError, UnknownOperationError
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order, ReferenceImage
from jobs.submission.service import SubmissionService
from quota.errors import InsufficientCreditsError
from storage.local import LocalStore

TABLES = ("jobs", "orders", "inputs", "job_events", "idempotency_keys", "upstream_calls", "images")


def bomb() -> bytes:
    """A small file that claims a great many pixels."""
    head = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def noise(edge_px: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((edge_px, edge_px), 80).save(out, "PNG")
    return out.getvalue()


def state(engine: Engine, customer: Caller, store: LocalStore) -> tuple[object, ...]:
    rows = tuple(engine.one(f"SELECT count(*) FROM {table}") for table in TABLES)
    return rows, sorted(store.iter_keys("inputs/")), engine.balance(customer)


@pytest.fixture
def nothing_left(engine: Engine, account: Caller, store: LocalStore) -> Callable[[], None]:
    before = state(engine, account, store)

    def check() -> None:
        assert state(engine, account, store) == before

    return check


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"prompt": ""}, "prompt", None),
        ({"prompt": "  \n\t "}, "prompt", None),
        ({"prompt": None}, "prompt", None),
        ({"prompt": "\x00\x07"}, "prompt", None),
        ({"prompt": 7}, "prompt", None),
        ({"prompt": "x" * 200_000}, "prompt", None),
        ({"model": "gpt-imagine-2"}, "model", "unknown_model"),
        ({"model": "flux-2-pro"}, "model", "provider_not_configured"),
        ({"model": 7}, "model", "wrong_type"),
        ({"model": "x" * 10_000}, "model", "unknown_model"),
        ({"wings": 2}, "wings", None),
        ({"steps": 20}, "steps", None),
        ({"model": SYNC_MODEL, "size": "1x1000000"}, "size", None),
        ({"model": SYNC_MODEL, "size": "big"}, "size", None),
        ({"width": -5, "height": 5}, None, None),
        ({"n": 0}, "n", None),
        ({"n": 11}, "n", None),
        ({"n": "many"}, "n", None),
        ({"n": True}, "n", None),
        ({"metadata": {"a": "\x00"}}, "metadata", "not_storable"),
        ({"metadata": {"a\ud800": "b"}}, "metadata", "not_storable"),
        ({"extra": {"a": [{"b": "\udfff"}]}}, "extra", "not_storable"),
        ({"extra": {"a": float("nan")}}, "extra", "not_storable"),
    ],
)
def test_a_bad_field_is_named_and_nothing_is_left(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    nothing_left: Callable[[], None],
    fields: dict[str, Any],
    field: str | None,
    code: str | None,
) -> None:
    with pytest.raises(InvalidOrderError) as refusal:
        engine.order(account, **{"prompt": "fine", **fields})
    named = {fault.field: fault.code for fault in refusal.value.faults}
    if field:
        assert field in named
        assert code is None or named[field] == code
    nothing_left()


def test_every_bad_field_is_named_at_once(engine: Engine, account: Caller) -> None:
    with pytest.raises(InvalidOrderError) as refusal:
        engine.order(account, "", n=99, wings=2)
    assert {fault.field for fault in refusal.value.faults} == {"prompt", "n", "wings"}


def test_a_text_that_names_no_image_is_told_with_the_other_faults(
    engine: Engine, account: Caller, nothing_left: Callable[[], None]
) -> None:
    hello = ReferenceImage("image", field_name="images[0]", text="hello!")
    far = ReferenceImage("image", field_name="images[1]", text="https://example.com/a.png")
    with pytest.raises(InvalidOrderError) as refusal:
        engine.order(account, operation="edit", model="nosuch", references=[hello, far])
    assert [fault.field for fault in refusal.value.faults] == ["model", "images[0]"]
    nothing_left()


def test_an_unknown_model_comes_with_suggestions(engine: Engine, account: Caller) -> None:
    with pytest.raises(InvalidOrderError, match="did you mean gpt-image-2"):
        engine.order(account, model="gqt-image-2")


def test_an_unknown_operation(engine: Engine, account: Caller, nothing_left: Callable[[], None]) -> None:
    with pytest.raises(UnknownOperationError):
        engine.order(account, operation="levitate")
    with pytest.raises(InvalidOrderError):
        engine.order(account, operation="upscale", model=ASYNC_MODEL)
    nothing_left()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: b"not an image at all", None),
        (lambda: b"", None),
        (lambda: image_bytes()[:-20], None),
        (bomb, "image_too_many_pixels"),
        (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', None),
        (lambda: b"<html><body>hello</body></html>", None),
        (lambda: noise(3600), "image_too_large_bytes"),
    ],
)
def test_a_bad_image_is_named_and_nothing_is_left(
    engine: Engine, account: Caller, nothing_left: Callable[[], None], make: Callable[[], bytes], code: str | None
) -> None:
    image_count = [ReferenceImage("image", image_bytes(), "images[0]"), ReferenceImage("image", make(), "images[1]")]
    with pytest.raises(BadImageError) as refusal:
        engine.order(account, operation="edit", references=image_count)
    assert [fault.field for fault in refusal.value.faults] == ["images[1]"]
    assert code is None or refusal.value.code == code
    nothing_left()


def test_what_hangs_on_an_image_is_not_kept(engine: Engine, account: Caller, store: LocalStore) -> None:
    polyglot = image_bytes() + b"<script>alert(1)</script>"
    try:
        job_id = engine.order(account, operation="edit", references=[ReferenceImage("image", polyglot)]).task.id
    except BadImageError:
        return
    [key] = store.iter_keys(f"inputs/{job_id}/")
    assert b"script" not in store.read(key)


def test_a_mask_must_have_the_images_size(engine: Engine, account: Caller, nothing_left: Callable[[], None]) -> None:
    image_count = [ReferenceImage("image", image_bytes(64, 64)), ReferenceImage("mask", image_bytes(32, 64, "RGBA"))]
    with pytest.raises(BadImageError) as refusal:
        engine.order(account, operation="edit", references=image_count)
    assert refusal.value.code == "mask_size_mismatch"
    nothing_left()


@pytest.mark.parametrize(
    ("operation", "roles"), [("edit", []), ("edit", ["mask"]), ("generate", ["mask"]), ("edit", ["image"] * 40)]
)
def test_images_must_fit_the_operation(
    engine: Engine, account: Caller, nothing_left: Callable[[], None], operation: str, roles: list[Any]
) -> None:
    references = [ReferenceImage(role, image_bytes(16, 16)) for role in roles]
    with pytest.raises(ServiceError):
        engine.order(account, operation=operation, references=references, model=SYNC_MODEL, size="1024x1024")
    nothing_left()


def test_an_empty_purse_is_refused_before_images_are_decoded(
    engine: Engine, account: Caller, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = engine.account(0.05)
    before = state(engine, poor, store)
    monkeypatch.setattr(engine.context.media, "keep_upload", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(InsufficientCreditsError):
        engine.order(poor, operation="edit", references=[ReferenceImage("image", image_bytes())])
    assert state(engine, poor, store) == before


def test_who_spends_the_last_credit_meanwhile_leaves_no_image_of_the_other(
    engine: Engine, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = engine.account(0.1)
    monkeypatch.setattr(SubmissionService, "_check_balance", lambda *args: None)
    engine.order(poor)
    before = state(engine, poor, store)
    with pytest.raises(InsufficientCreditsError):
        engine.order(poor, operation="edit", references=[ReferenceImage("image", image_bytes())])
    assert state(engine, poor, store) == before


# ------------------------------------------------------------------ what is accepted


def test_an_order_is_priced_by_the_function_that_quotes_it(engine: Engine, account: Caller) -> None:
    fields = {"prompt": "a fox", "model": SYNC_MODEL, "size": "1024x1024", "quality": "high", "n": 2}
    quote = engine.submission.quoting.quote(Order("generate", fields))
    assert (quote.unit_price_microcredits, quote.total_microcredits) == (21_100_000, 42_200_000)
    task = engine.order(account, **fields).task
    row = engine.job(task.id)
    assert (row.unit_price, row.quoted) == (quote.unit_price_microcredits, quote.total_microcredits)
    assert engine.one("SELECT price_version FROM orders") == engine.context.catalog.version


def test_a_minimum_price_counts_for_what_costs_nothing_upstream(engine: Engine, account: Caller) -> None:
    assert engine.order(account, n=3).task.quoted_microcredits == 3 * ASYNC_PRICE


def test_what_was_changed_is_told(engine: Engine, account: Caller) -> None:
    task = engine.order(account, model=SYNC_MODEL, size="1000x1000").task
    assert task.request["normalised"]["size"] == {"asked": "1000x1000", "used": "1008x1008"}


def test_no_model_means_one_that_can(engine: Engine, account: Caller) -> None:
    for name in (None, "auto", "auto:budget"):
        task = engine.order(account, model=name).task
        assert task.provider in ("chatgpt2api", "openai")


def test_a_model_switched_off_is_replaced_with_a_warning(engine: Engine, account: Caller) -> None:
    task = engine.order(account, model="dall-e-3").task
    assert task.model == "gpt-image-2"
    assert any("dall-e-3" in warning for warning in task.warnings)


def test_a_lenient_order_drops_what_the_model_does_not_take(engine: Engine, account: Caller) -> None:
    task = engine.order(account, steps=20, lenient=True).task
    assert "steps" not in task.request["params"]
    assert any("steps" in warning for warning in task.warnings)


def test_reference_images_are_kept_with_the_job(engine: Engine, account: Caller, store: LocalStore) -> None:
    image_count = [ReferenceImage("image", image_bytes(48, 32)), ReferenceImage("mask", image_bytes(48, 32, "RGBA"))]
    task = engine.order(account, operation="edit", references=image_count).task
    rows = engine.rows("SELECT role, position, key, width_px, height_px FROM inputs ORDER BY position")
    assert [(row.role, row.width_px, row.height_px) for row in rows] == [("image", 48, 32), ("mask", 48, 32)]
    assert sorted(store.iter_keys(f"inputs/{task.id}/")) == sorted(row.key for row in rows)


# ------------------------------------------------------------------ idempotency


def test_the_same_key_and_body_answers_the_same_job(engine: Engine, account: Caller) -> None:
    key = IdempotencyKey("once", b"body")
    first = engine.order(account, key=key, publish=False)
    second = engine.order(account, key=key, publish=False)
    assert (second.task.id, second.replayed, second.nudges) == (first.task.id, True, [])
    assert first.replayed is False
    engine.assert_books_balance()


def test_the_same_key_with_another_body_is_refused(engine: Engine, account: Caller, store: LocalStore) -> None:
    engine.order(account, key=IdempotencyKey("once", b"body"))
    before = state(engine, account, store)
    with pytest.raises(IdempotencyMismatchError):
        engine.order(account, key=IdempotencyKey("once", b"other"))
    assert state(engine, account, store) == before


def test_another_account_may_use_the_same_key(engine: Engine, account: Caller) -> None:
    key = IdempotencyKey("once", b"body")
    assert engine.order(account, key=key).task.id != engine.order(engine.account(), key=key).task.id


def test_a_key_lives_a_day(engine: Engine, account: Caller) -> None:
    key = IdempotencyKey("once", b"body")
    first = engine.order(account, key=key)
    engine.sql("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
    second = engine.order(account, key=IdempotencyKey("once", b"other"))
    assert (second.task.id != first.task.id, second.replayed) == (True, False)


def test_a_refused_order_does_not_use_up_its_key(engine: Engine) -> None:
    poor, key = engine.account(0.1), IdempotencyKey("once", b"body")
    with pytest.raises(InsufficientCreditsError):
        engine.order(poor, n=2, key=key)
    assert engine.order(poor, key=key).replayed is False


@pytest.mark.parametrize("image_count", [0, 1])
def test_fifty_at_once_with_one_key_are_one_job(
    engine: Engine, account: Caller, store: LocalStore, image_count: int
) -> None:
    key, start, done = IdempotencyKey("once", b"body"), threading.Barrier(50), []
    before = set(store.iter_keys("inputs/"))
    references = [ReferenceImage("image", image_bytes(16, 16))] * image_count

    def submit() -> None:
        start.wait()
        done.append(
            engine.order(
                account, key=key, publish=False, references=references, operation=("generate", "edit")[image_count]
            )
        )

    threads = [threading.Thread(target=submit) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 50
    [job_id] = {each.task.id for each in done}
    assert [each.replayed for each in done].count(False) == 1
    assert engine.one("SELECT count(*) FROM jobs") == 1
    kept = set(store.iter_keys("inputs/")) - before
    assert [job_id in name for name in kept] == [True] * image_count
    engine.assert_books_balance()


def test_a_submit_whose_commit_was_not_answered_is_found(engine: Engine, account: Caller, store: LocalStore) -> None:
    def lose_the_answer(connection: Any) -> None:
        connection.connection.commit()
        raise DatabaseAwayError("the answer to COMMIT was lost")

    event.listen(engine.database.engine, "commit", lose_the_answer)
    try:
        done = engine.order(account, operation="edit", references=[ReferenceImage("image", image_bytes())])
    finally:
        event.remove(engine.database.engine, "commit", lose_the_answer)
    assert len(list(store.iter_keys(f"inputs/{done.task.id}/"))) == 1
    engine.drive()
    assert engine.job(done.task.id).status == "succeeded"
    engine.assert_books_balance()


def test_a_submit_that_was_not_committed_leaves_nothing(
    engine: Engine, account: Caller, store: LocalStore, nothing_left: Callable[[], None]
) -> None:
    def never_committed(connection: Any) -> None:
        connection.connection.rollback()
        raise DatabaseAwayError("gone before COMMIT")

    event.listen(engine.database.engine, "commit", never_committed)
    try:
        with pytest.raises(DatabaseAwayError):
            engine.order(
                account,
                operation="edit",
                references=[ReferenceImage("image", image_bytes())],
                key=IdempotencyKey("lost", b"1"),
            )
    finally:
        event.remove(engine.database.engine, "commit", never_committed)
    nothing_left()
