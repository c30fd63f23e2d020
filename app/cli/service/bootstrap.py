"""What a service needs before its processes start: the schema, an administrator and a first key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from accounts import accounts, keys
from app.cli.service.readiness import api_url
from core import first_contact, schema
from core.db import Database, make_engine
from core.embedded.folders import make_folder, write_private
from core.settings import Settings
from quota import ledger
from quota.prices import MICROCREDITS_PER_CREDIT

ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What :func:`prepare` leaves behind."""

    admin_key_path: Path


def prepare(settings: Settings) -> Prepared:
    """Migrate, and on the first start make the admin account, its credits and its key.

    The key is written to ``$DARKROOM_VAR/admin.key``; when that file is lost a new key is made. Also
    writes down where the servers are, for commands on this machine (``run/urls.json``). Both files are 0600.
    Raises DatabaseAwayError, DatabaseRefusesError.
    """
    first_contact.check(settings.database_url)
    make_folder(settings.var)
    key_path = settings.var / "admin.key"
    database = Database(
        make_engine(settings.database_url, pool_size=2, application_name="bootstrap", prepare=settings.db_prepare)
    )
    try:
        migrate(settings)
        with database.transaction() as connection:
            account_id = _admin(connection, settings)
            if not key_path.exists():
                key = keys.create_key(connection, account_id, name="first start", scopes=keys.SCOPES)
                # Inside the transaction: a key whose file could not be written is never made.
                write_private(key_path, key.token + "\n")
    finally:
        database.dispose()
    _tell_where(settings)
    return Prepared(key_path)


def migrate(settings: Settings) -> None:
    """Bring the schema up to date as the role that owns the tables; the service's own role then has its grants."""
    database = Database(
        make_engine(settings.migrate_database_url, pool_size=1, application_name="migrate", prepare=False)
    )
    try:
        with database.transaction() as connection:
            schema.upgrade(connection)
            schema.grant_to_app(connection, settings.database_url)
    finally:
        database.dispose()


def _admin(connection: Connection, settings: Settings) -> str:
    try:
        return accounts.find_account(connection, ADMIN).id
    except accounts.AccountNotFoundError:
        account = accounts.create_account(connection, ADMIN)
        if settings.admin_credits:
            ledger.grant(connection, account.id, settings.admin_credits * MICROCREDITS_PER_CREDIT, note="first start")
        return account.id


def _tell_where(settings: Settings) -> None:
    run = make_folder(settings.var / "run")
    urls = {
        "api_url": api_url(settings),
        "sandbox_port": settings.sandbox_port,
        "database_url": settings.database_url,
        "redis_url": settings.redis_url,
    }
    write_private(run / "urls.json", json.dumps(urls) + "\n")
