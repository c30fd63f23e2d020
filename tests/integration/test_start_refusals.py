"""What no waiting mends is said in one sentence when a process starts, and the process ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from core import first_contact
from core.embedded.ports import free_ports
from core.first_contact import DatabaseRefusesError
from core.settings import SettingsError, load

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = {"CHATGPT2API_BASE_URL": "http://127.0.0.1:9/c2a", "CHATGPT2API_API_KEY": "test-key"}
UP = ("-c", "import sys; from app.cli import main; sys.argv[0] = 'darkroom'; main()")
WORKER = ("-m", "workers")
WEB = ("-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app")
BARE = ("-m", "celery", "-A", "workers.celery_app", "worker")


def start(tmp_path: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DARKROOM_", "CELERY_"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={
            **inherited,
            **UPSTREAM,
            "DARKROOM_VAR": str(tmp_path / "var"),
            "DARKROOM_PORT": str(free_ports(1)[0]),
            "DARKROOM_FLOWER_PORT": str(free_ports(1)[0]),
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "PYTHONPATH": str(ROOT),
            **environ,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def wrong_password(database_url: str) -> str:
    before, _, after = database_url.replace("+psycopg", "").partition("darkroom:")
    return f"{before}darkroom:wrong@{after.partition('@')[2]}"


@pytest.fixture
def latin1_url(postgres_url: str) -> Iterator[str]:
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(
            text("CREATE DATABASE latin1 ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER libc")
        )
    yield postgres_url.rsplit("/", 1)[0].replace("+psycopg", "") + "/latin1"
    with administrator.connect() as connection:
        connection.execute(text("DROP DATABASE latin1 WITH (FORCE)"))
    administrator.dispose()


@pytest.mark.parametrize(
    "arguments",
    [WORKER, WEB, (*UP, "up"), (*UP, "db", "upgrade"), (*UP, "backup", "b")],
    ids=["worker", "web", "up", "db", "backup"],
)
def test_a_wrong_password_is_one_sentence(tmp_path: Path, database_url: str, arguments: tuple[str, ...]) -> None:
    code, said = start(tmp_path, *arguments, DATABASE_URL=wrong_password(database_url))
    assert code != 0
    assert said.count('password authentication failed for user "darkroom"') == 1, said
    assert "Traceback" not in said and "wrong" not in said


@pytest.mark.parametrize("arguments", [WORKER, WEB, (*UP, "up")], ids=["worker", "web", "up"])
def test_a_database_that_is_not_utf8_is_one_sentence(
    tmp_path: Path, latin1_url: str, arguments: tuple[str, ...]
) -> None:
    code, said = start(tmp_path, *arguments, DATABASE_URL=latin1_url)
    assert code != 0
    assert said.count("is encoded in SQL_ASCII, not in UTF8") == 1, said
    assert "Traceback" not in said


def test_a_worker_without_a_provider_is_refused(tmp_path: Path, database_url: str) -> None:
    url = database_url.replace("+psycopg", "")
    code, said = start(tmp_path, *WORKER, DATABASE_URL=url, **dict.fromkeys(UPSTREAM, ""))
    assert (code, said.count("\n")) == (1, 1)
    assert "no provider is configured here" in said


def test_a_bare_celery_worker_is_refused(tmp_path: Path, database_url: str) -> None:
    code, said = start(tmp_path, *BARE, "--pool=solo", DATABASE_URL=database_url.replace("+psycopg", ""))
    assert code == 1
    assert "start workers by `python -m workers`" in said
    assert "Traceback" not in said


def test_a_missing_setting_of_web_is_one_sentence(tmp_path: Path) -> None:
    code, said = start(tmp_path, *WEB, DATABASE_URL="")
    assert code == 3
    assert said.count("DATABASE_URL is not set") == 1 and "Traceback" not in said


def test_a_taken_port_for_metrics_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = start(tmp_path, *UP, "up", DATABASE_URL="", REDIS_URL="", DARKROOM_METRICS_PORT=str(port))
    why = f"cannot listen on 127.0.0.1 port {port} (Address already in use): set DARKROOM_METRICS_PORT to another"
    assert (code, said.count(why), "Traceback" in said) == (1, 1, False), said
    assert not list((tmp_path / "var").glob("*/PG_VERSION")), "the database was made"
    assert "postgres " not in said and "web " not in said


def test_a_server_that_is_away_is_waited_for() -> None:
    first_contact.check("postgresql://darkroom:pw@127.0.0.1:1/darkroom")


@pytest.mark.parametrize(("changed", "words"), [("/no_such", 'database "no_such" does not exist'), ("?bad=1", "bad")])
def test_other_refusals_have_the_servers_reason(database_url: str, changed: str, words: str) -> None:
    url = database_url.rsplit("/", 1)[0] + changed if changed.startswith("/") else database_url + changed
    with pytest.raises(DatabaseRefusesError, match=words):
        first_contact.check(url)


BEGINS = "it must begin with"
WRONG = {
    "database": (
        {"DATABASE_URL": "mysql://me:hunter2@host/db"},
        f"DATABASE_URL: {BEGINS} postgresql:// or postgres://",
    ),
    "redis": ({"REDIS_URL": "http://:hunter2@host"}, f"REDIS_URL: {BEGINS} redis:// or rediss://"),
    "port": ({"REDIS_URL": "redis://:hunter2@host:port/0"}, "REDIS_URL: its port is no number"),
    "broker": ({"CELERY_BROKER_URL": "sqs://hunter2"}, f"CELERY_BROKER_URL: {BEGINS} redis:// or rediss://"),
    "bucket": ({"DARKROOM_STORAGE": "s3"}, "DARKROOM_STORAGE is s3, but DARKROOM_S3_BUCKET is not set"),
    "format": ({"DARKROOM_LOG_FORMAT": "xml"}, "DARKROOM_LOG_FORMAT: Input should be 'text' or 'json'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_address_that_cannot_be_one_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wrong, words = WRONG[name]
    monkeypatch.chdir(tmp_path)  # no .env of ours
    for variable in [each for each in os.environ if each.startswith(("DARKROOM_", "CELERY_"))]:
        monkeypatch.delenv(variable)
    for variable, value in {"DATABASE_URL": "postgresql://me@127.0.0.1:1/none", **wrong}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value) == f"bad settings: {words}"


@pytest.mark.parametrize("arguments", [WORKER, (*UP, "up")], ids=["worker", "up"])
def test_a_process_tells_every_address_that_cannot_be_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    names = ("database", "redis", "broker", "bucket")
    code, said = start(tmp_path, *arguments, **{key: value for name in names for key, value in WRONG[name][0].items()})
    assert (code, [said.count(WRONG[name][1]) for name in names]) == (1, [1, 1, 1, 1]), said
    assert "Traceback" not in said and "hunter2" not in said


def test_a_process_tells_a_word_that_is_none(tmp_path: Path) -> None:
    """Told before the settings are whole, and so apart from the addresses."""
    wrong, words = WRONG["format"]
    code, said = start(tmp_path, *WORKER, DATABASE_URL="postgresql://me@127.0.0.1:1/none", **wrong)
    assert (code, said.count(words)) == (1, 1), said
    assert "Traceback" not in said


def test_a_provider_with_a_wrong_address_is_one_sentence(tmp_path: Path, database_url: str) -> None:
    own = database_url.replace("+psycopg", "")
    code, said = start(tmp_path, *WORKER, DATABASE_URL=own, OPENAI_API_KEY="key", OPENAI_BASE_URL="nonsense")
    assert (code, "openai: base_url" in said, "Traceback" in said) == (1, True, False), said


def test_a_server_that_is_too_old_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_contact, "OLDEST_MAJOR", 99)
    with pytest.raises(DatabaseRefusesError, match=r"is PostgreSQL \d+; 99 or newer is needed"):
        first_contact.check(database_url)
