"""Admin commands: what reaches the database's functions, and what is said after the commit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from accounts import accounts, key_changes, keys
from accounts.accounts import Account, AccountNotFoundError
from accounts.key_changes import KeyNotFoundError
from accounts.keys import KeyInfo, NewKey
from app.cli import main
from app.cli.operator import accounts as commands
from app.cli.operator import database, upstreams
from app.cli.output import CommandError
from core.errors import DatabaseAwayError
from core.wire import rfc3339
from jobs.dispatch import health
from jobs.reads import funds
from jobs.reads.funds import Funds
from jobs.reads.margins import Margin
from quota import grants as quota_grants
from quota.grants import Grant

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALICE = Account("acct_1", "alice", 1, NOW, None)


class FakeDatabase:
    """One connection that knows the time, and a memory of how its transactions ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.commit_fails = False

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        try:
            yield SimpleNamespace(execute=lambda *_: SimpleNamespace(scalar_one=lambda: NOW))
        except BaseException:
            self.ends.append("rolled back")
            raise
        if self.commit_fails:
            raise DatabaseAwayError("the database cannot be reached")
        self.ends.append("committed")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    found = FakeDatabase()

    @contextmanager
    def opened(**_owner: bool) -> Iterator[FakeDatabase]:
        yield found

    def find(_connection: Any, name: str) -> Account:
        if name != "alice":
            raise AccountNotFoundError(f"there is no account {name!r}")
        return ALICE

    monkeypatch.setattr(database, "open_database", opened)
    monkeypatch.setattr(accounts, "find_account", find)
    monkeypatch.delenv("DARKROOM_SERVER", raising=False)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def grants(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []

    def issue(_: Any, account_id: str, amount: int, *, note: str, request_key: str | None) -> Grant:
        found.append((account_id, amount, note))
        return Grant(1, account_id, "grant", amount, note, NOW)

    monkeypatch.setattr(quota_grants, "issue", issue)
    monkeypatch.setattr(funds, "funds", lambda *_: Funds(spendable=6_000_000, queued=1_000_000))
    return found


@pytest.mark.parametrize(
    ("amount", "microcredits"),
    [
        (["5.3"], 5_300_000),
        (["0.000001"], 1),
        (["9007199254.740993"], 9_007_199_254_740_993),
        (["--microcredits", "3"], 3),
    ],
)
def test_a_grant_is_exact(grants: list[tuple[str, int, str]], amount: list[str], microcredits: int) -> None:
    result = run("grant", "alice", *amount, "--note", "thanks")
    assert (result.exit_code, grants) == (0, [("acct_1", microcredits, "thanks")])
    assert "alice has 7 credits" in result.stdout


@pytest.mark.parametrize(
    "amount",
    [
        ["0"],
        ["-1"],
        ["1e3"],
        ["NaN"],
        ["0.0000001"],
        ["٥"],
        ["9999999999999"],
        ["1", "--microcredits", "1"],
        [],
    ],
)
def test_an_amount_that_is_none_is_a_usage_error(grants: list[tuple[str, int, str]], amount: list[str]) -> None:
    assert (run("grant", "alice", *amount).exit_code, grants) == (2, [])


def test_an_unknown_account_is_one_line_and_rolled_back(fake: FakeDatabase) -> None:
    result = run("grant", "bob", "1")
    assert (result.exit_code, result.stderr) == (
        1,
        "darkroom: account_not_found: there is no account 'bob'\n",
    )
    assert fake.ends == ["rolled back"]


@pytest.fixture
def made_keys(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def create(_connection: Any, account_id: str, **facts: Any) -> NewKey:
        found.append({"account_id": account_id, **facts})
        return NewKey("k1", "dk_k1_secret")

    info = KeyInfo("k1", "acct_1", "", ("jobs:read",), NOW, None, None, None)
    monkeypatch.setattr(key_changes, "find_key", lambda *_, **__: info)
    monkeypatch.setattr(keys, "create_key", create)
    return found


def test_a_key_is_printed_alone_on_stdout(made_keys: list[dict[str, Any]]) -> None:
    result = run("key", "create", "alice", "--scope", "jobs:read", "--expires-in", "30d", "--name", "laptop")
    assert (result.exit_code, result.stdout) == (0, "dk_k1_secret\n")
    assert "cannot be shown again" in result.stderr
    expected = {"account_id": "acct_1", "name": "laptop", "scopes": ["jobs:read"]}
    assert made_keys == [{**expected, "expires_at": NOW + timedelta(days=30)}]


def test_a_key_that_was_not_committed_is_not_printed(fake: FakeDatabase, made_keys: list[dict[str, Any]]) -> None:
    fake.commit_fails = True
    result = run("key", "create", "alice")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "dk_k1" not in result.stderr


def test_scopes_are_those_that_keys_know() -> None:
    assert commands.SCOPES == keys.SCOPES


@pytest.mark.parametrize("pasted", ["k1", "dk_k1_secret", "dk_k1_sec_ret"])
def test_revoking_takes_an_id_or_a_whole_key_and_repeats_no_secret(
    fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch, pasted: str
) -> None:
    info = KeyInfo("k1", "acct_1", "", ("jobs:read",), NOW, None, None, None)
    monkeypatch.setattr(key_changes, "find_key", lambda *_, **__: info)
    monkeypatch.setattr(keys, "revoke_key", lambda _, key_id: key_id == "k1")
    assert run("key", "revoke", pasted).stdout == "revoked k1\n"

    def missing(_: Any, key_id: str, **__: Any) -> KeyInfo:
        raise KeyNotFoundError(f"there is no key {key_id!r}")

    monkeypatch.setattr(key_changes, "find_key", missing)
    result = run("key", "revoke", pasted)
    assert (result.exit_code, "sec" in result.output) == (1, False)


def test_key_list_shows_when_and_what(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    info = KeyInfo("k1", "acct_1", "laptop", ("jobs:read", "admin"), NOW, None, None, None)
    monkeypatch.setattr(keys, "list_keys", lambda _, owner: [info] if owner == "acct_1" else [])
    assert "jobs:read admin" in run("key", "list", "alice").stdout
    (row,) = json.loads(run("key", "list", "alice", "--json").stdout)["data"]
    assert (row["id"], row["created_at"]) == ("k1", rfc3339(NOW))


def module(name: str, monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    made = ModuleType(name)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)


def test_audit_ends_with_1_when_something_is_found(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = SimpleNamespace(invariant="held_by_live_jobs", subject="acct_1", detail="held 5, jobs say 0")
    module("jobs.maintenance.audit_check", monkeypatch, check_now=lambda _: [finding])
    result = run("audit")
    assert result.exit_code == 1
    assert "held_by_live_jobs" in result.stdout and "audit_findings" in result.stderr
    answer = json.loads(run("audit", "--json").stdout)
    assert answer == {"clean": False, "findings": [vars(finding)]}


def test_audit_says_clean(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    module("jobs.maintenance.audit_check", monkeypatch, check_now=lambda _: [])
    assert (run("audit").exit_code, run("audit").stdout) == (0, "clean: every invariant holds\n")


def test_db_status_names_what_waits_and_upgrade_applies_it(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = ["0001_start"]
    monkeypatch.setattr("core.schema.pending", lambda _: list(waiting))
    monkeypatch.setattr("core.schema.upgrade", lambda _: waiting.clear())
    status = run("db", "status")
    assert (status.exit_code, status.stdout) == (1, "pending: 0001_start\n")
    assert run("db", "upgrade").stdout == "applied 0001_start\n"
    assert (run("db", "status").exit_code, run("db", "upgrade").stdout) == (0, "up to date already\n")


# --- which database ----------------------------------------------------------------------------------


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("DARKROOM_VAR", str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path


def test_the_running_instance_is_found_by_its_file(var: Path) -> None:
    (var / "run" / "urls.json").write_text('{"database_url": "postgresql://u:pw@127.0.0.1:5/d", "redis_url": ""}')
    assert database.database_url() == "postgresql+psycopg://u:pw@127.0.0.1:5/d"


def test_database_url_goes_before_the_file(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u@elsewhere/d")
    assert database.database_url() == "postgresql+psycopg://u@elsewhere/d"


def test_nothing_running_is_said_with_the_folder(var: Path) -> None:
    result = run("account", "list")
    assert result.exit_code == 3
    assert f"nothing runs in {var}" in result.stderr and "darkroom up" in result.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"database_url": 5}', "\x00"])
def test_a_damaged_file_is_said(var: Path, text: str) -> None:
    (var / "run" / "urls.json").write_text(text)
    with pytest.raises(CommandError, match="is damaged"):
        database.database_url()


def test_a_database_that_is_away_is_one_line_without_the_password(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/d")
    result = run("account", "list")
    assert (result.exit_code, "hunter2" in result.output) == (3, False)
    assert "database_unavailable" in result.stderr and "Connection refused" in result.stderr


def test_costs_show_the_margin_by_model(fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Margin("openai", "gpt-image-2", 3, 4, 212_000, 2, 90_000, 106_000, 1, 30_000_000)
    asked: list[int] = []
    module("jobs.reads.margins", monkeypatch, margins=lambda _, days: asked.append(days) or [line])
    shown = run("costs", "--days", "7").stdout
    assert all(word in shown for word in ("gpt-image-2", "0.2120", "0.0900", "0.85", "30"))
    assert json.loads(run("costs", "--json").stdout)["models"][0]["reported"] == 90_000
    assert asked == [7, 30]


@pytest.mark.parametrize("asked", [["--json"], ["list", "--json"], ["--json", "list"]])
def test_providers_are_listed_as_json_wherever_it_is_asked_for(
    fake: FakeDatabase, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(health, "overview", lambda _connection: [])
    assert json.loads(run("providers", *asked).stdout) == {"data": []}


def test_the_sandbox_of_the_service_is_asked_whatever_ports_this_shell_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here: Any = SimpleNamespace(var=tmp_path, sandbox_port=8002)
    assert upstreams.environment({}, here) == {}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "urls.json").write_text('{"api_url": "http://127.0.0.1:9710", "sandbox_port": 9712}')
    assert upstreams.environment({}, here)["OPENAI_BASE_URL"].startswith("http://127.0.0.1:9712/")
    assert upstreams.environment({"OPENAI_API_KEY": "sk-1"}, here) == {"OPENAI_API_KEY": "sk-1"}
