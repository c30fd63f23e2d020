"""The accounts behind tokens: found, opened at first sight with a grant, refused, and for how long they are cached."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from job_engine import CREDIT, Engine
from joserfc import jwk
from joserfc import jwt as foreign
from sqlalchemy import text

from accounts import accounts
from accounts.callers import Callers
from accounts.keys import Caller, create_key
from accounts.tokens import TokenRefusedError
from app.callers import build_callers
from core.settings import Settings
from jobs.maintenance import audit
from jobs.reads.funds import funds

SECRET = "a shared secret of more than 32 bytes"


def token(subject: str, **claims: Any) -> str:
    said = {"sub": subject, "exp": int(time.time()) + 60, **claims}
    return foreign.encode({"alg": "HS256"}, said, jwk.OctKey.import_key(SECRET))


def callers(engine: Engine, **variables: Any) -> Callers:
    settings = Settings(_env_file=None, DARKROOM_JWT_SECRET=SECRET, **variables)  # type: ignore[call-arg]
    return build_callers(settings, engine.database)


def change(engine: Engine, statement: str, **values: Any) -> None:
    with engine.database.transaction() as connection:
        connection.execute(text(statement), values)


def _name(engine: Engine) -> str:
    """That of the only account."""
    [row] = engine.rows("SELECT name FROM accounts")
    return str(row.name)


def test_a_token_calls_for_the_account_that_is_known_by_its_subject(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        accounts.know_as(connection, account.account_id, "user-7")
    caller = callers(engine).authenticate(token("user-7", scope="jobs:read", customer_id=12))
    assert caller == Caller(
        account.account_id, _name(engine), "jwt", frozenset({"jobs:read"}), 1, frozenset({"user-7", "12"})
    )


def test_an_unknown_subject_is_refused_unless_accounts_are_made(engine: Engine) -> None:
    with pytest.raises(TokenRefusedError, match="no account here"):
        callers(engine).authenticate(token("user-8"))
    assert engine.rows("SELECT 1 FROM accounts WHERE external_id = 'user-8'") == []


def test_first_sight_makes_one_account_with_one_grant(engine: Engine) -> None:
    parts = [callers(engine, DARKROOM_JWT_CREATE_ACCOUNTS=True, DARKROOM_JWT_ACCOUNT_CREDITS=25) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = {each.account_id for each in pool.map(lambda part: part.authenticate(token("new-1")), parts * 4)}
    [row] = engine.rows("SELECT id, name, weight FROM accounts WHERE external_id = 'new-1'")
    assert found == {row.id}
    assert (row.name, row.weight) == ("jwt:new-1", 1)
    with engine.database.autocommit() as connection:
        assert funds(connection, row.id).available == 25 * CREDIT
    with engine.database.transaction() as connection:
        assert not audit.check(connection, timeout_s=30)


@pytest.mark.parametrize("subject", ["x" * 255, "taken"])
def test_the_name_of_an_opened_account_is_always_free(engine: Engine, subject: str) -> None:
    with engine.database.transaction() as connection:
        accounts.create_account(connection, "jwt:taken")
    caller = callers(engine, DARKROOM_JWT_CREATE_ACCOUNTS=True).authenticate(token(subject))
    assert caller
    assert caller.account_name not in ("jwt:taken", "")


def test_a_token_never_reaches_an_account_by_its_name(engine: Engine, account: Caller) -> None:
    caller = callers(engine, DARKROOM_JWT_CREATE_ACCOUNTS=True).authenticate(token(_name(engine)))
    assert caller
    assert caller.account_id != account.account_id


def test_a_disabled_account_is_refused_within_seconds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, mine = callers(engine, DARKROOM_JWT_CREATE_ACCOUNTS=True), token("leaving")
    assert not parts.knows(mine)
    parts.authenticate(mine)
    assert parts.knows(mine)
    change(engine, "UPDATE accounts SET disabled_at = now() WHERE external_id = 'leaving'")
    parts.authenticate(mine)  # from the cache
    started = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + 5.5)
    with pytest.raises(TokenRefusedError, match="disabled"):
        parts.authenticate(mine)
    assert not parts.knows(mine)


def test_the_cache_ends_with_the_token(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = callers(engine, DARKROOM_JWT_CREATE_ACCOUNTS=True, DARKROOM_JWT_LEEWAY_S=0)
    mine = token("short", exp=int(time.time()) + 2)
    parts.authenticate(mine)
    started, clock = time.monotonic(), time.time()
    monkeypatch.setattr(time, "monotonic", lambda: started + 3)
    monkeypatch.setattr("accounts.tokens.time.time", lambda: clock + 3)
    with pytest.raises(TokenRefusedError, match="expired"):
        _at(parts, mine, clock + 3)


def _at(parts: Callers, mine: str, now_s: float) -> None:
    """Ask at another time: PyJWT reads the clock by datetime."""
    import jwt.api_jwt as library

    class Later(library.datetime):  # type: ignore[name-defined,misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(now_s, tz)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "datetime", Later)
        parts.authenticate(mine)


def test_keys_work_next_to_tokens_and_tokens_only_where_configured(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        key = create_key(connection, account.account_id)
        accounts.know_as(connection, account.account_id, "user-9")
    found = callers(engine).authenticate(key.token)
    assert found
    assert (found.account_id, found.external_ids) == (account.account_id, frozenset({"user-9"}))
    without = build_callers(Settings(_env_file=None), engine.database)  # type: ignore[call-arg]
    assert without.authenticate(token("user-9")) is None


def test_two_accounts_are_not_known_by_one_id(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        accounts.know_as(connection, account.account_id, "same")
    with pytest.raises(accounts.AccountExistsError), engine.database.transaction() as connection:
        accounts.create_account(connection, "another", external_id="same")
