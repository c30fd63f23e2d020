"""Every verb: which states it moves a job between, what it writes, and that it refuses everything else."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from job_engine import ASYNC_PRICE, SYNC_MODEL, Engine
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from accounts.keys import Caller
from core.db import Hot
from core.ids import new_id
from jobs import lifecycle
from jobs.call import KeptImage
from jobs.errors import JobNotFoundError, StaleJobError
from jobs.lifecycle import calls
from jobs.states import Ended, JobStatus, Nudge, Outcome
from quota.errors import LedgerMismatchError

STEP_S = {"chatgpt2api": 120.0}
GIVE_UP_S: dict[str, float] = {}
STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
NODE = "celery@here"


@dataclass(frozen=True)
class Seen:
    """What a caller has read of a job: every verb checks the version, ``lapse`` the fence."""

    id: str
    version: int
    fence: int


Verb = Callable[[Connection, Seen], Any]


def start(connection: Connection, seen: Seen) -> Any:
    providers = (
        '{"chatgpt2api": {"step_s": 120, "deadline_s": 720, "credentials": {"chatgpt2api/default": "http://up"}}}'
    )
    started = lifecycle.start(
        Hot.of(connection),
        seen.id,
        owner="wkr_test",
        node=NODE,
        providers=providers,
        call_id=new_id("call"),
        backoff_s=60,
        window=32,
        most=4,
    )
    if started is None:
        raise StaleJobError("not to be started")
    return started


def claim(connection: Connection, seen: Seen) -> Any:
    row = lifecycle.claim(connection, seen.id, owner="wkr_test", node=NODE, step_s=STEP_S)
    lifecycle.hold(connection, row)
    return row


def park(connection: Connection, seen: Seen) -> Any:
    return lifecycle.park(connection, seen.id, seen.version, check_after_s=1)


def retry(connection: Connection, seen: Seen) -> Any:
    return lifecycle.retry(connection, seen.id, seen.version, code="upstream_failed", after_s=0, deadline_s=720)


def fail_over(connection: Connection, seen: Seen) -> Any:
    give_fallbacks(connection, seen.id)
    return lifecycle.fail_over(connection, seen.id, seen.version, code="upstream_failed")


def adjust(connection: Connection, seen: Seen) -> Any:
    connection.execute(text("UPDATE jobs SET safe_prompt = 'wanted' WHERE id = :id"), {"id": seen.id})
    return lifecycle.adjust(connection, seen.id, seen.version, code="content_refused", deadline_s={})


def give_fallbacks(connection: Connection, job_id: str) -> None:
    """Give the job a fallback model, as an order that names two models has it."""
    connection.execute(
        text(
            "WITH o AS (UPDATE orders SET fallbacks = CAST(:next AS jsonb) WHERE job_id = :id)"
            " UPDATE jobs SET fallbacks = 1 WHERE id = :id AND finished_at IS NULL"
        ),
        {
            "id": job_id,
            "next": '[{"model": "flux-2-pro", "provider": "flux", "unit_price": 50000, "request": {}}]',
        },
    )


def keep_images(connection: Connection, job_id: str, count: int = 1) -> None:
    """Insert images, each with its own call, for which the job is charged."""
    connection.execute(
        text(
            "WITH number AS (SELECT generate_series(0, :count - 1) AS n), c AS (INSERT INTO upstream_calls (id, job_id,"
            " slot, try, pictures, provider, model, credential_id, base_url, dedupe_key, outcome, give_up_at,"
            " pictures_kept) SELECT 'call_' || :job || n, :job, n, 7, 1, 'chatgpt2api', 'm', 'chatgpt2api/default', '',"
            " :job || n, 'kept', now(), 1 FROM number ON CONFLICT DO NOTHING RETURNING id, job_id, slot)"
            " INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256)"
            " SELECT job_id, slot, id, 'k', 'image/png', 1, '' FROM c ON CONFLICT DO NOTHING"
        ),
        {"job": job_id, "count": count},
    )


def succeed(connection: Connection, seen: Seen) -> Any:
    keep_images(connection, seen.id)
    return lifecycle.end(connection, seen.id, seen.version, lifecycle.succeed())


def fail(connection: Connection, seen: Seen) -> Any:
    return lifecycle.end(connection, seen.id, seen.version, lifecycle.fail("upstream_failed"))


def expire(connection: Connection, seen: Seen) -> Any:
    return lifecycle.end(connection, seen.id, seen.version, lifecycle.expired())


def cancelled(connection: Connection, seen: Seen) -> Any:
    how = lifecycle.cancelled("stopped_upstream", charged=False)
    return lifecycle.end(connection, seen.id, seen.version, how)


def lapse(connection: Connection, seen: Seen) -> Any:
    return lifecycle.lapse(connection, seen.id, seen.fence, code="owner_gone", give_up_s=GIVE_UP_S)


LIVE = {"queued", "running", "waiting"}
VERBS: dict[str, tuple[Verb, set[str], str, str]] = {
    "start": (start, {"queued"}, "running", "started"),
    "claim": (claim, {"queued"}, "running", "started"),
    "park": (park, {"running", "waiting"}, "waiting", "waiting"),
    "retry": (retry, {"running", "waiting"}, "queued", "retry"),
    "fail_over": (fail_over, LIVE, "queued", "failover"),
    "adjust": (adjust, {"running", "waiting"}, "queued", "adjusting"),
    "succeed": (succeed, {"running", "waiting"}, "succeeded", "succeeded"),
    "fail": (fail, LIVE, "failed", "failed"),
    "expire": (expire, LIVE, "failed", "failed"),
    "cancelled": (cancelled, LIVE, "cancelled", "cancelled"),
    "lapse": (lapse, {"running"}, "waiting", "lapsed"),
}
# Verbs that write no event from these states, because the state does not change.
SILENT = {("park", "waiting")}
# Without a hold there is nothing to capture. After a retry a queued job may succeed, with images of earlier calls.
REFUSED: dict[tuple[str, str], type[Exception]] = {("succeed", "queued"): LedgerMismatchError}
ROADS: dict[str, list[Verb]] = {
    "queued": [],
    "running": [start],
    "waiting": [start, park],
    "succeeded": [start, succeed],
    "failed": [start, fail],
    "cancelled": [start, cancelled],
}


def bring(engine: Engine, customer: Caller, state: str) -> str:
    """Return a job in this state, reached only by verbs."""
    job_id = engine.order(customer, publish=False).task.id
    for verb in ROADS[state]:
        do(engine, verb, job_id)
    assert engine.job(job_id).status == state
    return job_id


def do(engine: Engine, verb: Verb, job_id: str, seen: Seen | None = None) -> Any:
    with engine.database.transaction() as connection:
        return verb(connection, seen or look(engine, job_id))


def look(engine: Engine, job_id: str) -> Seen:
    row = engine.job(job_id)
    return Seen(row.id, row.version, row.fence)


def test_the_drawing_shows_what_the_verbs_do() -> None:
    """Compare the table in ``jobs.lifecycle`` with VERBS, each of which is tried from every state below."""
    rows = re.findall(r"^    (\w+) {3,}([A-Z -]+?) {2,}([A-Z ]+)$", lifecycle.__doc__ or "", re.MULTILINE)
    drawn = {verb: (set(sources.lower().split()), set(targets.lower().split())) for verb, sources, targets in rows}
    assert drawn.pop("submit") == ({"-"}, {"queued"})
    assert drawn.pop("answer") == ({"-"}, {"succeeded"})  # tests/integration/test_result_cache.py
    assert drawn.pop("cancel") == ({"queued"}, {"cancelled"})  # test_a_cancel_of_a_queued_job_is_final_and_free
    tried = {
        "expired" if name == "expire" else name: (sources, target) for name, (_, sources, target, _) in VERBS.items()
    }
    assert drawn.keys() == tried.keys()
    for name, (sources, target) in tried.items():
        refused = {state for verb, state in REFUSED if verb == name}  # refused by the ledger, not because of the state
        assert drawn[name][0] == sources | refused, name
        assert drawn[name][1] == {target}, name
    stay = {"hold", "defer", "due_now", "reported", "take_adjusting", "adjusted"}  # they change no state
    verbs = {name for name in lifecycle.__all__ if name.islower()} - {"end", *stay}
    assert verbs == drawn.keys() | {"submit", "answer", "cancel"}


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_moves_a_job_only_from_its_states(engine: Engine, account: Caller, name: str) -> None:
    verb, sources, target, event = VERBS[name]
    for state in STATES:
        job_id = bring(engine, account, state)
        before, timeline = engine.job(job_id), engine.events(job_id)
        if state in sources:
            do(engine, verb, job_id)
            after = engine.job(job_id)
            new = [] if (name, state) in SILENT else [event]
            assert (after.status, engine.events(job_id)) == (target, [*timeline, *new])
            assert after.version == before.version + 1
        else:
            with pytest.raises(REFUSED.get((name, state), StaleJobError)):
                do(engine, verb, job_id)
            assert (engine.job(job_id), engine.events(job_id)) == (before, timeline)
    engine.assert_books_balance(image_count=False)


@pytest.mark.parametrize("name", [name for name in VERBS if name not in {"start", "claim"}])
def test_a_verb_under_another_version_changes_nothing(engine: Engine, account: Caller, name: str) -> None:
    """For ``lapse`` it is the fence: it depends on the job's owner and not on its calls."""
    verb, sources, _, _ = VERBS[name]
    for state in sorted(sources):
        job_id = bring(engine, account, state)
        before = engine.job(job_id)
        for by in (-1, 1):
            other = Seen(job_id, before.version + by, before.fence + by)
            with pytest.raises(StaleJobError):
                do(engine, verb, job_id, other)
        assert engine.job(job_id) == before


def test_a_lapse_checks_the_fence_and_not_the_version(engine: Engine, account: Caller) -> None:
    job_id = bring(engine, account, "running")
    seen = look(engine, job_id)
    engine.sql("UPDATE jobs SET version = version + 1")
    do(engine, lapse, job_id, seen)
    assert engine.job(job_id).status == "waiting"


@pytest.mark.parametrize("name", ["start", "claim", "lapse"])
def test_taking_or_losing_a_job_changes_its_fence(engine: Engine, account: Caller, name: str) -> None:
    verb, sources, _, _ = VERBS[name]
    job_id = bring(engine, account, min(sources))
    before = engine.job(job_id).fence
    do(engine, verb, job_id)
    assert engine.job(job_id).fence == before + 1


def test_only_a_running_job_has_an_owner_and_a_step_deadline(engine: Engine, account: Caller) -> None:
    running = engine.job(bring(engine, account, "running"))
    assert running.owner == "wkr_test"
    assert running.step_deadline_at is not None
    for state in set(STATES) - {"running"}:
        row = engine.job(bring(engine, account, state))
        assert (row.owner, row.step_deadline_at) == (None, None)


@pytest.mark.parametrize(
    ("state", "money", "kinds"),
    [
        ("queued", (0, 1, 0), {}),
        ("running", (-1, 0, 1), {"hold": 1}),
        ("waiting", (-1, 0, 1), {"hold": 1}),
        ("succeeded", (-1, 0, 0), {"hold": 1, "capture": 1}),
        ("failed", (0, 0, 0), {"hold": 1, "release": 1}),
        ("cancelled", (0, 0, 0), {"hold": 1, "release": 1}),
    ],
)
def test_money_moves_with_the_state(
    engine: Engine, account: Caller, state: str, money: tuple[int, int, int], kinds: dict[str, int]
) -> None:
    before = engine.balance(account)
    job_id = bring(engine, account, state)
    after = engine.balance(account)
    moved = (after.available - before.available, after.queued - before.queued, after.held - before.held)
    assert moved == tuple(part * ASYNC_PRICE for part in money)
    assert engine.transfers(job_id) == {kind: part * ASYNC_PRICE for kind, part in kinds.items()}


@pytest.mark.parametrize("take", [start, claim], ids=["start", "claim"])
def test_both_ways_to_a_running_job_hold_its_price(engine: Engine, account: Caller, take: Verb) -> None:
    job_id = bring(engine, account, "queued")
    do(engine, take, job_id)
    row = engine.job(job_id)
    assert (row.status, row.money, row.owner, row.node) == ("running", "held", "wkr_test", NODE)
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE}
    assert row.started_at is not None


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
@pytest.mark.parametrize("verb", [fail, expire, cancelled], ids=["fail", "expire", "cancelled"])
def test_an_end_returns_what_was_reserved_or_held(engine: Engine, account: Caller, verb: Verb, state: str) -> None:
    """A reserved price is returned without a transfer, a held one by a transfer."""
    before = engine.balance(account)
    job_id = bring(engine, account, state)
    do(engine, verb, job_id)
    assert engine.balance(account) == before
    held = {} if state == "queued" else {"hold": ASYNC_PRICE, "release": ASYNC_PRICE}
    assert engine.transfers(job_id) == held
    assert (engine.job(job_id).captured, engine.job(job_id).released) == (0, ASYNC_PRICE)
    engine.assert_books_balance(image_count=False)


def test_a_retry_keeps_the_hold_and_the_next_claim_does_not_hold_again(engine: Engine, account: Caller) -> None:
    job_id = bring(engine, account, "running")
    held = engine.balance(account)
    do(engine, retry, job_id)
    assert engine.balance(account) == held
    with pytest.raises(StaleJobError):
        do(engine, start, job_id)  # ``start`` is only for a job's first attempt
    do(engine, claim, job_id)
    assert engine.balance(account) == held
    do(engine, succeed, job_id)
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
    engine.assert_books_balance(image_count=False)


@pytest.mark.parametrize("take", [start, claim], ids=["start", "claim"])
def test_a_start_needs_the_job_to_be_due_and_before_its_start_deadline(
    engine: Engine, account: Caller, take: Verb
) -> None:
    job_id = bring(engine, account, "queued")
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() + interval '1 hour'")
    with pytest.raises(StaleJobError):
        do(engine, take, job_id)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp(), start_deadline_at = clock_timestamp()")
    with pytest.raises(StaleJobError):
        do(engine, take, job_id)
    engine.sql("UPDATE jobs SET attempt = 1")  # it was started before its deadline
    do(engine, claim, job_id)


def test_a_job_in_hand_must_move_on_within_its_calls_deadline_and_a_pause(engine: Engine, account: Caller) -> None:
    job_id = bring(engine, account, "running")
    left = "SELECT extract(epoch FROM deadline_at - clock_timestamp()) FROM jobs WHERE id = :id"
    assert engine.one(left, id=job_id) == pytest.approx(720 + 60, abs=5)
    do(engine, retry, job_id)
    assert engine.one(left, id=job_id) == pytest.approx(720, abs=5)


def test_a_cancel_request_makes_earlier_decisions_stale(engine: Engine, account: Caller) -> None:
    """A success or retry decided before the cancel request is stale; after it, a retry is refused in any case."""
    job_id = bring(engine, account, "running")
    seen = look(engine, job_id)
    with engine.database.transaction() as connection:
        assert lifecycle.cancel(connection, account.account_id, job_id).outcome == "stop_requested"
    for verb in (succeed, retry, fail_over):
        with pytest.raises(StaleJobError):
            do(engine, verb, job_id, seen)
    for verb in (retry, fail_over):
        with pytest.raises(StaleJobError):
            do(engine, verb, job_id)
    do(engine, park, job_id)
    assert engine.one("SELECT due_at <= clock_timestamp() FROM jobs WHERE id = :id", id=job_id)


def test_a_cancel_of_a_queued_job_is_final_and_free(engine: Engine, account: Caller) -> None:
    before = engine.balance(account)
    job_id = bring(engine, account, "queued")
    answer = cancel(engine, account, job_id)
    assert answer.outcome == "freed_in_queue"
    row = engine.job(job_id)
    assert (row.status, row.cancel_outcome, row.released) == ("cancelled", "freed_in_queue", ASYNC_PRICE)
    assert engine.balance(account) == before
    assert cancel(engine, account, job_id).outcome == "too_late"
    assert engine.job(job_id) == row
    engine.assert_books_balance(image_count=False)


@pytest.mark.parametrize(("charge", "captured"), [("full", 1), ("none", 0)])
def test_a_cancel_between_attempts_charges_the_images_made(
    engine: Engine, account: Caller, charge: Any, captured: int
) -> None:
    """n=3 at one image per call: the first image is kept, the second waits for its second attempt."""
    job_id = engine.order(account, "three [sandbox:fail=500 skip=1]", n=3).task.id
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt > 0)
    made = engine.one("SELECT count(*) FROM images WHERE job_id = :id", id=job_id)
    assert made >= 1
    with engine.database.transaction() as connection:
        assert lifecycle.cancel(connection, account.account_id, job_id, charge=charge).outcome == "too_late"
    row = engine.job(job_id)
    assert (row.status, row.captured) == ("cancelled", captured * made * ASYNC_PRICE)
    assert row.captured + row.released == row.quoted
    engine.assert_books_balance()


def test_another_accounts_job_cannot_be_cancelled(engine: Engine, account: Caller) -> None:
    job_id, other = bring(engine, account, "queued"), engine.account()
    before = engine.job(job_id)
    for customer, wanted in ((other, job_id), (account, "job_" + "0" * 26), (account, "job_\0")):
        with pytest.raises(JobNotFoundError):
            cancel(engine, customer, wanted)
    assert engine.job(job_id) == before


def test_cancel_and_success_at_once_have_one_outcome(engine: Engine, account: Caller) -> None:
    """Twelve races; each job ends once, and the books balance whichever comes first."""
    for _ in range(12):
        job_id = bring(engine, account, "running")
        seen = look(engine, job_id)
        start_line = threading.Barrier(2)
        results: list[object] = []

        def racer(act: Callable[[], object], start: threading.Barrier = start_line, to: list[object] = results) -> None:
            start.wait()
            try:
                to.append(act())
            except StaleJobError as stale:
                to.append(stale)

        acts = [lambda j=job_id: cancel(engine, account, j), lambda j=job_id, s=seen: do(engine, succeed, j, s)]
        threads = [threading.Thread(target=racer, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        row = engine.job(job_id)
        if row.status == "succeeded":
            assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
        else:
            assert (row.status, row.cancel_requested_at is not None) == ("running", True)
            assert any(isinstance(result, StaleJobError) for result in results)
            do(engine, cancelled, job_id)
    engine.assert_books_balance(image_count=False)


# ------------------------------------------------------------------ verbs record outcomes


def test_park_records_the_outcomes_of_the_calls(engine: Engine, account: Caller) -> None:
    job_id = bring(engine, account, "running")
    [call], seen = engine.calls(job_id), look(engine, job_id)
    row = calls.call_row(call.id, Outcome.ACCEPTED, upstream_id="up-1", poll_url="http://up/1", deadline_s=9000.0)
    with engine.database.transaction() as connection:
        lifecycle.park(connection, job_id, seen.version, check_after_s=30, calls=[row])
    [after] = engine.calls(job_id)
    assert (after.outcome, after.upstream_id, after.poll_url) == ("accepted", "up-1", "http://up/1")
    assert (after.answered_at is not None, after.closed_at) == (True, None)
    assert (after.give_up_at - after.intended_at).total_seconds() == pytest.approx(9000, abs=1)


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_an_end_keeps_and_charges_the_images_given_to_it(engine: Engine, account: Caller, state: str) -> None:
    """Of three images one is stored already, one comes with the end, and the price of the third is returned."""
    job_id = engine.order(account, n=3, publish=False).task.id
    for verb in ROADS[state]:
        do(engine, verb, job_id)
    first, second, third = engine.calls(job_id)
    with engine.database.transaction() as connection:
        kept = calls.call_row(first.id, Outcome.KEPT, kept=1)
        assert calls.record(connection, kept, images=[image(0)])
    end_with(
        engine,
        job_id,
        calls=[
            calls.call_row(second.id, Outcome.KEPT, kept=1),
            calls.call_row(third.id, Outcome.REFUSED, error_code="content_refused"),
        ],
        images=[(second.id, image(1))],
    )
    row = engine.job(job_id)
    assert (row.status, row.captured, row.released) == ("succeeded", 2 * ASYNC_PRICE, ASYNC_PRICE)
    assert engine.transfers(job_id) == {"hold": 3 * ASYNC_PRICE, "capture": 2 * ASYNC_PRICE, "release": ASYNC_PRICE}
    assert [each.outcome for each in engine.calls(job_id)] == ["kept", "kept", "refused"]
    assert all(each.closed_at is not None for each in engine.calls(job_id))
    engine.assert_books_balance()


def test_an_image_that_is_stored_already_is_kept_and_charged_once(engine: Engine, account: Caller) -> None:
    job_id = bring(engine, account, "waiting")
    [call] = engine.calls(job_id)
    with engine.database.transaction() as connection:
        assert calls.record(connection, calls.call_row(call.id, Outcome.KEPT, kept=1), images=[image(0)])
    kept = calls.call_row(call.id, Outcome.KEPT, kept=1)
    end_with(engine, job_id, calls=[kept], images=[(call.id, image(0))])
    assert (engine.job(job_id).captured, engine.job(job_id).released) == (ASYNC_PRICE, 0)
    engine.assert_books_balance()


def test_a_call_that_ends_with_its_job_releases_its_permit(engine: Engine, account: Caller) -> None:
    engine.limit("chatgpt2api", max_active=1)
    job_id = engine.order(account).task.id
    engine.step()
    taken = "SELECT count(*) FROM permits WHERE call_id IS NOT NULL"
    assert (engine.job(job_id).status, engine.one(taken)) == ("waiting", 1)
    [call] = engine.calls(job_id)
    end_with(engine, job_id, calls=[calls.call_row(call.id, Outcome.KEPT, kept=1)], images=[(call.id, image(0))])
    assert engine.one(taken) == 0
    engine.assert_books_balance()


def test_a_late_outcome_raises_the_version_and_is_recorded_once(engine: Engine, account: Caller) -> None:
    """A worker that decided on an earlier state of the job finds it changed."""
    job_id = bring(engine, account, "waiting")
    [call], seen = engine.calls(job_id), look(engine, job_id)
    refused = calls.call_row(call.id, Outcome.REFUSED, error_code="content_refused")
    with engine.database.transaction() as connection:
        assert calls.record(connection, refused)
    with engine.database.transaction() as connection:
        assert not calls.record(connection, calls.call_row(call.id, Outcome.NOT_RUN))
    assert engine.job(job_id).version > seen.version
    assert engine.calls(job_id)[0].outcome == "refused"
    with pytest.raises(StaleJobError):
        do(engine, succeed, job_id, seen)


# ------------------------------------------------------------------ refused by the database


def test_more_images_than_were_held_cannot_be_captured(engine: Engine, account: Caller) -> None:
    job_id = bring(engine, account, "running")
    before = engine.job(job_id)
    with pytest.raises(psycopg.errors.CheckViolation), engine.database.transaction() as connection:
        keep_images(connection, job_id, 2)
        lifecycle.end(connection, job_id, before.version, lifecycle.succeed())
    assert engine.job(job_id) == before
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE}


def test_what_was_never_held_cannot_be_captured(engine: Engine, account: Caller) -> None:
    """Credits go from an account to the operator only by a transfer."""
    job_id = bring(engine, account, "queued")
    before, funds = engine.job(job_id), engine.balance(account)
    with pytest.raises(LedgerMismatchError):
        do(engine, succeed, job_id)
    assert (engine.job(job_id), engine.balance(account)) == (before, funds)
    engine.assert_books_balance(image_count=False)


@pytest.mark.parametrize("verb", [succeed, fail, cancelled], ids=["succeed", "fail", "cancelled"])
def test_a_missing_hold_is_never_settled(engine: Engine, account: Caller, verb: Verb) -> None:
    job_id = bring(engine, account, "waiting")
    engine.sql("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final")
    engine.sql("DELETE FROM transfers WHERE job_id = :id", id=job_id)
    engine.sql("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final")
    before, funds = engine.job(job_id), engine.balance(account)
    with pytest.raises(LedgerMismatchError):
        do(engine, verb, job_id)
    assert (engine.job(job_id), engine.balance(account)) == (before, funds)


@pytest.mark.parametrize("state", ["queued", "waiting"])
def test_an_end_without_a_balance_row_leaves_everything_as_it_was(engine: Engine, account: Caller, state: str) -> None:
    """Credits cannot be returned without a balance: the job ends later, and no money is lost."""
    job_id = bring(engine, account, state)
    engine.sql("DELETE FROM balances WHERE account_id = :id", id=account.account_id)
    before = engine.job(job_id)
    with pytest.raises(LedgerMismatchError):
        do(engine, fail, job_id)
    assert engine.job(job_id) == before
    assert engine.transfers(job_id) == ({} if state == "queued" else {"hold": ASYNC_PRICE})


def test_verbs_return_wake_ups_and_the_end_of_the_job(engine: Engine, account: Caller) -> None:
    queued = engine.order(account, publish=False)
    assert queued.nudges == [Nudge("jobs.run", "chatgpt2api", queued.task.id)]
    running = bring(engine, account, "running")
    assert do(engine, lapse, running) == [Nudge("jobs.poll", "polls", "chatgpt2api")]
    sync = engine.order(account, model=SYNC_MODEL, size="1024x640", publish=False)
    assert sync.nudges == [Nudge("jobs.run", "openai", sync.task.id)]
    failed = bring(engine, account, "running")
    [woken, ended] = do(engine, fail, failed).signals
    assert woken == Nudge("wake", "", failed)
    assert isinstance(ended, Ended)
    assert (ended.job_id, ended.status, ended.code, ended.node) == (failed, "failed", "upstream_failed", NODE)
    assert ended.runtime_s == pytest.approx(0, abs=5)
    never_run = bring(engine, account, "queued")
    [_, ended] = do(engine, cancelled, never_run).signals
    assert (ended.status, ended.node, ended.runtime_s) == ("cancelled", None, None)
    again = bring(engine, account, "running")
    [retried] = do(engine, retry, again)
    assert (retried.status, retried.code) == ("retried", "upstream_failed")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET status = 'sleeping'",
        "UPDATE jobs SET status = 'succeeded'",
        "UPDATE jobs SET money = 'lent'",
        "UPDATE jobs SET money = 'queued'",
        "UPDATE jobs SET money = 'settled'",
        "UPDATE jobs SET status = 'succeeded', owner = NULL, finished_at = now()",
        "UPDATE jobs SET owner = NULL",
        "UPDATE jobs SET failure_code = 'x'",
        "UPDATE jobs SET n = 0",
        "UPDATE jobs SET n = 11",
        "UPDATE jobs SET captured = quoted, released = 1",
        "UPDATE jobs SET captured = -1",
        "UPDATE balances SET spendable = -1",
        "UPDATE balances SET reserved = -1",
        "UPDATE balances SET queued = available + 1",
        "INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
        " SELECT account_id, id, 'hold', 'acct:available', 'acct:held', 1 FROM jobs",
        "INSERT INTO upstream_calls SELECT * FROM upstream_calls",
    ],
)
def test_the_tables_refuse_invalid_rows(engine: Engine, account: Caller, statement: str) -> None:
    bring(engine, account, "running")
    with pytest.raises(IntegrityError):
        engine.sql(statement)


def cancel(engine: Engine, customer: Caller, job_id: str) -> lifecycle.Cancellation:
    with engine.database.transaction() as connection:
        return lifecycle.cancel(connection, customer.account_id, job_id)


def image(index: int) -> KeptImage:
    return KeptImage(index, f"jobs/x/{index}", "image/png", 64, 64, 1, "")


def end_with(engine: Engine, job_id: str, **learned: Any) -> None:
    with engine.database.hot() as hot:
        lifecycle.end(hot, job_id, engine.job(job_id).version, lifecycle.succeed(), **learned)


def test_the_table_knows_every_status_by_the_same_word() -> None:
    assert {str(status) for status in JobStatus} == set(STATES)
