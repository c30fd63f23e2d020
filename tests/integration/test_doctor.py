"""What is wrong is found with its cause, and repaired only where that is safe."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kept_jobs import CREDENTIAL, PRICE, House, make_house
from sqlalchemy import text

from app.cli import main
from core.db import Database, make_engine
from core.ids import new_id
from jobs.dispatch import heartbeats
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.maintenance import audit, sweep
from jobs.maintenance.doctor import Doctor, Finding
from jobs.maintenance.repair import Repairer
from providers.catalog import catalog
from quota import ledger
from storage.local import LocalStore

CATALOG = catalog.load()


@pytest.fixture
def house(database: Database, tmp_path: Path) -> Iterator[House]:
    house = make_house(database, tmp_path)
    yield house
    house.media.close()


def doctor(house: House, **changes: Any) -> Doctor:
    return Doctor(house.database, CATALOG, house.store, house.media, **changes)


def repair(house: House, finding: Finding, *, money: bool = False) -> str | None:
    return Repairer(doctor(house)).repair(finding, money=money)


def findings(house: House) -> dict[str, Finding]:
    """By kind; no kind twice."""
    found = doctor(house).examine()
    assert len({finding.kind for finding in found}) == len(found), found
    return {finding.kind: finding for finding in found}


def beat(house: House, worker: str = "wkr_a", *, seconds_ago: float = 0.0) -> None:
    with house.database.autocommit() as connection:
        heartbeats.beat(connection, worker)
    house.sql(
        "UPDATE workers SET heartbeat_at = clock_timestamp() - make_interval(secs => :s) WHERE boot_id = :w",
        s=seconds_ago,
        w=worker,
    )


def queue(house: House, *, due_s_ago: float, published: bool) -> str:
    job_id = house.job(ended_days_ago=None, image_count=1, quiet=True)
    house.sql("DELETE FROM images WHERE job_id = :id", id=job_id)
    house.sql(
        "UPDATE jobs SET status = 'queued', started_at = NULL, due_at = clock_timestamp() - make_interval(secs => :s),"
        " published_at = CASE WHEN :published THEN clock_timestamp() - make_interval(secs => :s) END WHERE id = :id",
        id=job_id, s=due_s_ago, published=published,
    )  # fmt: skip
    return job_id


def run_job(house: House, *, owner: str, overdue_s: float = -600.0) -> str:
    job_id = house.job(ended_days_ago=None, image_count=1, quiet=True)
    house.sql("DELETE FROM images WHERE job_id = :id", id=job_id)
    house.sql(
        "UPDATE jobs SET status = 'running', owner = :owner, fence = 3,"
        " step_deadline_at = clock_timestamp() - make_interval(secs => :s) WHERE id = :id",
        id=job_id, owner=owner, s=overdue_s,
    )  # fmt: skip
    return job_id


# ---------------------------------------------------------------- healthy


def test_a_healthy_house_has_no_findings(house: House) -> None:
    beat(house)
    house.job(inputs=1)
    run_job(house, owner="wkr_a")
    queue(house, due_s_ago=5, published=True)
    queue(house, due_s_ago=-3600, published=False)  # not due
    assert findings(house) == {}


def test_a_backlog_behind_its_window_is_not_stuck(house: House) -> None:
    beat(house)
    queue(house, due_s_ago=200, published=True)
    queue(house, due_s_ago=200, published=False)
    assert findings(house) == {}


# ---------------------------------------------------------------- stuck


def test_without_a_worker_the_queue_says_so(house: House) -> None:
    queue(house, due_s_ago=120, published=False)
    queue(house, due_s_ago=400, published=True)
    house.sql("UPDATE jobs SET provider = 'chatgpt2api' WHERE published_at IS NOT NULL")
    unread = findings(house)["queued_unclaimed"]
    assert (unread.cause, repair(house, unread)) == ("1 job: no worker is alive", None)
    found = findings(house)["queued_unpublished"]
    assert (found.cause, found.subject) == ("1 job: no worker is alive", f"openai/{house.account_id}")
    assert found.since is not None and "darkroom up" in found.fix


def test_the_last_worker_is_named_once_it_is_silent_and_its_queue_soon_after(house: House) -> None:
    queue(house, due_s_ago=70, published=True)
    beat(house, seconds_ago=5)
    assert findings(house) == {}
    beat(house, seconds_ago=30)
    found = findings(house)
    assert set(found) == {"workers_silent", "queued_unclaimed"}
    assert found["workers_silent"].subject == "wkr_a" and "silent" in found["workers_silent"].cause
    assert repair(house, found["workers_silent"]) is None
    beat(house, "wkr_b")
    assert findings(house) == {}


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("SELECT 1", "their messages are not read"),
        ("UPDATE credentials SET paused_at = clock_timestamp()", "paused"),
        ("UPDATE credentials SET max_active = 1", "every permit"),
    ],
)
def test_messages_that_are_not_read_have_a_cause(house: House, trouble: str, words: str) -> None:
    beat(house)
    queue(house, due_s_ago=400, published=True)
    house.sql(trouble)
    assert words in findings(house)["queued_unclaimed"].cause


def test_messages_are_sent_again(house: House) -> None:
    beat(house)
    lost = queue(house, due_s_ago=400, published=True)
    fresh = queue(house, due_s_ago=1, published=True)
    found = findings(house)["queued_unclaimed"]
    assert "published again" in str(repair(house, found))
    published = "SELECT published_at IS NOT NULL FROM jobs WHERE id = :id"
    assert (house.one(published, id=lost), house.one(published, id=fresh)) == (False, True)


@pytest.mark.parametrize(
    ("seconds_ago", "overdue_s", "kind"),
    [(None, -60, "running_without_owner"), (90, -60, "running_without_owner"), (0, 90, "running_overdue")],
)
def test_a_job_in_dead_hands_is_taken_from_them(
    house: House, seconds_ago: float | None, overdue_s: float, kind: str
) -> None:
    if seconds_ago is not None:
        beat(house, "wkr_dead", seconds_ago=seconds_ago)
    stuck = run_job(house, owner="wkr_dead", overdue_s=overdue_s)
    found = findings(house)[kind]
    assert found.subject == stuck
    assert repair(house, found) == "taken from its worker; it goes on at another"
    assert house.one("SELECT status || fence FROM jobs WHERE id = :id", id=stuck) == "waiting4"
    assert repair(house, found) == "moved on by itself"


def test_a_job_whose_worker_came_back_is_left_to_it(house: House) -> None:
    beat(house, "wkr_slow", seconds_ago=90)
    stuck = run_job(house, owner="wkr_slow")
    found = findings(house)["running_without_owner"]
    beat(house, "wkr_slow")
    assert repair(house, found) == "moved on by itself"
    assert house.one("SELECT status FROM jobs WHERE id = :id", id=stuck) == "running"


def test_a_job_whose_upstream_is_not_polled(house: House) -> None:
    waiting = house.job(ended_days_ago=None)
    house.sql("UPDATE jobs SET due_at = clock_timestamp() - interval '2 minutes'")
    found = findings(house)["waiting_overdue"]
    assert (found.subject, "openai" in found.cause) == (waiting, True)
    assert repair(house, found) is None


def test_a_frozen_sweeper_is_named_and_ended(house: House) -> None:
    url = house.database.engine.url.render_as_string(hide_password=False)
    frozen = Database(make_engine(url, application_name="worker"))
    with frozen.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
        holder.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": sweep.SWEEP_LOCK})
        assert findings(house) == {}  # a moment ago is not long ago
        impatient = doctor(house, stuck_after_s=0.0)
        [found] = impatient.examine()
        assert (found.kind, "worker" in found.cause) == ("sweep_blocked", True)
        assert "ended" in str(Repairer(impatient).repair(found))
        holder.invalidate()
    with house.database.autocommit() as connection:
        free = "SELECT pg_try_advisory_lock(:lock), pg_advisory_unlock(:lock)"
        assert tuple(connection.execute(text(free), {"lock": sweep.SWEEP_LOCK}).one()) == (True, True)
    frozen.dispose()


# ---------------------------------------------------------------- orphans


def test_a_missing_image_is_marked_and_the_others_stay(house: House) -> None:
    job = house.job(image_count=2)
    lost, left = house.keys(job)
    house.store.delete(lost)
    found = findings(house)["picture_missing"]
    assert (found.subject, found.about) == (lost, job)
    assert "LOST" in str(repair(house, found))
    deleted = "SELECT deleted_at IS NOT NULL FROM images WHERE key = :key"
    assert (house.one(deleted, key=lost), house.one(deleted, key=left)) == (True, False)
    assert house.one("SELECT data ->> 'reason' FROM job_events WHERE job_id = :id", id=job) == "lost"
    house.retention().delete_listed_blobs()
    assert house.lies(left)
    assert findings(house) == {}


def test_an_image_that_is_back_is_not_marked(house: House) -> None:
    job = house.job()
    [key] = house.keys(job)
    house.store.delete(key)
    found = findings(house)["picture_missing"]
    house.put(key)
    assert repair(house, found) == "is there after all"
    assert house.one("SELECT deleted_at FROM images WHERE key = :key", key=key) is None


def test_a_missing_input_is_told_and_left(house: House) -> None:
    job = house.job(inputs=1)
    house.store.delete(house.keys(job, "inputs")[0])
    found = findings(house)["input_missing"]
    assert (found.about, repair(house, found)) == (job, None)


def test_the_wrong_store_is_not_believed(house: House, tmp_path: Path) -> None:
    for _ in range(30):
        house.job()
    elsewhere = Doctor(house.database, CATALOG, LocalStore(tmp_path / "elsewhere"), house.media)
    [found] = elsewhere.examine()
    assert (found.kind, Repairer(elsewhere).repair(found)) == ("store_suspicious", None)
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NOT NULL") == 0


def test_orphans_are_found_and_deleted(house: House) -> None:
    house.job()
    orphan = house.put(f"jobs/{new_id('job')}/0/{'0' * 64}.png", hours_ago=2)
    found = findings(house)["blob_orphaned"]
    assert (found.subject, repair(house, found)) == (orphan, "deleted")
    assert (house.lies(orphan), house.listed_blobs()) == (False, [])


def test_a_deletion_that_hangs_is_told(house: House) -> None:
    key = house.put(f"jobs/{new_id('job')}/0/{'0' * 64}.png")
    house.sql(
        "INSERT INTO doomed_blobs (key, doomed_at, due_at) VALUES (:key, clock_timestamp() - interval '2 hours',"
        " clock_timestamp() + interval '1 hour')",
        key=key,
    )
    found = findings(house)["deletion_overdue"]
    assert (found.subject, repair(house, found), house.lies(key)) == (key, "deleted", False)


# ---------------------------------------------------------------- books


def limit(house: House, **limits: int) -> None:
    with house.database.transaction() as connection:
        announce(connection, CREDENTIAL, "openai", CredentialLimits(**limits))


def holders(house: House) -> list[str]:
    return list(house.one("SELECT array_agg(call_id ORDER BY call_id) FROM permits WHERE call_id IS NOT NULL") or [])


def test_permits_of_calls_that_are_over_come_back_and_open_calls_get_theirs(house: House) -> None:
    over, open_ = (house.job(ended_days_ago=None) for _ in range(2))
    limit(house, max_active=5)
    house.sql("UPDATE upstream_calls SET outcome = 'accepted' WHERE job_id = :id", id=open_)
    house.sql("UPDATE permits SET call_id = :id, taken_at = clock_timestamp() WHERE number = 3", id=f"call_{over}")
    found = findings(house)["permits_are_open_calls"]
    assert (found.subject, "1 permits taken by no open call, 1 open calls" in found.cause) == (CREDENTIAL, True)
    assert repair(house, found) == "its permits are those of its open calls again"
    assert holders(house) == [f"call_{open_}"]
    assert findings(house) == {}


def test_wrong_sums_of_usage_are_taken_away(house: House) -> None:
    house.sql("INSERT INTO usage_steps (from_at, to_at) VALUES ('2026-01-01 00:00Z', '2026-01-01 01:00Z')")
    house.sql("INSERT INTO usage_sums SELECT '2026-01-01 00:00Z', 'a', '', '', '', '', '', 1, 0, 0, 0, 0, 0, 0, 0")
    found = findings(house)["usage_is_the_sum_of_its_facts"]
    assert repair(house, found) == "forgotten; the sweep adds it up again"
    assert repair(house, found) == "was forgotten before"
    assert findings(house) == {}


def test_a_permit_whose_call_is_not_written_down_yet_is_left_for_a_minute(house: House) -> None:
    limit(house, max_active=1)
    house.sql("UPDATE permits SET call_id = 'call_soon', taken_at = clock_timestamp()")
    repair(house, findings(house)["permits_are_open_calls"])
    assert holders(house) == ["call_soon"]
    house.sql("UPDATE permits SET taken_at = clock_timestamp() - interval '61 s'")
    repair(house, findings(house)["permits_are_open_calls"])
    assert holders(house) == []


def test_a_call_that_is_ending_gets_no_permit_that_it_would_not_give_back(house: House) -> None:
    house.job(ended_days_ago=None)
    house.sql("UPDATE upstream_calls SET outcome = 'accepted'")
    house.sql("UPDATE credentials SET max_active = 1")
    found = findings(house)["permits_are_open_calls"]
    with house.database.transaction() as connection:
        connection.execute(text("UPDATE upstream_calls SET outcome = 'kept'"))
        repair(house, found)  # does not wait for it
    assert holders(house) == []
    assert findings(house) == {}


@pytest.mark.parametrize("drift", [-7, 7])
def test_a_drift_is_closed_only_when_asked_and_in_the_open(house: House, drift: int) -> None:
    house.job(quiet=False)
    house.sql("UPDATE balances SET spendable = spendable + :drift", drift=drift)
    with house.database.transaction() as connection:
        assert {finding.invariant for finding in audit.check(connection)} >= {"spendable_is_transferred_less_queued"}
    found = next(f for f in doctor(house).examine() if f.kind == "spendable_is_transferred_less_queued")
    assert (repair(house, found), "--money" in found.fix) == (None, True)
    before = house.one("SELECT spendable FROM balances")
    assert "adjusted" in str(repair(house, found, money=True))
    assert house.one("SELECT spendable FROM balances") == before  # what its owner was told stands
    with house.database.autocommit() as connection:
        [entry] = [each for each in ledger.entries(connection, house.account_id) if each.kind == "adjust"]
    assert (entry.amount_microcredits, entry.target == "acct:available") == (7, drift > 0)
    assert "darkroom doctor" in entry.note
    assert findings(house) == {}
    assert repair(house, found, money=True) == "balances again"


def test_a_miscounted_hold_is_counted_again_with_a_line_in_the_ledger(house: House) -> None:
    house.job(ended_days_ago=None)
    house.sql("UPDATE balances SET reserved = reserved + 8")
    found = next(f for f in doctor(house).examine() if f.kind == "reserved_is_queued_and_held")
    assert "adjusted" in str(repair(house, found, money=True))
    assert house.one("SELECT reserved FROM balances") == PRICE
    with house.database.autocommit() as connection:
        assert [e.amount_microcredits for e in ledger.entries(connection, house.account_id) if e.kind == "adjust"] == [
            0
        ]
    assert findings(house) == {}


def test_money_is_counted_while_jobs_are_claimed(house: House) -> None:
    """A hold does not wait for the balance row: whichever side of it the count falls on, the sums are the same."""
    queued = [house.job(ended_days_ago=None, quiet=True) for _ in range(6)]
    house.sql("ALTER TABLE transfers DISABLE TRIGGER transfers_are_final")
    house.sql("DELETE FROM transfers WHERE kind = 'hold'")
    house.sql("ALTER TABLE transfers ENABLE TRIGGER transfers_are_final")
    house.sql("UPDATE jobs SET status = 'queued', money = 'queued', started_at = NULL")
    house.sql("UPDATE balances SET reserved = reserved + 8")
    found = next(f for f in doctor(house).examine() if f.kind == "reserved_is_queued_and_held")
    claimed = threading.Event()

    def claim() -> None:
        for job_id in queued:
            with house.database.transaction() as connection:
                connection.execute(
                    text(
                        "UPDATE jobs SET status = 'waiting', money = 'held', started_at = clock_timestamp()"
                        " WHERE id = :id"
                    ),
                    {"id": job_id},
                )
                ledger.hold(connection, house.account_id, job_id, PRICE)
        claimed.set()

    thread = threading.Thread(target=claim)
    thread.start()
    repaired = [repair(house, found, money=True)]
    while not claimed.is_set():
        repaired.append(repair(house, found, money=True))
    thread.join()
    assert "adjusted" in str(repaired[0]) and set(repaired[1:]) <= {"balances again"}
    assert house.one("SELECT reserved FROM balances") == 6 * PRICE
    assert {found.kind for found in doctor(house).examine()} == {"picture_missing"}


def test_a_balance_row_that_is_gone_comes_back_from_the_transfers(house: House) -> None:
    house.job(ended_days_ago=None)
    before = house.one("SELECT spendable || '/' || reserved FROM balances")
    house.sql("DELETE FROM balances")
    found = next(f for f in doctor(house).examine() if f.kind == "money_has_a_balance")
    assert (repair(house, found), "--money" in found.fix) == (None, True)
    assert "no balance row" in str(repair(house, found, money=True))
    assert house.one("SELECT spendable || '/' || reserved FROM balances") == before
    assert findings(house) == {}


def test_what_no_adjustment_repairs_is_left_to_a_person(house: House) -> None:
    job = house.job(ended_days_ago=None)
    house.sql("UPDATE jobs SET quoted = quoted + 1 WHERE id = :id", id=job)
    books = [found for found in doctor(house).examine() if found.kind != "waiting_overdue"]
    assert {found.kind for found in books} >= {"held_is_what_jobs_say", "what_started_was_held"}
    assert [repair(house, found, money=True) for found in books] == [None] * len(books)


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(house: House, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    url = database.engine.url.render_as_string(hide_password=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", url.replace("+psycopg", ""))
    monkeypatch.setenv("DARKROOM_VAR", str(tmp_path))  # where the house has its folder `blobs`

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["doctor", *arguments])

    return invoke


def test_the_command_says_well(run: Any, house: House) -> None:
    house.job()
    result = run()
    assert (result.exit_code, result.stdout) == (0, "well: nothing is stuck, orphaned or out of balance\n")


def test_the_command_lists_repairs_and_ends_with_what_is_left(run: Any, house: House) -> None:
    job = house.job()
    house.store.delete(house.keys(job)[0])
    house.sql("UPDATE balances SET spendable = spendable + 7")
    listed = run("--json")
    document = json.loads(listed.stdout)
    assert (listed.exit_code, document["clean"]) == (1, False)
    kinds = {finding["kind"]: finding for finding in document["findings"]}
    assert kinds.keys() >= {"picture_missing", "spendable_is_transferred_less_queued"}
    assert "7 micro-credits beyond" in kinds["spendable_is_transferred_less_queued"]["cause"]
    assert kinds["picture_missing"]["mended"] is None and kinds["picture_missing"]["since"]

    fixed = run("--fix")
    assert fixed.exit_code == 1
    assert "LOST" in fixed.stdout and "--money" in fixed.stdout and "doctor_findings" in fixed.stderr
    run("--fix", "--money")
    assert run().exit_code == 0


def test_the_command_without_images_at_hand_says_so(run: Any, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    job = house.job()
    house.store.delete(house.keys(job)[0])
    assert run("--skip-blobs").exit_code == 0
    monkeypatch.setenv("DARKROOM_VAR", "elsewhere")
    result = run("--fix")
    assert (result.exit_code, "DARKROOM_VAR" in result.stderr) == (0, True)
    assert not Path("elsewhere").exists()


def test_money_without_fix_is_a_usage_error(run: Any) -> None:
    assert run("--money").exit_code == 2


def test_the_command_names_every_fault_of_the_operators_catalogue(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "catalog.local.yaml"
    file.write_text("{models: {gpt-image-2: {markup: 0}, nobody: {}}}")
    result = run("--json", "--fix")
    findings = json.loads(result.stdout)["findings"]
    assert (result.exit_code, {finding["kind"] for finding in findings}) == (1, {"catalog_local_faulty"})
    assert ["gpt-image-2: markup" in finding["cause"] for finding in findings].count(True) == 1
    assert {finding["subject"] for finding in findings} == {str(file)}
    file.write_text("models: {gpt-image-2: {markup: 2}}")
    assert run().exit_code == 0
