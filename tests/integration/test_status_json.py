"""The JSON that PostgreSQL writes for a status read is that of the renderer, for every kind of task."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from job_engine import ASYNC_MODEL, SYNC_MODEL, Engine

from accounts.keys import Caller
from app.http.signing import Signer
from app.shapes.render import Renderer
from app.shapes.schemas.tasks import TaskOut
from app.shapes.status_json import find_status_json
from jobs import lifecycle
from jobs.failures import SENTENCES
from jobs.maintenance import deletion
from jobs.reads.tasks import QUEUE_COUNTED
from jobs.submission.estimates import InQueue
from jobs.submission.wait_model import Wait

ODD = 'a "fox" \\ of\tthe\nsnow: \x01 \x7f é 狐 🦊 </script>'


def waits(task: InQueue) -> Wait | None:
    return None if task.queue_position is None else Wait(1.5, task.queue_position + 2.0)


QUEUED = ("deadline_expired", "insufficient_credits", "model_unavailable", "own_key_deleted", "provider_closed")
DOWNLOAD = ("bad_result", "result_gone", "result_too_large", "result_unavailable", "result_url_refused")
RENDERER = Renderer(Signer({"k1": b"s" * 32}), "https://images.example", waits)


def made(engine: Engine, account: Caller, **fields: Any) -> str:
    return engine.order(account, fields.pop("prompt", "a fox"), **fields).task.id


def changed(engine: Engine, job_id: str, assignments: str, **values: Any) -> str:
    """A job as if its life had led there; versions and rules of the table stay the database's."""
    engine.sql(f"UPDATE jobs SET {assignments} WHERE id = :id", id=job_id, **values)
    return job_id


def ended(engine: Engine, account: Caller, **fields: Any) -> str:
    job_id = made(engine, account, **fields)
    engine.drive()
    assert engine.job(job_id).finished_at is not None
    return job_id


def cancelled(engine: Engine, account: Caller, job_id: str) -> str:
    with engine.database.transaction() as connection:
        lifecycle.cancel(connection, account.account_id, job_id)
    return job_id


def deleted(engine: Engine, account: Caller) -> str:
    job_id = ended(engine, account)
    with engine.database.transaction() as connection:
        deletion.delete_task(connection, account.account_id, job_id)
    return job_id


def running(engine: Engine, account: Caller, **fields: Any) -> str:
    job_id = made(engine, account, prompt="b [sandbox:never]", **fields)
    engine.run(job_id)
    assert engine.job(job_id).status == "waiting"
    return job_id


def in_second_place(engine: Engine, account: Caller) -> str:
    made(engine, engine.account())
    return made(engine, account)


def too_far_back(engine: Engine, account: Caller) -> str:
    first = made(engine, engine.account())
    engine.sql(
        "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted)"
        " SELECT 'job_' || lpad(CAST(i AS text), 26, '0'), account_id, operation, model, provider, 1, 'queued',"
        " 'queued', 0, 0 FROM jobs, generate_series(1, :count) AS i WHERE id = :first",
        first=first,
        count=QUEUE_COUNTED,
    )
    return made(engine, account)


def priced(quoted: int) -> Callable[[Engine, Caller], str]:
    return lambda engine, account: changed(engine, made(engine, account), "quoted = :quoted", quoted=quoted)


def failed(detail: str | None) -> Callable[[Engine, Caller], str]:
    return lambda engine, account: changed(
        engine,
        made(engine, account),
        "status = 'failed', money = 'settled', failure_code = 'content_refused', failure_detail = :detail,"
        " captured = 0, released = quoted, attempt = 2, started_at = clock_timestamp(),"
        " finished_at = clock_timestamp()",
        detail=detail,
    )


def with_images(columns: str, values: str) -> Callable[[Engine, Caller], str]:
    """Ended, with an image next to its own (which is of index 0)."""

    def make(engine: Engine, account: Caller) -> str:
        job_id = ended(engine, account)
        engine.sql(
            f"INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256{columns})"
            f" VALUES (:id, 1, 'call_x', 'k', 'text/plain', 5, 'ab'{values})",
            id=job_id,
        )
        return job_id

    return make


def waiting_for(fault: str) -> Callable[[Engine, Caller], str]:
    """Tried once and queued again."""

    def make(engine: Engine, account: Caller) -> str:
        job_id = made(engine, account, prompt=f"a [sandbox:{fault}]", model=SYNC_MODEL, size=None)
        engine.run(job_id)
        assert (engine.job(job_id).status, engine.job(job_id).attempt) == ("queued", 1)
        return job_id

    return make


KINDS: dict[str, Callable[[Engine, Caller], str]] = {
    "queued": made,
    "waits for a rate limit": waiting_for("429 retry_after=77"),
    "waits for another try": waiting_for("fail=500"),
    "second in the queue": in_second_place,
    "too far back for a place": too_far_back,
    "odd words": lambda e, a: made(e, a, prompt=ODD, metadata={"näme": ODD, "b": "", "a": "1"}),
    "low priority": lambda e, a: made(e, a, priority="low", deadline_s=77),
    "settings of its own": lambda e, a: made(
        e, a, model=SYNC_MODEL, size="1024x1024", quality="high", n=3, output_format="webp", output_compression=80
    ),
    "normalised, with warnings": lambda e, a: made(
        e,
        a,
        model=SYNC_MODEL,
        size="1000x1000",
        lenient=True,
        sampler="x",
        extra={"deep": [1.50, 1e30, None, {"a": []}]},
    ),
    "model chosen": lambda e, a: made(e, a, model="auto", size=None),
    "fallbacks": lambda e, a: made(e, a, model=SYNC_MODEL, fallback_models=[ASYNC_MODEL], size="64x64", lenient=True),
    "fallback took over": lambda e, a: changed(
        e,
        made(e, a, model=SYNC_MODEL, fallback_models=[ASYNC_MODEL], size="64x64", lenient=True),
        "model = :model, provider = 'chatgpt2api', attempt = 1, notes = CAST(:notes AS jsonb)",
        model=ASYNC_MODEL,
        notes=json.dumps([ODD, "another"]),
    ),
    "another operation's word": lambda e, a: changed(e, made(e, a), "operation = 'image_to_3d'"),
    "an operation of two words": lambda e, a: changed(e, made(e, a), "operation = 'remove_background'"),
    "running": lambda e, a: changed(
        e,
        made(e, a),
        "status = 'running', money = 'held', owner = 'w', attempt = 1,"
        " started_at = TIMESTAMPTZ '2026-11-20 23:59:59.999999+05'",
    ),
    "waiting, with progress": lambda e, a: changed(e, running(e, a), "progress = 0.375"),
    "waiting, all but done": lambda e, a: changed(e, running(e, a), "progress = 1"),
    "asked to stop": lambda e, a: cancelled(e, a, running(e, a)),
    "cancelled in the queue": lambda e, a: cancelled(e, a, made(e, a)),
    "failed, with a detail": failed(ODD),
    "failed, without a detail": failed(None),
    "failed, with an empty detail": failed(""),
    "succeeded": ended,
    "succeeded, with the progress it had": lambda e, a: changed(e, ended(e, a), "progress = 0.9"),
    "succeeded with several": lambda e, a: ended(e, a, n=3),
    "store false": lambda e, a: ended(e, a, store=False),
    "images deleted": deleted,
    "a text for an image": with_images(", text, seed", f", '{'its '}\"odd\"', 7"),
    "an image without a size, deleted": with_images(", deleted_at", ", clock_timestamp()"),
    **{f"price {quoted}": priced(quoted) for quoted in (0, 1, 10, 1_000_000, 5_300_000, 123_456_789_012_345_678)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_what_the_renderer_says(engine: Engine, account: Caller, kind: str) -> None:
    job_id = KINDS[kind](engine, account)
    mine = (account.account_id, job_id)
    with engine.database.hot() as hot:
        text = find_status_json(hot, [mine])[mine]
    task = engine.task(account, job_id)
    said, written = RENDERER.task(task), json.loads(RENDERER.text(text))
    assert written == json.loads(json.dumps(said))
    assert list(written) == list(said)
    assert list(written["price"]) == list(said["price"])
    TaskOut.model_validate(written)
    assert RENDERER.etag(text) == RENDERER.etag(task)
    assert (text.ended, text.keep_s, text.version) == (task.ended, task.keep_s, task.version)


CALLED = (
    "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,"
    " outcome, give_up_at, upstream_id, error_code, intended_at)"
    " SELECT :id || :number, :id, 0, :number, 1, provider, model, 'c', 'u', :id || :number, 'failed', now(), :upstream,"
    " :code, now() - :number * INTERVAL '1 second' FROM jobs WHERE id = :id"
)


@pytest.mark.parametrize(
    ("calls", "usual"),
    [
        ([], "queued"),
        ([(None, None)], "submit"),
        ([("up-1", None)], "running"),
        ([(None, "another"), ("up-1", "same")], "running"),
        ([("up-1", "another"), (None, "same")], "submit"),
        ([(None, "another"), ("up-1", "another")], "submit"),
    ],
)
def test_the_stage_of_every_failure_is_the_same_in_both(
    engine: Engine, account: Caller, calls: list[tuple[str | None, str | None]], usual: str
) -> None:
    job_id = failed(None)(engine, account)
    mine = (account.account_id, job_id)
    for code in [*SENTENCES, "a_code_of_another_release"]:
        engine.sql("DELETE FROM upstream_calls WHERE job_id = :id", id=job_id)
        changed(engine, job_id, "failure_code = :code", code=code)
        for number, (upstream, error) in enumerate(calls, start=1):
            own = {"same": code}.get(error or "", error)
            engine.sql(CALLED, id=job_id, number=number, upstream=upstream, code=own)
        with engine.database.hot() as hot:
            written = json.loads(RENDERER.text(find_status_json(hot, [mine])[mine]))["error"]
        assert written == RENDERER.task(engine.task(account, job_id))["error"]
        assert written["provider"] == "chatgpt2api"
        fixed = {
            **dict.fromkeys(QUEUED, "queued"),
            **dict.fromkeys(DOWNLOAD, "download"),
            "storage_unavailable": "store",
        }
        assert written["stage"] == fixed.get(code, usual), code


def test_a_task_that_was_tried_twice_says_why_the_second_try_was_in_vain(engine: Engine, account: Caller) -> None:
    job_id = waiting_for("fail=500")(engine, account)
    [tried] = engine.calls(job_id)
    assert tried.error_code != "upstream_rate_limited"
    engine.sql("UPDATE upstream_calls SET intended_at = intended_at - interval '1 hour' WHERE job_id = :id", id=job_id)
    engine.sql(CALLED, id=job_id, number=2, upstream=None, code="upstream_rate_limited")
    waiting = engine.task(account, job_id).waiting
    assert waiting is not None
    assert waiting.code == "upstream_rate_limited"
    with engine.database.hot() as hot:
        key = (account.account_id, job_id)
        assert find_status_json(hot, [key])[key].waiting == waiting


def test_each_is_found_within_its_own_account_alone(engine: Engine, account: Caller) -> None:
    other = engine.account()
    mine, theirs = made(engine, account), made(engine, other)
    asked = [
        (account.account_id, mine),
        (account.account_id, theirs),
        (other.account_id, theirs),
        (account.account_id, "job_" + "0" * 26),
        (account.account_id, "job_\x00"),
    ]
    with engine.database.hot() as hot:
        found = find_status_json(hot, asked)
        assert [find_status_json(hot, [asked[at]]) for at in (1, 3, 4)] == [{}, {}, {}]
    assert set(found) == {asked[0], asked[2]}
    assert {key: json.loads(text.head)["id"] for key, text in found.items()} == {asked[0]: mine, asked[2]: theirs}
