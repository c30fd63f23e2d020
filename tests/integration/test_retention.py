"""Images are deleted by policy or on request, row first, and no kill in between leaves anything undone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kept_jobs import House, expire, make_house
from sqlalchemy import text

from app.deletion import delete_images
from core.db import Database
from core.errors import DatabaseAwayError
from core.ids import new_id
from jobs.errors import ImageGoneError, JobNotFoundError, NotEndedError
from jobs.maintenance import audit, deletion, orphans, retention
from jobs.reads import tasks
from jobs.reads.tasks import Image, Step, Task
from storage.base import StorageUnavailableError


@pytest.fixture
def house(database: Database, tmp_path: Path) -> Iterator[House]:
    house = make_house(database, tmp_path)
    yield house
    house.media.close()


class Killed(BaseException):
    """Stands for kill -9: nothing below catches it."""


def again(house: House) -> None:
    """A minute passes."""
    house.sql("UPDATE marks SET at = at - interval '2 minutes' WHERE name = 'retention'")


def task_of(house: House, job_id: str) -> Task:
    with house.database.autocommit() as connection:
        return tasks.find_task(connection, house.account_id, job_id)


def image_of(house: House, job_id: str) -> Image:
    with house.database.autocommit() as connection:
        return tasks.find_image(connection, house.account_id, job_id, 0)


def timeline_of(house: House, job_id: str) -> list[Step]:
    with house.database.autocommit() as connection:
        return tasks.timeline(connection, house.account_id, job_id)


# ---------------------------------------------------------------- the policy


def test_old_images_and_inputs_go_and_everything_else_stays(house: House) -> None:
    old = house.job(ended_days_ago=31, image_count=2, inputs=1)
    young = house.job(ended_days_ago=29, inputs=1)
    bytes_of_old = [*house.keys(old), *house.keys(old, "inputs")]
    variant = house.put(f"variants/{house.keys(old)[0]}/10x10.webp")

    assert house.retention().delete_expired()

    assert not [key for key in [*bytes_of_old, variant] if house.lies(key)]
    assert all(house.lies(key) for key in [*house.keys(young), *house.keys(young, "inputs")])
    task = task_of(house, old)
    assert (task.status, [image.deleted_at is not None for image in task.images]) == ("succeeded", [True, True])
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NULL AND job_id = :id", id=young) == 1
    assert house.listed_blobs() == []
    with house.database.transaction() as connection:
        assert audit.check(connection) == []


def test_the_caller_sees_that_images_have_gone(house: House) -> None:
    old = house.job(ended_days_ago=31)
    before = task_of(house, old)
    house.retention().delete_expired()
    assert task_of(house, old).version > before.version  # or a 304 would hide it
    with pytest.raises(ImageGoneError):
        image_of(house, old)
    assert [step.data for step in timeline_of(house, old)] == [{"reason": "expired", "pictures": 1}]


def test_zero_days_are_forever_and_parts_of_a_day_count(house: House) -> None:
    old = house.job(ended_days_ago=4000, inputs=1)
    expire(house.retention(images_days=0, inputs_days=0))
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NULL") == 1
    expire(house.retention(images_days=0, inputs_days=0.5))
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NULL") == 1
    assert house.one("SELECT count(*) FROM inputs WHERE deleted_at IS NULL AND job_id = :id", id=old) == 0


def test_what_a_live_job_needs_is_never_touched_however_old(house: House) -> None:
    live = house.job(ended_days_ago=None, inputs=1)
    house.sql("UPDATE images SET created_at = created_at - interval '90 days'")
    house.sql("UPDATE inputs SET created_at = created_at - interval '90 days'")
    house.retention().delete_expired()
    assert all(house.lies(key) for key in [*house.keys(live), *house.keys(live, "inputs")])


def test_live_jobs_at_the_head_do_not_hold_up_what_is_behind_them(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    for _ in range(5):
        house.job(ended_days_ago=None, quiet=True)
    house.sql("UPDATE images SET created_at = created_at - interval '90 days'")
    old = [house.job(ended_days_ago=40, quiet=True) for _ in range(3)]
    expire(house.retention())
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NOT NULL AND job_id = ANY(:old)", old=old) == 3


def test_a_round_ends_with_its_time_and_the_next_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    for _ in range(5):
        house.job(ended_days_ago=31)
    left = "SELECT count(*) FROM images WHERE deleted_at IS NULL"
    assert (expire(house.retention(), seconds=0), house.one(left)) == (0, 5)
    assert (expire(house.retention()), house.one(left)) == (5, 0)
    assert (house.retention().delete_listed_blobs(seconds=0), len(house.listed_blobs())) == (0, 5)
    assert (house.retention().delete_listed_blobs(), len(house.listed_blobs())) == (5, 0)


# ---------------------------------------------------------------- backlogs


def ended_jobs(house: House, count: int, *, keep_s: int | None = None, inputs: bool = False) -> None:
    """So many jobs that ended 40 days ago, with an image each whose bytes are in the store."""
    house.sql(
        "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted, captured,"
        " released, finished_at, keep_s) SELECT 'job_' || lpad(i::text, 26, '0'), :a, 'generate', 'm', 'openai', 1,"
        " 'succeeded', 'settled', 0, 0, 0, 0, clock_timestamp() - interval '40 days', CAST(:keep_s AS int)"
        " FROM generate_series(1, :count) AS i",
        a=house.account_id, count=count, keep_s=keep_s,
    )  # fmt: skip
    house.sql(
        "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,"
        " dedupe_key, outcome, give_up_at) SELECT 'call_' || id, id, 0, 1, 1, 'openai', 'm', 'cred_kept', '', id,"
        " 'kept', clock_timestamp() FROM jobs"
    )
    rows = (
        "id, 'jobs/' || id || '/0/' || repeat('0', 64) || '.png', 'image/png', 1, 1, 1, '',"
        " clock_timestamp() - interval '40 days' FROM jobs"
    )
    columns = "job_id, key, mime, width_px, height_px, size_bytes, sha256, created_at"
    house.sql(f"INSERT INTO images (index, call_id, {columns}) SELECT 0, 'call_' || id, {rows}")
    if inputs:
        house.sql(f"INSERT INTO inputs (role, position, {columns}) SELECT 'image', 0, {rows}")
    for number in range(1, count + 1):
        path = house.store.root / f"jobs/job_{number:026d}/0/{'0' * 64}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")


def test_a_round_ends_every_short_life_and_deletes_its_bytes(house: House) -> None:
    """The probe: 1,200 of them took three minutes."""
    ended_jobs(house, 1200, keep_s=60)
    assert house.retention(images_days=0, inputs_days=0).delete_expired()
    assert house.one("SELECT count(*) FROM jobs WHERE keep_s IS NOT NULL") == 0
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NULL") == 0
    assert (house.listed_blobs(), list(house.store.iter_keys())) == ([], [])


def test_a_round_lets_go_of_everything_that_is_old(house: House) -> None:
    ended_jobs(house, 2300, inputs=True)  # four pages of 500 were the end of a round
    assert house.retention().delete_expired()
    for table in ("images", "inputs"):
        assert house.one(f"SELECT count(*) FROM {table} WHERE deleted_at IS NULL") == 0
    assert (house.listed_blobs(), list(house.store.iter_keys())) == ([], [])


def old_keys(house: House, count: int, *, hours: int = 26) -> None:
    house.sql(
        "INSERT INTO idempotency_keys (account_id, key, fingerprint, job_id, created_at) SELECT :a, 'k' || i, '\\x00',"
        " 'j', clock_timestamp() - make_interval(hours => :hours) FROM generate_series(1, :count) AS i",
        a=house.account_id, count=count, hours=hours,
    )  # fmt: skip


def test_a_round_drops_every_old_idempotency_key_and_no_other(house: House) -> None:
    """The probe: 500 in ten minutes."""
    old_keys(house, 5000)
    house.sql("UPDATE idempotency_keys SET created_at = clock_timestamp() - interval '24 hours' WHERE key = 'k7'")
    assert house.retention().delete_expired()
    assert house.one("SELECT array_agg(key) FROM idempotency_keys") == ["k7"]


def test_a_key_that_a_submit_takes_over_at_this_moment_stays(house: House) -> None:
    old_keys(house, 3)
    with house.database.engine.begin() as submit:
        submit.execute(text("UPDATE idempotency_keys SET created_at = clock_timestamp() WHERE key = 'k2'"))
        expire(house.retention())  # and does not wait for it
    assert house.one("SELECT array_agg(key) FROM idempotency_keys") == ["k2"]


def test_workers_long_silent_are_forgotten(house: House) -> None:
    house.sql(
        "INSERT INTO workers (boot_id, host, pid, heartbeat_at) VALUES ('gone', 'h', 1, clock_timestamp() -"
        " interval '2 hours'), ('here', 'h', 2, clock_timestamp())"
    )
    house.retention().delete_expired()
    assert house.one("SELECT array_agg(boot_id) FROM workers") == ["here"]


def test_trouble_with_one_backlog_does_not_stop_the_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    old_keys(house, 3)
    house.job(ended_days_ago=31, inputs=1)

    def locked(*_: Any, **__: Any) -> None:
        raise DatabaseAwayError("canceling statement due to lock timeout")

    monkeypatch.setattr(deletion, "delete_images", locked)
    house.retention().delete_expired()
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NULL") == 1
    assert house.one("SELECT count(*) FROM inputs WHERE deleted_at IS NULL") == 0
    assert house.one("SELECT count(*) FROM idempotency_keys") == 0


def test_a_locked_job_is_left_for_the_next_round(house: House) -> None:
    ended_jobs(house, 3, keep_s=60)
    held = f"job_{2:026d}"
    with house.database.engine.begin() as other:
        other.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": held})
        assert expire(house.retention(images_days=0)) == 2
    assert expire(house.retention(images_days=0)) == 1


def test_one_worker_a_minute_does_it_for_all(house: House) -> None:
    assert [house.retention().delete_expired(), house.retention().delete_expired()] == [True, False]
    again(house)
    assert house.retention().delete_expired()


# ---------------------------------------------------------------- kills


def test_killed_before_the_commit_nothing_has_happened(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    old = house.job(ended_days_ago=31)
    real = deletion.delete_images

    def then_die(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(deletion, "delete_images", then_die)
    with pytest.raises(Killed):
        house.retention().delete_expired()
    assert house.lies(house.keys(old)[0])
    assert house.one("SELECT count(*) FROM images WHERE deleted_at IS NULL") == 1


@pytest.mark.parametrize("die_at", ["before the bytes", "after the bytes", "between image and variant"])
def test_killed_between_row_and_bytes_the_next_round_finishes(
    house: House, die_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = house.job(ended_days_ago=31)
    [key] = house.keys(old)
    variant = house.put(f"variants/{key}/10x10.webp")
    real = house.media.delete

    def die(key_to_delete: str) -> None:
        if die_at == "after the bytes":
            real(key_to_delete)
        if die_at == "between image and variant":
            house.store.delete(variant)
        raise Killed

    monkeypatch.setattr(house.media, "delete", die)
    with pytest.raises(Killed):
        house.retention().delete_expired()
    with pytest.raises(ImageGoneError):
        image_of(house, old)
    assert house.listed_blobs() == [key]

    monkeypatch.setattr(house.media, "delete", real)
    again(house)
    house.retention().delete_expired()
    assert (house.lies(key), house.lies(variant), house.listed_blobs()) == (False, False, [])


def test_a_blob_the_store_will_not_delete_does_not_block_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = house.job(ended_days_ago=40), house.job(ended_days_ago=31)
    [stuck] = house.keys(first)
    real = house.media.delete

    def refuse(key: str) -> None:
        if key == stuck:
            raise StorageUnavailableError("cannot delete: EACCES")
        real(key)

    monkeypatch.setattr(house.media, "delete", refuse)
    house.retention().delete_expired()
    assert (house.lies(house.keys(second)[0]), house.listed_blobs()) == (False, [stuck])
    monkeypatch.setattr(house.media, "delete", real)
    assert house.retention().delete_listed_blobs() == 0  # put off, so that it is not tried all the time
    house.sql("UPDATE doomed_blobs SET due_at = clock_timestamp()")
    assert (house.retention().delete_listed_blobs(), house.lies(stuck)) == (1, False)


def test_a_store_that_is_away_is_not_asked_for_every_blob(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [house.job(ended_days_ago=40) for _ in range(6)]
    asked: list[str] = []

    def away(key: str) -> None:
        asked.append(key)
        raise StorageUnavailableError("cannot delete: ReadTimeoutError")

    monkeypatch.setattr(house.media, "delete", away)
    house.retention().delete_expired()
    assert len(asked) == 3
    monkeypatch.undo()
    house.sql("UPDATE doomed_blobs SET due_at = clock_timestamp()")
    assert house.retention().delete_listed_blobs() == len(jobs)


# ---------------------------------------------------------------- a caller's request


def test_a_deleted_task_keeps_its_row_and_loses_every_image_at_once(house: House) -> None:
    mine = house.job(image_count=2, inputs=1)
    keys = [*house.keys(mine), *house.keys(mine, "inputs")]
    delete_images(house.database, house.media, house.account_id, mine)
    task = task_of(house, mine)
    assert [image.deleted_at is not None for image in task.images] == [True, True]
    assert ([key for key in keys if house.lies(key)], house.listed_blobs()) == ([], [])
    delete_images(house.database, house.media, house.account_id, mine)
    assert task_of(house, mine) == task  # idempotent, to the version
    assert [step.data["reason"] for step in timeline_of(house, mine)] == ["requested"]


def test_only_its_owner_deletes_and_only_what_has_ended(house: House) -> None:
    live, ended = house.job(ended_days_ago=None), house.job()
    with pytest.raises(NotEndedError):
        delete_images(house.database, house.media, house.account_id, live)
    for account_id, job_id in (("acct_other", ended), (house.account_id, new_id("job")), (house.account_id, "job_1")):
        with pytest.raises(JobNotFoundError):
            delete_images(house.database, house.media, account_id, job_id)
    assert house.lies(house.keys(live)[0]) and house.lies(house.keys(ended)[0])


def test_a_store_that_is_away_does_not_fail_the_request(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = house.job()

    def away(_key: str) -> None:
        raise StorageUnavailableError("away")

    monkeypatch.setattr(house.media, "delete", away)
    delete_images(house.database, house.media, house.account_id, mine)
    assert house.listed_blobs() == house.keys(mine)


def test_request_and_policy_together_delete_once(house: House) -> None:
    mine = house.job(ended_days_ago=31)
    work = [lambda: delete_images(house.database, house.media, house.account_id, mine)] * 4 + [
        lambda: expire(house.retention())
    ] * 4
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(timeline_of(house, mine)) == 1
    house.retention().delete_listed_blobs()
    assert not house.lies(house.keys(mine)[0])


# ---------------------------------------------------------------- orphans


def search(house: House) -> None:
    """The whole store once: as many rounds as there are roots."""
    house.sql("DELETE FROM marks WHERE name = 'orphans'")
    for _ in orphans.ROOTS:
        house.collect_orphans()
    house.retention().delete_listed_blobs()


def test_blobs_without_a_row_are_collected_and_all_others_left(house: House) -> None:
    ended = house.job(ended_days_ago=1, inputs=1)
    live = house.job(ended_days_ago=None)
    unknown = new_id("job")
    old = {
        "a loser": house.put(f"jobs/{ended}/0/{'0' * 64}.png", hours_ago=2),
        "an input never submitted": house.put(f"inputs/{unknown}/0/{'1' * 64}.png", hours_ago=2),
        "a variant of nothing": house.put(f"variants/jobs/{unknown}/0/{'2' * 64}.png/8x8.png", hours_ago=2),
    }
    left = [
        *house.keys(ended),
        *house.keys(ended, "inputs"),
        *house.keys(live),
        house.put(f"variants/{house.keys(ended)[0]}/8x8.png", hours_ago=2),
        house.put(f"jobs/{unknown}/0/{'3' * 64}.png", hours_ago=0.5),  # its row may be under way
        house.put(f"jobs/{live}/0/{'4' * 64}.png", hours_ago=2),  # the job may still get a row for it
        house.put("jobs/notes/0/readme.png", hours_ago=2),  # not ours
        house.put("elsewhere/x.png", hours_ago=2),
    ]
    for key in house.keys(ended):
        house.put(key, hours_ago=2)
    search(house)
    assert [name for name, key in old.items() if house.lies(key)] == []
    assert [key for key in left if not house.lies(key)] == []


def test_a_blob_whose_row_is_a_tombstone_is_an_orphan(house: House) -> None:
    ended = house.job(ended_days_ago=1)
    [key] = house.keys(ended)
    delete_images(house.database, house.media, house.account_id, ended)
    variant = house.put(f"variants/{key}/8x8.png", hours_ago=2)  # made by a reader of the row just before
    house.put(key, hours_ago=2)
    search(house)
    assert (house.lies(key), house.lies(variant)) == (False, False)


def test_the_search_goes_on_where_it_was_and_then_rests(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "FOLDERS_PER_SLICE", 2)
    names = sorted(new_id("job") for _ in range(5))
    keys = [house.put(f"jobs/{name}/0/{'0' * 64}.png", hours_ago=2) for name in names]
    looked: list[list[str]] = []
    folders = house.store.folders

    def remember(root: str, **kwargs: Any) -> list[str]:
        looked.append(folders(root, **kwargs))
        return looked[-1]

    monkeypatch.setattr(house.store, "folders", remember)
    for _ in range(20):  # every round is another worker's: the place is in the database
        house.collect_orphans()
    assert [each for each in looked if each] == [names[:2], names[2:4], names[4:]]
    assert len(looked) == 8  # six roots, one of them in three slices; then it rests
    house.retention().delete_listed_blobs()
    assert not any(house.lies(key) for key in keys)
    house.sql("UPDATE marks SET at = at - interval '7 hours' WHERE name = 'orphans'")
    house.collect_orphans()
    assert len(looked) == 9


def test_killed_in_a_slice_the_slice_is_looked_at_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    key = house.put(f"inputs/{new_id('job')}/0/{'0' * 64}.png", hours_ago=2)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(deletion, "list_for_deletion", die)
        house.collect_orphans()
    house.collect_orphans()
    assert house.listed_blobs() == [key]


def test_the_wrong_database_deletes_nothing(house: House) -> None:
    keys = [house.put(f"jobs/{new_id('job')}/0/{'0' * 64}.png", hours_ago=2) for _ in range(30)]
    search(house)
    assert all(house.lies(key) for key in keys)


# ---------------------------------------------------------------- size


def test_a_round_reads_little_however_many_jobs_have_ended(house: House) -> None:
    """The plans of the two questions with 20,000 ended jobs, a tenth of them with images still kept."""
    house.sql(
        "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted,"
        " captured, released, finished_at) SELECT 'job_' || g, :account, 'generate', 'm', 'openai', 1,"
        " 'succeeded', 'settled', 1, 1, 1, 0, clock_timestamp() - interval '40 days'"
        " FROM generate_series(1, 20000) AS g",
        account=house.account_id,
    )
    house.sql("ANALYZE jobs")  # or each foreign key below is checked by a plan for an empty table
    house.sql(
        "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,"
        " dedupe_key, outcome, give_up_at) SELECT 'call_' || g, 'job_' || g, 0, 1, 1, 'openai', 'm', 'cred_kept', '',"
        " 'call_' || g, 'kept', clock_timestamp() FROM generate_series(1, 20000) AS g"
    )
    columns = "job_id, key, mime, width_px, height_px, size_bytes, sha256, created_at, deleted_at"
    values = (
        "'job_' || g, 'k' || g, 'image/png', 1, 1, 1, '', clock_timestamp() - g * interval '3 minutes',"
        " CASE WHEN g % 10 > 0 THEN clock_timestamp() END FROM generate_series(1, 20000) AS g"
    )
    house.sql("ANALYZE upstream_calls")
    house.sql(f"INSERT INTO images (index, call_id, {columns}) SELECT 0, 'call_' || g, {values}")
    house.sql(f"INSERT INTO inputs (role, position, {columns}) SELECT 'image', 0, {values}")
    with house.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs, images, inputs"))
    for table, query in (("images", retention.OLD_IMAGES), ("inputs", retention.OLD_INPUTS)):
        values_ = {"keep_s": 30 * 86400.0, "after_at": "-infinity", "after_id": "", "page": 500}
        with house.database.autocommit() as connection:
            plan = "\n".join(
                connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF) {query}"), values_).scalars()
            )
        assert f"Index Only Scan using {table}_kept on {table}" in plan, plan
        assert "Index Cond: ((created_at <" in plan, plan
        assert "Seq Scan" not in plan, plan
        page = next(line for line in plan.splitlines() if f"{table}_kept" in line)
        assert "rows=500" in page.split("actual")[1], plan
    house.sql("TRUNCATE images, inputs")  # the next test's DELETE would look through them for every call


def test_blobs_to_delete_are_found_by_index(house: House) -> None:
    house.sql(
        "INSERT INTO doomed_blobs (key, due_at) SELECT 'k' || g, clock_timestamp() + g * interval '1 s'"
        " FROM generate_series(1, 5000) AS g"
    )
    house.sql("ANALYZE doomed_blobs")
    with house.database.autocommit() as connection:
        plan = "\n".join(
            connection.execute(
                text(
                    "EXPLAIN SELECT key FROM doomed_blobs WHERE due_at <= statement_timestamp()"
                    " ORDER BY due_at LIMIT 500"
                )
            ).scalars()
        )
    assert "doomed_blobs_due" in plan and "Seq Scan" not in plan


def test_inputs_of_deleted_tasks_are_told_apart(house: House) -> None:
    """A tombstone of an input stays next to its job, so that the job can still be explained."""
    mine = house.job(inputs=1)
    delete_images(house.database, house.media, house.account_id, mine)
    with house.database.autocommit() as connection:
        assert tasks.find_task(connection, house.account_id, mine).ended
    assert house.one("SELECT count(*) FROM inputs WHERE deleted_at IS NOT NULL AND job_id = :id", id=mine) == 1
