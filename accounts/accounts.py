"""Accounts: who owns jobs, keys and a balance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

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
    """An account. ``weight``: its share of a provider's queue, 1 to 100. ``disabled_at``: since then its keys fail."""

    id: str
    name: str
    weight: int
    created_at: datetime
    disabled_at: datetime | None


_COLUMNS = "id, name, weight, created_at, disabled_at"


def create_account(connection: Connection, name: str, *, weight: int = 1) -> Account:
    """Create an account, without a balance until its first grant. Raises AccountExistsError."""
    try:
        row = connection.execute(
            text(f"INSERT INTO accounts (id, name, weight) VALUES (:id, :name, :weight) RETURNING {_COLUMNS}"),
            {"id": new_id("acct"), "name": name.strip(), "weight": weight},
        ).one()
    except IntegrityError as error:
        raise AccountExistsError(f"there is an account named {name!r} already, or the name is not usable") from error
    return Account(**row._mapping)


def find_account(connection: Connection, name_or_id: str) -> Account:
    """The account of a name or an id. Raises AccountNotFoundError."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM accounts WHERE id = :key OR name = :key"), {"key": name_or_id}
    ).one_or_none()
    if row is None:
        raise AccountNotFoundError(f"there is no account {name_or_id!r}")
    return Account(**row._mapping)


def list_accounts(connection: Connection) -> list[Account]:
    """Every account, oldest first."""
    rows = connection.execute(text(f"SELECT {_COLUMNS} FROM accounts ORDER BY created_at"))
    return [Account(**row._mapping) for row in rows]
