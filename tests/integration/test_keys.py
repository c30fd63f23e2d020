"""API keys: who is let in, and for how long after a key is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from job_engine import Engine
from sqlalchemy import text

from accounts import accounts, keys
from accounts.accounts import AccountExistsError, AccountNotFoundError
from accounts.keys import Caller
from core.db import Database


def make(engine: Engine, customer: Caller, **fields: object) -> keys.NewKey:
    with engine.database.transaction() as connection:
        return keys.create_key(connection, customer.account_id, **fields)


def caller(engine: Engine, token: str) -> keys.Caller | None:
    with engine.database.autocommit() as connection:
        return keys.authenticate(connection, token)


def test_a_key_lets_its_account_in(engine: Engine, account: Caller) -> None:
    key = make(engine, account, scopes=["jobs:read"])
    found = caller(engine, key.token)
    assert found is not None
    assert (found.account_id, found.key_id, found.scopes) == (account.account_id, key.id, frozenset({"jobs:read"}))


def test_no_secret_is_kept_or_shown(engine: Engine, account: Caller) -> None:
    key = make(engine, account)
    secret = key.token.split("_", 2)[2]
    assert secret not in repr(key)
    [row] = engine.rows("SELECT api_keys::text AS everything FROM api_keys")
    assert secret not in row.everything


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: "",
        lambda t: "dk_",
        lambda t: t[:-1],
        lambda t: t + "x",
        lambda t: t[:-1] + ("a" if t[-1] != "a" else "b"),
        lambda t: t.upper(),
        lambda t: "dk_000000000000_" + t.split("_", 2)[2],
        lambda t: "dk_\x00_" + "a" * 43,
        lambda t: "dk_" + "\ud800" * 12 + "_" + "a" * 43,
        lambda t: "x" * 1_000_000,
        lambda t: t.encode().hex(),
    ],
)
def test_what_is_no_key_lets_no_one_in(engine: Engine, account: Caller, spoil: object) -> None:
    token = spoil(make(engine, account).token)
    assert caller(engine, token) is None
    assert keys.KeyCache(engine.database).authenticate(token) is None


def test_revoked_expired_and_disabled_keys_let_no_one_in(engine: Engine, account: Caller) -> None:
    revoked, expired, good = (make(engine, account) for _ in range(3))
    late = make(engine, account, expires_at=datetime.now(UTC) + timedelta(hours=1))
    with engine.database.transaction() as connection:
        assert keys.revoke_key(connection, revoked.id) is True
        assert keys.revoke_key(connection, revoked.id) is False
        assert keys.revoke_key(connection, "nobody") is False
    engine.sql("UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = :id", id=expired.id)
    assert [caller(engine, key.token) is not None for key in (revoked, expired, good, late)] == [
        False,
        False,
        True,
        True,
    ]
    engine.sql("UPDATE accounts SET disabled_at = clock_timestamp()")
    assert caller(engine, good.token) is None


def test_a_cached_key_asks_the_database_once_and_dies_in_time(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cache, now = make(engine, account), keys.KeyCache(engine.database), [1000.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    assert cache.authenticate(key.token) is not None
    with engine.database.transaction() as connection:
        keys.revoke_key(connection, key.id)
    now[0] += keys.CACHE_S - 0.01
    assert cache.authenticate(key.token) is not None
    now[0] += 0.02
    assert cache.authenticate(key.token) is None


def test_a_key_is_known_while_its_last_look_up_was_good(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cache, now = make(engine, account), keys.KeyCache(engine.database), [1000.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    wrong = key.token[:-1] + ("a" if key.token[-1] != "a" else "b")
    assert not cache.knows(key.token)
    cache.authenticate(key.token)
    cache.authenticate(wrong)
    assert (cache.knows(key.token), cache.knows(wrong)) == (True, False)
    with engine.database.transaction() as connection:
        keys.revoke_key(connection, key.id)
    now[0] += keys.CACHE_S + 1
    assert cache.authenticate(key.token) is None
    assert not cache.knows(key.token)


def test_use_is_noted_once_a_minute(engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cache, now = make(engine, account), keys.KeyCache(engine.database), [1000.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    used = "SELECT last_used_at FROM api_keys"
    cache.authenticate(key.token)
    first = engine.one(used)
    now[0] += 30
    cache.authenticate(key.token)
    assert engine.one(used) == first
    now[0] += 31
    cache.authenticate(key.token)
    assert engine.one(used) > first


def test_the_cache_does_not_grow_without_bound(engine: Engine) -> None:
    cache = keys.KeyCache(engine.database, capacity=3)
    for number in range(10):
        cache.authenticate(f"dk_{number:012x}_" + "a" * 43)
    assert len(cache._known) <= 3


def test_an_unknown_scope_is_refused(engine: Engine, account: Caller) -> None:
    with pytest.raises(ValueError, match="jobs:steal"):
        make(engine, account, scopes=["jobs:read", "jobs:steal"])


def test_keys_are_listed_by_account(engine: Engine, account: Caller) -> None:
    mine, _ = make(engine, account, name="mine"), make(engine, engine.account())
    with engine.database.autocommit() as connection:
        assert [key.id for key in keys.list_keys(connection, account.account_id)] == [mine.id]
        assert len(keys.list_keys(connection)) == 2


def test_accounts_have_names_of_their_own(database: Database) -> None:
    with database.transaction() as connection:
        made = accounts.create_account(connection, " studio ")
        assert accounts.find_account(connection, "studio") == accounts.find_account(connection, made.id) == made
        with pytest.raises(AccountNotFoundError):
            accounts.find_account(connection, "nobody")
    for name in ("studio", "", "x" * 101):
        with pytest.raises(AccountExistsError), database.transaction() as connection:
            accounts.create_account(connection, name)
    with database.autocommit() as connection:
        assert connection.execute(text("SELECT count(*) FROM accounts")).scalar_one() == 1
