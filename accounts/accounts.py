"""Accounts: who owns jobs, keys and a balance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from accounts.order_limits import LIMITED
from core.db import Hot, Statement
from core.errors import ServiceError
from core.ids import new_id


class AccountExistsError(ServiceError):
    """The name is taken, or is not one an account may have."""

    code = "account_exists"


class AccountNotFoundError(ServiceError):
    """There is no account of this name or id."""

    code = "account_not_found"


@dataclass(frozen=True, slots=True)
class Account:
    """An account. ``weight``: its share of a provider's queue, 1 to 100. ``disabled_at``: since then its keys fail.
    ``external_id``: under which an issuer of tokens knows it. The limits are of spending, in micro-credits that its
    orders of a day and of a month (UTC) may cost, and of load; None: only the balance, and what the installation
    allows, limits it."""

    id: str
    name: str
    weight: int
    created_at: datetime
    disabled_at: datetime | None
    external_id: str | None = None
    spend_day_limit: int | None = None
    spend_month_limit: int | None = None
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    images_per_minute: int | None = None


LIMITS = ("spend_day_limit", "spend_month_limit", "requests_per_minute", "max_in_flight", "images_per_minute")
_COLUMNS = f"id, name, weight, created_at, disabled_at, external_id, {', '.join(LIMITS)}"
CHANGEABLE = ("name", "weight", "external_id", *LIMITS)
MAX_NAME_CHARS = 100


def create_account(connection: Connection, name: str, *, weight: int = 1, external_id: str | None = None) -> Account:
    """Create an account, without a balance until its first grant. Raises AccountExistsError."""
    try:
        row = connection.execute(
            text(
                "INSERT INTO accounts (id, name, weight, external_id) VALUES (:id, :name, :weight, :external_id)"
                f" RETURNING {_COLUMNS}"
            ),
            {"id": new_id("acct"), "name": name.strip(), "weight": weight, "external_id": external_id},
        ).one()
    except IntegrityError as error:
        words = f"there is an account named {name!r} already, or the name is not usable"
        raise AccountExistsError(f"{words}{_or_known(external_id)}") from error
    return Account(**row._mapping)


def change_account(
    connection: Connection, account_id: str, changes: Mapping[str, Any], *, disabled: bool | None = None
) -> tuple[Account, Account]:
    """Set columns of ``CHANGEABLE``; ``disabled`` True stops every key of the account, None leaves that as it is.

    Returns the account before and after. Raises AccountNotFoundError, AccountExistsError for a name or an external id
    that another account has.
    """
    locked = text(f"SELECT {_COLUMNS} FROM accounts WHERE id = :id FOR NO KEY UPDATE")
    row = connection.execute(locked, {"id": account_id}).one_or_none()
    if row is None:
        raise AccountNotFoundError(f"there is no account {account_id!r}")
    before = Account(**row._mapping)
    values = {name: changes.get(name, getattr(before, name)) for name in CHANGEABLE}
    try:
        after = connection.execute(_CHANGE, {**values, "id": account_id, "disabled": disabled}).one()
    except IntegrityError as error:
        known = _or_known(values["external_id"])
        raise AccountExistsError(f"there is an account named {values['name']!r} already{known}") from error
    return before, Account(**after._mapping)


_CHANGE = text(f"""
UPDATE accounts SET name = :name, weight = :weight, external_id = :external_id,
    {", ".join(f"{name} = :{name}" for name in LIMITS)},
    disabled_at = CASE WHEN CAST(:disabled AS boolean) IS NULL THEN disabled_at
        WHEN CAST(:disabled AS boolean) THEN coalesce(disabled_at, clock_timestamp()) END
WHERE id = :id RETURNING {_COLUMNS}
""")


def know_as(connection: Connection, account_id: str, external_id: str | None) -> None:
    """Set the id under which an issuer of tokens knows an account; None for none. Raises AccountExistsError."""
    try:
        connection.execute(
            text("UPDATE accounts SET external_id = :external_id WHERE id = :id"),
            {"id": account_id, "external_id": external_id},
        )
    except IntegrityError as error:
        raise AccountExistsError(f"another account is known as {external_id!r}, or the id is not usable") from error


def _or_known(external_id: str | None) -> str:
    return f"; or another one is known as {external_id!r}" if external_id else ""


def open_external(connection: Connection, external_id: str) -> str | None:
    """Create the account of an id that was not seen before. Returns its id, None where another process was first.

    Its name is the id behind ``jwt:``, so that it cannot be taken for an account that an operator made.
    """
    made = new_id("acct")
    named = f"jwt:{external_id}"
    if len(named) > MAX_NAME_CHARS:
        named = f"jwt:{hashlib.sha256(external_id.encode()).hexdigest()}"
    for name in (named, made):  # the second, should an operator have used the first for another account
        row = connection.execute(
            text(
                "INSERT INTO accounts (id, name, external_id) VALUES (:id, :name, :external_id)"
                " ON CONFLICT DO NOTHING RETURNING id"
            ),
            {"id": made, "name": name, "external_id": external_id},
        ).one_or_none()
        if row is not None:
            return made
        if find_external(Hot.of(connection), [external_id]):
            return None
    return None


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """What is needed of an account at each request that brings a token."""

    id: str
    name: str
    weight: int
    disabled: bool
    orders_by_limits: bool = False
    requests_per_minute: int | None = None


FIND_EXTERNAL = Statement(f"""
SELECT id, name, weight, disabled_at IS NOT NULL AS disabled, external_id, requests_per_minute,
    {LIMITED.format("a")} AS limited
FROM accounts AS a
WHERE external_id = ANY(CAST(:external_ids AS text[]))
""")


def find_external(hot: Hot, external_ids: Sequence[str]) -> dict[str, ExternalAccount]:
    """The accounts by the ids under which an issuer of tokens knows them."""
    return {
        row.external_id: ExternalAccount(
            row.id, row.name, row.weight, row.disabled, row.limited, row.requests_per_minute
        )
        for row in hot.all(FIND_EXTERNAL, {"external_ids": list(external_ids)})
    }


def find_account(connection: Connection, name_or_id: str) -> Account:
    """The account of a name or an id. Raises AccountNotFoundError."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM accounts WHERE id = :key OR name = :key"), {"key": name_or_id}
    ).one_or_none()
    if row is None:
        raise AccountNotFoundError(f"there is no account {name_or_id!r}")
    return Account(**row._mapping)


def list_accounts(connection: Connection, *, after_id: str = "", limit: int | None = None) -> list[Account]:
    """At most ``limit`` accounts (None: all), oldest first: those behind the account ``after_id``."""
    query = text(f"SELECT {_COLUMNS} FROM accounts WHERE id > :after_id ORDER BY id LIMIT :limit")
    rows = connection.execute(query, {"after_id": after_id, "limit": limit})
    return [Account(**row._mapping) for row in rows]
