"""``darkroom backup`` and ``darkroom restore`` as an operator runs them, with jobs in flight and without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from click.testing import CliRunner
from crash_stage import ROOT, Stage, build_stage, until
from job_engine import Engine, Recorder, make_context
from sqlalchemy import create_engine, text

from app.cli import main
from app.cli.operator import backup
from core import postgres_tools, schema
from core.db import Database, make_engine
from core.redis import make_client
from jobs.maintenance import audit
from providers.catalog import catalog
from quota import ledger
from sandbox.counts import prompt_hash
from sandbox.testing import Sandbox, running_sandbox
from storage.media import Media
from tests.commands import darkroom_here
from tests.s3_server import ACCESS_KEY_ID, SECRET_KEY, new_bucket
from workers.enqueue import Publisher

CLASS_A, CLASS_C = "chatgpt2api/gpt-image-2", "gpt-image-2"
IN_FLIGHT = 40
NEVER_S = 100_000.0
Run = Callable[..., subprocess.CompletedProcess[str]]
LEFT = """
SELECT j.status, c.provider, c.outcome, c.error_code, c.missing_since, c.give_up_at - now(), count(*)
FROM jobs AS j JOIN upstream_calls AS c ON c.job_id = j.id WHERE j.finished_at IS NULL GROUP BY 1, 2, 3, 4, 5, 6
"""


@pytest.fixture(scope="module")
def own_sandbox() -> Iterator[Sandbox]:
    """Not that of the other tests: some of its answers take forever."""
    with running_sandbox(latency_s=0.0, prepared=True) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(own_sandbox: Sandbox) -> Sandbox:
    own_sandbox.reset()
    own_sandbox.settings(latency_s=0.0)
    return own_sandbox


@pytest.fixture
def stage(database_url: str, redis_url: str, sandbox: Sandbox, var: Path) -> Iterator[Stage]:
    own_redis = redis_url.rsplit("/", 1)[0] + "/6"
    make_client(own_redis).flushdb()
    os.environ.setdefault("REDIS_URL", own_redis)  # the Celery app needs one; the publisher uses its own
    stage = build_stage(
        database_url=database_url,
        redis_url=own_redis,
        var=var,
        upstreams={
            **sandbox.environ("chatgpt2api"),
            **sandbox.environ("openai"),
            "DARKROOM_CONTROL_SLOTS": "20",  # of a pool of 50; the rest may be in calls at once
            "DARKROOM_PUBLISH_WINDOW": "100",
        },
        publish=Publisher(own_redis, own_redis).publish,
    )
    with stage.database.transaction() as connection:
        ledger.grant(connection, stage.customer.account_id, 1_000_000_000)
    yield stage
    stage.database.dispose()


@pytest.fixture
def target(postgres_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of an installation without a table or a file."""
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("CREATE DATABASE restored"))
    url = postgres_url.rsplit("/", 1)[0] + "/restored"
    yield {"DATABASE_URL": url.replace("+psycopg", ""), "DARKROOM_VAR": str(tmp_path / "again")}
    with administrator.connect() as connection:
        connection.execute(text("DROP DATABASE restored WITH (FORCE)"))
    administrator.dispose()


def darkroom(stage: Stage, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
    here = Path(stage.environ["DARKROOM_VAR"]).parent
    return darkroom_here(arguments, {**stage.environ, **changed}, here)


def darkroom_process(stage: Stage, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """As an operator runs it, in a process of its own."""
    code = "import sys; from app.cli import main; sys.argv[0] = 'darkroom'; main()"
    here = Path(stage.environ["DARKROOM_VAR"]).parent
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**stage.environ, **changed},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def backed_up(stage: Stage, tmp_path: Path, run: Run = darkroom) -> Path:
    folder = tmp_path / "backup"
    done = run(stage, "backup", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def database_of(target: dict[str, str]) -> Database:
    return Database(make_engine(target["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")))


def refusal(stage: Stage, folder: Path, target: dict[str, str], *options: str, run: Run = darkroom) -> str:
    done = run(stage, "restore", str(folder), *options, **target)
    assert done.returncode == 2, (done.stdout, done.stderr)
    return done.stderr


# ---------------------------------------------------------------- under load


def test_jobs_in_flight_at_the_dump_end_right_and_none_is_bought_twice(
    stage: Stage, sandbox: Sandbox, target: dict[str, str], tmp_path: Path
) -> None:
    sandbox.settings(latency_s=NEVER_S)
    jobs = {
        stage.order(f"in flight {number}", CLASS_A if number % 2 else CLASS_C): f"in flight {number}"
        for number in range(IN_FLIGHT)
    }
    with stage.process("workers") as worker:
        until(lambda: _accepted(sandbox, jobs) == IN_FLIGHT, 60, lambda: stage.rows("SELECT * FROM upstream_calls"))
        until(lambda: stage.rows("SELECT 1 FROM jobs WHERE status = 'waiting'"), 30, lambda: "waiting")
        folder = backed_up(stage, tmp_path, darkroom_process)
        assert manifest_of(folder)["counts"]["open_calls"] == IN_FLIGHT
        later = {stage.order(f"later {number}", CLASS_A): f"later {number}" for number in range(10)}
        until(lambda: _accepted(sandbox, later) == len(later), 30, lambda: "orders after the backup")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    # Their messages stay in Redis, and the restored database knows none of them.
    for number in range(5):
        stage.order(f"unread {number}", CLASS_A)

    done = darkroom_process(stage, "restore", str(folder), **target)
    assert done.returncode == 0, done.stderr
    assert "clean: every invariant holds" in done.stdout
    sandbox.advance_clock(3 * NEVER_S)  # what the upstream was making is made, however long its prompt takes
    stage.database.dispose()
    stage.database = database_of(target)
    with stage.process("workers", **target):
        until(lambda: _all_ended(stage), 90, lambda: stage.rows(LEFT))
        until(lambda: make_client(stage.redis_url).llen("chatgpt2api") == 0, 30, lambda: "messages are not read")

    ended = {row.id: row for row in stage.rows("SELECT * FROM jobs")}
    assert set(ended) == set(jobs)
    for job_id, prompt in jobs.items():
        model = CLASS_A if int(prompt.split()[-1]) % 2 else CLASS_C
        job = ended[job_id]
        expected = ("succeeded", None) if model == CLASS_A else ("failed", "upstream_uncertain")
        assert (job.status, job.failure_code) == expected
        assert (job.captured, job.released) == ((job.quoted, 0) if model == CLASS_A else (0, job.quoted))
        provider = "chatgpt2api" if model == CLASS_A else "openai"
        assert sandbox.counts()[provider]["accepted_by_prompt"][prompt_hash(prompt)] == 1
    with stage.database.transaction() as connection:
        assert audit.check(connection) == []
    assert "Traceback" not in (Path(stage.environ["DARKROOM_VAR"]) / "workers.log").read_text()


def _accepted(sandbox: Sandbox, jobs: dict[str, str]) -> int:
    counts = sandbox.counts()
    wanted = {prompt_hash(prompt) for prompt in jobs.values()}
    return sum(
        number
        for provider in ("chatgpt2api", "openai")
        for prompt, number in counts.get(provider, {}).get("accepted_by_prompt", {}).items()
        if prompt in wanted
    )


def _all_ended(stage: Stage) -> bool:
    """Whether no job is live. Waits that allow for slow upstreams end sooner; nothing here is slow."""
    stage.sql(
        "UPDATE upstream_calls SET give_up_at = clock_timestamp()"
        " WHERE provider = 'openai' AND outcome = 'uncertain' AND give_up_at > clock_timestamp()"
    )
    stage.sql(
        "UPDATE jobs SET due_at = clock_timestamp()"
        " WHERE status = 'waiting' AND due_at > clock_timestamp() + interval '5 seconds'"
    )
    return not stage.rows("SELECT 1 FROM jobs WHERE finished_at IS NULL")


def test_jobs_that_were_queued_are_published_again_on_the_same_redis(
    stage: Stage, sandbox: Sandbox, target: dict[str, str], tmp_path: Path
) -> None:
    job_id = stage.order("queued at the dump", CLASS_A)
    with stage.process("workers"):  # the sweep notes which broker it has seen
        until(lambda: stage.rows("SELECT 1 FROM marks WHERE name = 'epoch'"), 40, lambda: "no epoch")
        until(lambda: stage.rows("SELECT 1 FROM jobs WHERE finished_at IS NOT NULL"), 40, lambda: "not ended")
    waiting = stage.order("its message is lost", CLASS_A, publish=False)
    stage.sql("UPDATE jobs SET published_at = clock_timestamp() WHERE id = :id", id=waiting)
    folder = backed_up(stage, tmp_path)
    assert darkroom(stage, "restore", str(folder), **target).returncode == 0
    stage.database.dispose()
    stage.database = database_of(target)
    # So the broker counts as new and no worker as alive: nothing waits until a message counts as overdue.
    assert stage.rows("SELECT 1 FROM marks WHERE name = 'epoch' UNION ALL SELECT 1 FROM workers") == []
    with stage.process("workers", **target):
        until(
            lambda: stage.rows("SELECT 1 FROM jobs WHERE id = :id AND status = 'succeeded'", id=waiting),
            40,
            lambda: stage.rows("SELECT * FROM jobs"),
        )
    assert {row.id for row in stage.rows("SELECT id FROM jobs WHERE status = 'succeeded'")} == {job_id, waiting}


# ---------------------------------------------------------------- what is in it


@pytest.fixture
def kept(stage: Stage) -> str:
    """The key of an image that a job has made; catalogue and keys are there."""
    sent = Recorder()
    engine = Engine(
        make_context(
            database=stage.database,
            models=catalog.load(),
            media=Media(stage.store, Path(stage.environ["DARKROOM_VAR"]) / "staging", decoders=1),
            store=stage.store,
            environ=stage.environ,
            sent=sent,
            owner="wkr_here",
        ),
        stage.submission,
        sent,
    )
    for provider in engine.context.registry.of("chatgpt2api"):
        stage.sql("INSERT INTO credentials (id, provider) VALUES (:id, 'chatgpt2api')", id=provider.credential_id)
    stage.order("a kept image", CLASS_A, publish=False)
    engine.run(stage.row("SELECT id FROM jobs")[0])
    engine.drive()
    engine.context.media.close()
    stage.sql("DELETE FROM workers")  # this process is none
    folder = Path(stage.environ["DARKROOM_VAR"])
    (folder / "admin.key").write_text("dk_secret\n")
    (folder / "signing.keys").write_text("k1:00\n")
    (folder / "catalog.local.yaml").write_text("{models: {}}\n")
    (folder.parent / ".env").write_text("DARKROOM_MARKUP=1.5\n")
    return str(stage.row("SELECT key FROM images")[0])


def test_everything_comes_back_private_and_as_it_was(
    stage: Stage, kept: str, target: dict[str, str], tmp_path: Path
) -> None:
    folder = backed_up(stage, tmp_path)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    manifest = manifest_of(folder)
    assert (manifest["schema"], manifest["blobs"], manifest["counts"]["jobs"]) == (_newest(), 1, 1)
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "blobs.sha256"], cwd=folder, check=False)
    assert checked.returncode == 0

    (tmp_path / ".env").unlink()
    done = darkroom(stage, "restore", str(folder), **target)
    assert done.returncode == 0, done.stderr
    again, before = Path(target["DARKROOM_VAR"]), Path(stage.environ["DARKROOM_VAR"])
    for name in ("admin.key", "signing.keys", "catalog.local.yaml", f"blobs/{kept}"):
        assert (again / name).read_bytes() == (before / name).read_bytes()
        assert stat.S_IMODE((again / name).stat().st_mode) == 0o600
    assert (tmp_path / ".env").read_text() == "DARKROOM_MARKUP=1.5\n"
    database = database_of(target)
    with database.autocommit() as connection:
        assert connection.execute(text("SELECT key FROM images")).scalar_one() == kept
        assert schema.pending(connection) == []
    database.dispose()
    (tmp_path / ".env").write_text("DARKROOM_MARKUP=2\n")
    once_more = darkroom(stage, "restore", str(folder), "--force", **target)
    assert (once_more.returncode, "kept the .env" in once_more.stderr) == (0, True)
    assert (tmp_path / ".env").read_text() == "DARKROOM_MARKUP=2\n"


def _newest() -> str:
    return sorted(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))[-1]


def test_an_image_without_its_file_is_named_and_one_that_no_row_has_is_left_out(
    stage: Stage, kept: str, target: dict[str, str], tmp_path: Path
) -> None:
    blobs = Path(stage.environ["DARKROOM_VAR"]) / "blobs"
    shutil.copytree(blobs / "jobs", blobs / "jobs" / "job_00000000000000000000000000")
    (blobs / kept).unlink()
    done = darkroom(stage, "backup", str(tmp_path / "backup"))
    assert (done.returncode, "1 images were deleted meanwhile, or are lost" in done.stderr) == (0, True)
    manifest = manifest_of(tmp_path / "backup")
    assert (manifest["blobs_gone"], manifest["blobs"]) == ([kept], 0)
    assert not (tmp_path / "backup" / "blobs").exists()
    restored = darkroom(stage, "restore", str(tmp_path / "backup"), **target)
    assert (restored.returncode, "1 images are not there" in restored.stderr) == (0, True)


@pytest.mark.parametrize("change", ["made before the dump", "deleted during the dump"])
def test_a_backup_is_of_one_moment_while_work_goes_on(  # noqa: PLR0917 - fixtures come by name
    stage: Stage, kept: str, target: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for name, value in stage.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    dump = backup._dump

    def busy_dump(*arguments: Any) -> None:
        stage.order("after the snapshot", CLASS_A, publish=False)
        if change == "deleted during the dump":
            (Path(stage.environ["DARKROOM_VAR"]) / "blobs" / kept).unlink()
        dump(*arguments)

    monkeypatch.setattr(backup, "_dump", busy_dump)
    if change == "made before the dump":
        monkeypatch.setattr(backup, "_kept_now", lambda _database: [])
    folder = tmp_path / "backup"
    done = CliRunner().invoke(backup.backup, [str(folder)])
    assert done.exit_code == 0, done.output
    manifest = manifest_of(folder)
    assert (manifest["blobs"], manifest["blobs_gone"], manifest["counts"]["jobs"]) == (1, [], 1)
    restored = darkroom(stage, "restore", str(folder), **target)
    assert restored.returncode == 0, restored.stderr
    assert (Path(target["DARKROOM_VAR"]) / "blobs" / kept).is_file()
    database = database_of(target)
    with database.autocommit() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 1
    database.dispose()


def test_a_copy_that_is_not_the_image_of_its_row_is_named_as_lost(stage: Stage, kept: str, tmp_path: Path) -> None:
    blob = Path(stage.environ["DARKROOM_VAR"]) / "blobs" / kept
    blob.write_bytes(blob.read_bytes()[:-1])
    manifest = manifest_of(backed_up(stage, tmp_path))
    assert (manifest["blobs"], manifest["blobs_gone"]) == (0, [kept])


def test_a_backup_wants_a_folder_of_its_own_and_leaves_nothing_when_it_fails(stage: Stage, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine").touch()
    assert "is not empty" in darkroom(stage, "backup", str(there)).stderr
    away = stage.environ["DATABASE_URL"].rsplit("@", 1)[0] + "@127.0.0.1:1/none"
    failed = darkroom(stage, "backup", str(tmp_path / "new"), DATABASE_URL=away)
    assert (failed.returncode, (tmp_path / "new").exists()) == (3, False)


def test_images_in_a_bucket_are_listed_and_looked_for(
    stage: Stage, s3_url: str, target: dict[str, str], tmp_path: Path
) -> None:
    bucket = new_bucket(s3_url)
    s3 = {
        "DARKROOM_STORAGE": "s3",
        "DARKROOM_S3_BUCKET": bucket,
        "DARKROOM_S3_PREFIX": "darkroom/prod",
        "DARKROOM_S3_ENDPOINT_URL": s3_url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    stage.order("in a bucket", CLASS_A)
    with stage.process("workers", **s3):
        until(lambda: stage.rows("SELECT 1 FROM images"), 40, lambda: stage.rows("SELECT * FROM jobs"))
        until(lambda: stage.rows("SELECT 1 FROM jobs WHERE finished_at IS NOT NULL"), 40, lambda: "not ended")
    folder = tmp_path / "backup"
    done = darkroom(stage, "backup", str(folder), **s3)
    assert (done.returncode, f"the images are in {bucket}/darkroom/prod" in done.stderr) == (0, True)
    assert (manifest_of(folder)["blobs"], (folder / "blobs").exists()) == (1, False)

    away = darkroom(stage, "restore", str(folder), **target, **{**s3, "DARKROOM_S3_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert (away.returncode, away.stderr.splitlines()[0]) == (
        3,
        "darkroom: storage_unavailable: cannot list: EndpointConnectionError",
    )
    again = darkroom(stage, "restore", str(folder), **target, **s3)  # nothing had changed: it is still empty
    assert (again.returncode, "are not there" in again.stderr) == (0, False)
    assert "clean: every invariant holds" in again.stdout

    elsewhere = {**s3, "DARKROOM_S3_PREFIX": "moved"}
    moved = darkroom(stage, "restore", str(folder), "--force", **target, **elsewhere)
    assert moved.returncode == 0
    assert f"were in {bucket}/darkroom/prod; they are looked for in {bucket}/moved" in moved.stderr
    assert "1 images are not there" in moved.stderr


# ---------------------------------------------------------------- refused


def test_a_target_that_is_not_empty_is_replaced_only_by_force(
    stage: Stage, kept: str, target: dict[str, str], tmp_path: Path
) -> None:
    folder = backed_up(stage, tmp_path)
    own = {name: stage.environ[name] for name in target}
    said = refusal(stage, folder, own)
    assert "the database has tables" in said and "admin.key is there" in said and "--force" in said
    stage.sql("DELETE FROM workers")  # killed just now: its heartbeat would count for ten seconds
    stage.sql("CREATE TABLE of_a_later_release (id int)")
    stage.order("after the backup", CLASS_A, publish=False)
    stage.database.dispose()
    assert darkroom(stage, "restore", str(folder), "--force", **own).returncode == 0
    assert stage.row("SELECT count(*) FROM jobs")[0] == 1
    assert stage.rows("SELECT 1 FROM pg_tables WHERE tablename = 'of_a_later_release'") == []


def test_a_database_in_use_is_refused_even_by_force(stage: Stage, target: dict[str, str], tmp_path: Path) -> None:
    folder = backed_up(stage, tmp_path)
    own = {**target, "DATABASE_URL": stage.environ["DATABASE_URL"]}
    with stage.process("workers"):
        until(lambda: stage.rows("SELECT 1 FROM workers"), 40, lambda: "no worker")
        assert "in use by" in refusal(stage, folder, own, "--force")
    assert stage.row("SELECT count(*) FROM accounts")[0] == 1


NOT_WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (lambda folder: (folder / "manifest.json").unlink(), "it is no backup, or one that was not finished"),
    "empty": (lambda folder: (folder / "manifest.json").write_text("{}"), "is damaged"),
    "format": (lambda folder: _change(folder, format=2), "its format is 2"),
    "schema": (lambda folder: _change(folder, schema="9999"), "its schema is 9999, made by Darkroom"),
    "storage": (lambda folder: _change(folder, storage="s3"), "its images are in s3, but DARKROOM_STORAGE is local"),
    "dump": (lambda folder: (folder / "database.dump").write_bytes(b"PGDMP"), "database.dump is not the file"),
    "image": (lambda folder: next((folder / "blobs").rglob("*.png")).write_bytes(b""), "is not the file"),
    "no image": (lambda folder: next((folder / "blobs").rglob("*.png")).unlink(), "No such file"),
}


def test_a_backup_that_is_not_whole_changes_nothing(
    stage: Stage, kept: str, target: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = backed_up(stage, tmp_path)
    for name, value in {**stage.environ, **target}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def said_of(name: str) -> str:
        folder = Path(shutil.copytree(whole, tmp_path / name))
        NOT_WHOLE[name][0](folder)
        if name == "unfinished":
            return refusal(stage, folder, target, run=darkroom_process)
        done = CliRunner().invoke(main, ["restore", str(folder)])
        assert done.exit_code == 2, done.output
        return done.output

    said = {name: said_of(name) for name in NOT_WHOLE}
    assert {name: words for name, (_, words) in NOT_WHOLE.items() if words not in said[name]} == {}
    assert not Path(target["DARKROOM_VAR"]).exists()


def _change(folder: Path, **facts: object) -> None:
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), **facts}))


def test_an_older_schema_is_restored_and_migrated(stage: Stage, target: dict[str, str], tmp_path: Path) -> None:
    with stage.database.transaction() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0008")
    stage.database.dispose()
    folder = backed_up(stage, tmp_path)
    assert manifest_of(folder)["schema"] == "0008"
    assert darkroom(stage, "restore", str(folder), **target).returncode == 0
    database = database_of(target)
    with database.autocommit() as connection:
        assert schema.pending(connection) == []
    database.dispose()


def test_with_pause_nothing_is_sent_before_the_operator_says_so(
    stage: Stage, target: dict[str, str], tmp_path: Path
) -> None:
    folder = backed_up(stage, tmp_path)
    assert darkroom(stage, "restore", str(folder), "--pause", **target).returncode == 0
    shown = darkroom(stage, "providers", "list", "--json", **target).stdout
    states = json.loads(shown)["data"]
    assert {each["pause_reason"] for each in states} == {"restored from a backup"}
    assert all(each["paused_at"] for each in states)


# ---------------------------------------------------------------- PostgreSQL's programs


def test_without_a_program_that_is_new_enough_one_sentence_says_which(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.18'\n")
    old.chmod(0o755)
    monkeypatch.setattr(postgres_tools, "installations", dict)
    monkeypatch.setattr(postgres_tools, "_DEBIAN", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert postgres_tools.find_tool("pg_dump", 14).major == 15
    with pytest.raises(postgres_tools.ToolError, match=r"pg_dump of PostgreSQL 18 or newer is needed; .* is 15: inst"):
        postgres_tools.find_tool("pg_dump", 18)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(postgres_tools.ToolError, match="pg_restore of PostgreSQL 18 or newer is needed: install"):
        postgres_tools.find_tool("pg_restore", 18)


def test_the_oldest_program_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    majors = sorted(tool.major for tool in postgres_tools._tools("pg_dump"))
    assert postgres_tools.find_tool("pg_dump", majors[0]).major == majors[0]
    assert postgres_tools.find_tool("pg_dump", majors[-1]).major == majors[-1]
