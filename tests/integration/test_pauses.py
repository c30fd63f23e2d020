"""One verb pauses a provider or a credential, and what it pauses is seen wherever one looks."""

from __future__ import annotations

import pytest
from job_engine import Engine

from jobs.dispatch import health
from jobs.errors import CredentialNotFoundError
from jobs.maintenance.doctor import Doctor
from jobs.reads.waiting import PAUSED, Pauses, WaitingFor


def states(engine: Engine) -> dict[str, health.ProviderState]:
    with engine.database.autocommit() as connection:
        return {state.name: state for state in health.overview(connection)}


def pause(engine: Engine, target: str, reason: str = "") -> None:
    with engine.database.transaction() as connection:
        health.pause(connection, target, reason)


def resume(engine: Engine, target: str) -> None:
    with engine.database.transaction() as connection:
        health.resume(connection, target)


def paused(engine: Engine) -> tuple[bool, dict[str, bool]]:
    openai = states(engine)["openai"]
    return openai.paused_at is not None, {each.id: each.paused_at is not None for each in openai.accounts}


def test_resume_lifts_exactly_what_was_paused(engine: Engine) -> None:
    engine.sql("INSERT INTO credentials (id, provider) VALUES ('openai/2', 'openai')")
    pause(engine, "openai", "invoice")
    pause(engine, "openai/2", "key leaked")
    openai = states(engine)["openai"]
    assert openai.pause_reason == "invoice"
    assert [(each.id, each.pause_reason) for each in openai.accounts] == [
        ("openai/2", "key leaked"),
        ("openai/default", None),
    ]
    resume(engine, "openai")
    assert paused(engine) == (False, {"openai/2": True, "openai/default": False})
    resume(engine, "openai/2")
    assert paused(engine) == (False, {"openai/2": False, "openai/default": False})
    assert all(each.pause_reason is None for each in states(engine)["openai"].accounts)


def test_a_second_pause_keeps_since_when_and_takes_the_new_reason(engine: Engine) -> None:
    pause(engine, "openai", "first")
    since = states(engine)["openai"].paused_at
    pause(engine, "openai")
    assert states(engine)["openai"].pause_reason == "first"
    pause(engine, "openai", "second")
    again = states(engine)["openai"]
    assert (again.paused_at, again.pause_reason) == (since, "second")


@pytest.mark.parametrize("verb", [pause, resume])
def test_a_credential_that_no_worker_announced_is_refused_with_those_that_are(engine: Engine, verb) -> None:
    with pytest.raises(CredentialNotFoundError, match="openai has openai/default"):
        verb(engine, "openai/7")


def test_a_job_is_not_started_while_every_credential_is_paused(engine: Engine, account) -> None:
    pause(engine, "openai/default")
    job = engine.order(account, model="gpt-image-2").task.id
    engine.run(job)
    assert engine.job(job).status == "queued"


@pytest.mark.parametrize("target", ["openai", "openai/default"])
def test_tasks_behind_a_pause_say_so(engine: Engine, account, target: str) -> None:
    pauses = Pauses(engine.database, now=iter(range(100)).__next__)
    task = engine.task(account, engine.order(account, model="gpt-image-2").task.id)
    assert pauses.of(task) is None
    pause(engine, target)
    assert pauses.of(task) == WaitingFor(PAUSED)
    resume(engine, target)
    assert pauses.of(task) is None


def test_a_provider_with_one_credential_left_is_not_waited_for(engine: Engine, account) -> None:
    engine.sql("INSERT INTO credentials (id, provider) VALUES ('openai/2', 'openai')")
    pause(engine, "openai/2")
    task = engine.task(account, engine.order(account, model="gpt-image-2").task.id)
    assert Pauses(engine.database).of(task) is None


@pytest.mark.parametrize(
    ("kind", "published"), [("queued_unclaimed", "clock_timestamp()"), ("queued_unpublished", "NULL")]
)
@pytest.mark.parametrize("target", ["openai", "openai/default"])
def test_the_doctor_names_the_pause_and_the_command_that_lifts_it(
    engine: Engine, account, target: str, kind: str, published: str
) -> None:
    engine.order(account, model="gpt-image-2")
    engine.sql("INSERT INTO workers (boot_id, host, pid) VALUES ('wkr_test', 'here', 1) ON CONFLICT DO NOTHING")
    engine.sql(f"UPDATE jobs SET due_at = due_at - interval '10 minutes', published_at = {published}")
    pause(engine, target)
    found = Doctor(engine.database, engine.context.catalogs.current()).examine()
    [finding] = [each for each in found if each.kind == kind]
    assert (finding.cause, finding.fix) == (f"1 job: {target} is paused", f"darkroom providers resume {target}")
