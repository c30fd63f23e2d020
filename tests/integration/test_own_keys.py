"""Accounts' own keys of providers: who is called with which key, at what price, and whose trouble a bad one is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from job_engine import ASYNC_MODEL, SYNC_MODEL, Engine, Recorder
from own_key_accounts import HOUSE_KEY, OWN_KEY, Proxy, delete, listening_proxy, store, vault_of
from submissions import make_submission

from accounts.keys import Caller
from app import provider_keys
from core.db import Database
from core.sealing import Sealer
from jobs import lifecycle
from jobs.dispatch import circuit, health, refill
from jobs.dispatch.own_keys import OwnKeyPausedError
from jobs.execution.context import WorkerContext
from jobs.reads.margins import margins
from jobs.submission.own_key_prices import Fee, OwnKeyPrices
from jobs.submission.service import SubmissionService
from providers.catalog.catalog import Catalog
from providers.configured import configured_names
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media

FEE = 2_000
POLLED_MODEL = "flux-3-image"
CANCELLABLE_MODEL = "replicate-flux-schnell"


@pytest.fixture
def sealer() -> Sealer:
    return Sealer([b"k" * 32])


@pytest.fixture
def openai(sandbox: Sandbox) -> Iterator[Proxy]:
    with listening_proxy(sandbox.base_url("openai")) as proxy:
        yield proxy


@pytest.fixture
def replicate(sandbox: Sandbox) -> Iterator[Proxy]:
    with listening_proxy(sandbox.base_url("replicate")) as proxy:
        yield proxy


@pytest.fixture
def upstreams(sandbox: Sandbox, openai: Proxy, replicate: Proxy) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return {
        **sandbox.environ("chatgpt2api"),
        **sandbox.environ("flux"),
        **sandbox.environ("replicate", key=HOUSE_KEY),
        "REPLICATE_BASE_URL": f"{replicate.url}/v1",
        "OPENAI_BASE_URL": f"{openai.url}/v1",
        "OPENAI_API_KEY": HOUSE_KEY,
    }


@pytest.fixture
def submission(
    database: Database, media: Media, store: LocalStore, models: Catalog, upstreams: dict[str, str]
) -> SubmissionService:
    return make_submission(
        database,
        media,
        store,
        models,
        configured=configured_names(upstreams),
        own_keys=OwnKeyPrices(database, always=True),
        own_key_fee=Fee(FEE),
    )


@pytest.fixture
def engine(
    context: WorkerContext, submission: SubmissionService, sent: Recorder, sealer: Sealer, upstreams: dict[str, str]
) -> Engine:
    vault = vault_of(context.database, sealer, upstreams)
    return Engine(replace(context, registry=context.registry.with_own(vault.provider_of)), submission, sent)


def order(engine: Engine, account: Caller, prompt: str = "a fox", **fields: object) -> str:
    asked = {"model": SYNC_MODEL, "size": "1024x640", **fields}
    return engine.order(account, prompt, **{name: value for name, value in asked.items() if value is not None}).task.id


def outcome(engine: Engine, job_id: str) -> tuple[str, str | None]:
    job = engine.job(job_id)
    return job.status, job.failure_code


def test_only_its_owner_is_called_with_an_own_key_and_pays_the_fee(
    engine: Engine, account: Caller, sealer: Sealer, openai: Proxy
) -> None:
    other = engine.account()
    store(engine, sealer, account)
    mine, theirs = order(engine, account, n=2), order(engine, other)
    engine.drive()
    assert [outcome(engine, each) for each in (mine, theirs)] == [("succeeded", None)] * 2
    assert sorted(openai.used()) == sorted([OWN_KEY, HOUSE_KEY])
    assert (engine.job(mine).quoted, engine.job(mine).captured) == (2 * FEE, 2 * FEE)
    assert engine.job(theirs).captured > FEE
    [call] = engine.calls(mine)
    assert call.credential_id.startswith("openai/own_")
    assert engine.one("SELECT last_used_at IS NOT NULL FROM own_keys")
    engine.assert_books_balance()


def test_what_an_own_key_is_billed_is_no_cost_of_ours(engine: Engine, account: Caller, sealer: Sealer) -> None:
    store(engine, sealer, account)
    mine = order(engine, account)
    engine.drive()
    [call] = engine.calls(mine)
    assert call.usage  # the upstream reported what it was
    assert (call.expected_cost, call.reported_cost) == (0, None)
    with engine.database.autocommit() as connection:
        [margin] = margins(connection, days=1)
    assert (margin.expected_micro_usd, margin.reported_micro_usd, margin.sold_microcredits) == (0, 0, FEE)
    [facts] = engine.rows(
        "SELECT sum(reported_cost) AS reported, sum(computed_cost) AS computed, sum(uncosted_calls) AS uncosted,"
        " sum(captured) AS captured FROM usage_facts('-infinity', 'infinity')"
    )
    assert (facts.reported, facts.computed, facts.uncosted, facts.captured) == (0, 0, 0, FEE)


def test_permits_of_the_operator_and_of_an_own_key_are_apart(
    engine: Engine, account: Caller, sealer: Sealer, sandbox: Sandbox
) -> None:
    """Each side has one permit, which an open call holds; the other side still starts."""
    engine.limit("flux", max_active=1)
    other = engine.account()
    store(engine, sealer, account, provider="flux", max_active=1)
    sandbox.settings(latency_s=60.0)
    mine = [order(engine, account, model=POLLED_MODEL, size="1024x1024") for _ in range(2)]
    theirs = [order(engine, other, model=POLLED_MODEL, size="1024x1024") for _ in range(2)]
    for each in (*theirs, *mine):
        engine.run(each)
    assert [engine.job(each).status for each in (*mine, *theirs)] == ["waiting", "queued"] * 2
    held = engine.rows("SELECT credential_id, call_id FROM permits WHERE call_id IS NOT NULL ORDER BY 1")
    assert [row.credential_id.partition("/")[2].startswith("own_") for row in held] == [False, True]
    engine.assert_books_balance()
    with engine.database.autocommit() as connection:
        assert refill.free_permits(connection)["flux"] == 0
        [state] = [each for each in health.overview(connection) if each.name == "flux"]
    assert (state.active, state.max_active, [each.id for each in state.accounts]) == (1, 1, ["flux/default"])
    # The operator's being full does not keep the account's next job from being published.
    engine.sql("UPDATE jobs SET published_at = NULL, due_at = clock_timestamp() WHERE status = 'queued'")
    with engine.database.transaction() as connection:
        nudged = [each.argument for each in refill.refill(connection, window=32, most=100)]
    assert nudged == [mine[1]]


def test_a_bad_own_key_pauses_itself_alone(engine: Engine, account: Caller, sealer: Sealer, openai: Proxy) -> None:
    openai.refused.add(OWN_KEY)
    found = store(engine, sealer, account)
    jobs = [order(engine, account) for _ in range(2)]
    engine.run(jobs[0])
    assert outcome(engine, jobs[0]) == ("failed", "upstream_bad_credentials")
    assert engine.job(jobs[0]).released == FEE
    paused = engine.rows("SELECT id, pause_reason FROM credentials WHERE paused_at IS NOT NULL")
    assert paused == [(found.credential_id, "upstream_bad_credentials")]
    assert engine.one("SELECT count(*) FROM providers WHERE failures > 0 OR trips > 0 OR paused_at IS NOT NULL") == 0
    engine.run(jobs[1])
    assert (engine.job(jobs[1]).status, openai.used()) == ("queued", [OWN_KEY])  # it waits, and no one else's key goes
    with pytest.raises(OwnKeyPausedError):
        order(engine, account)
    theirs = order(engine, engine.account())
    engine.run(theirs)
    assert outcome(engine, theirs) == ("succeeded", None)
    # What waits is made with the key that replaces it.
    store(engine, sealer, account, "another.good.key")
    engine.drive()
    assert (outcome(engine, jobs[1]), openai.used()[-1]) == (("succeeded", None), "another.good.key")


def test_failures_with_an_own_key_open_no_circuit_and_its_probe_closes_one(
    engine: Engine, account: Caller, sealer: Sealer
) -> None:
    store(engine, sealer, account)
    for number in range(circuit.FAILURES_TO_OPEN + 1):
        engine.run(order(engine, account, f"fox {number} [sandbox:500]"))
    assert len(engine.rows("SELECT 1 FROM upstream_calls WHERE outcome = 'failed'")) > circuit.FAILURES_TO_OPEN
    assert engine.one("SELECT count(*) FROM providers WHERE failures > 0 OR trips > 0") == 0
    # Where the operator's calls have opened it and none of them waits, an own one finds out that it is over.
    engine.sql(
        "UPDATE providers SET trips = 1, opened_at = clock_timestamp(), open_until = clock_timestamp()"
        " WHERE name = 'openai'"
    )
    probe = order(engine, account)
    engine.run(probe)
    assert outcome(engine, probe) == ("succeeded", None)
    assert engine.one("SELECT trips FROM providers WHERE name = 'openai'") == 0


def test_jobs_of_a_deleted_key_fail_and_cost_nothing(engine: Engine, account: Caller, sealer: Sealer) -> None:
    store(engine, sealer, account)
    claimed, swept = order(engine, account), order(engine, account)
    delete(engine, account)
    engine.run(claimed)
    assert outcome(engine, claimed) == ("failed", "own_key_deleted")
    engine.context.publish(engine.sweeper.sweep())
    assert outcome(engine, swept) == ("failed", "own_key_deleted")
    assert engine.balance(account).available == engine.balance(engine.account()).available
    assert engine.calls(claimed) == engine.calls(swept) == []
    engine.assert_books_balance()


def test_the_key_of_an_open_call_lasts_until_its_end_and_no_longer(
    engine: Engine, account: Caller, sealer: Sealer, sandbox: Sandbox
) -> None:
    store(engine, sealer, account, provider="flux")
    mine = order(engine, account, model=POLLED_MODEL, size="1024x1024")
    engine.run(mine)
    assert engine.job(mine).status == "waiting"
    delete(engine, account, "flux")
    assert engine.one("SELECT sealed IS NOT NULL FROM own_keys")
    engine.drive()  # polled with the key that it was made with
    assert outcome(engine, mine) == ("succeeded", None)
    engine.sql("UPDATE own_keys SET deleted_at = deleted_at - interval '2 minutes'")
    for _ in range(2):
        engine.sweeper.sweep()
    assert engine.one("SELECT count(*) FROM own_keys") == 0
    assert engine.one("SELECT count(*) FROM credentials WHERE account_id IS NOT NULL") == 0


def test_a_deleted_key_without_open_calls_is_forgotten_at_once(engine: Engine, account: Caller, sealer: Sealer) -> None:
    store(engine, sealer, account)
    delete(engine, account)
    assert engine.one("SELECT sealed FROM own_keys") is None


def test_looks_and_a_cancel_go_with_the_own_key_of_their_call_though_it_was_replaced(
    engine: Engine, account: Caller, sealer: Sealer, sandbox: Sandbox, replicate: Proxy
) -> None:
    sandbox.settings(latency_s=60.0)
    store(engine, sealer, account, provider="replicate")
    mine = order(engine, account, model=CANCELLABLE_MODEL, size=None)
    engine.run(mine)
    store(engine, sealer, account, "the.next.own.key", provider="replicate")
    engine.poll("replicate")
    with engine.database.transaction() as connection:
        lifecycle.cancel(connection, account.account_id, mine)
    engine.poll("replicate")
    assert (engine.job(mine).status, engine.job(mine).cancel_outcome) == ("cancelled", "stopped_upstream")
    assert len(replicate.keys) >= 3  # made, looked at, cancelled
    assert replicate.used(path="/cancel") == [OWN_KEY]
    assert set(replicate.used()) == {OWN_KEY}


def test_a_named_fallback_costs_what_its_own_key_or_the_operators_costs(
    engine: Engine, account: Caller, sealer: Sealer, openai: Proxy
) -> None:
    openai.refused.add(OWN_KEY)
    store(engine, sealer, account)
    job_id = order(engine, account, fallback_models=[ASYNC_MODEL])
    house_price = engine.job(job_id).quoted
    assert house_price == 100_000  # the dearest of the two is held
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    job = engine.job(job_id)
    assert (job.provider, job.own_key, job.captured) == ("chatgpt2api", False, house_price)
    assert [call.credential_id for call in engine.calls(job_id)][-1] == "chatgpt2api/default"
    engine.assert_books_balance()


def test_a_key_in_the_row_of_another_account_does_not_open(
    engine: Engine, account: Caller, sealer: Sealer, openai: Proxy
) -> None:
    thief = engine.account()
    store(engine, sealer, account)
    store(engine, sealer, thief, "the.thiefs.own.key")
    engine.sql(
        "UPDATE own_keys SET sealed = (SELECT sealed FROM own_keys WHERE account_id = :mine) WHERE account_id = :thief",
        mine=account.account_id,
        thief=thief.account_id,
    )
    job_id = order(engine, thief)
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "own_key_unusable")
    assert (engine.job(job_id).captured, openai.used()) == (0, [])


def test_rotation_seals_every_key_by_the_newest_secret(engine: Engine, account: Caller, sealer: Sealer) -> None:
    other = engine.account()
    store(engine, sealer, account)
    store(engine, sealer, other, "the.key.of.the.other")
    both = Sealer([b"n" * 32, b"k" * 32])
    with engine.database.transaction() as connection:
        done = provider_keys.reseal(connection, provider_keys.trail.Actor("test"), both)
    assert (done.sealed, done.broken) == (2, ())
    newest = Sealer([b"n" * 32])
    vault = vault_of(engine.database, newest, {"OPENAI_API_KEY": HOUSE_KEY})
    for row in engine.rows("SELECT credential_id FROM own_keys"):
        assert vault.provider_of(row.credential_id)
    with engine.database.transaction() as connection:
        assert provider_keys.reseal(connection, provider_keys.trail.Actor("test"), sealer).sealed == 0
    last = engine.rows("SELECT after FROM admin_actions ORDER BY id DESC LIMIT 1")[0].after
    assert len(last["broken"]) == 2  # the secret before opens nothing any more, and that is told
