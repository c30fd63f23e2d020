"""What administrators do, next to the database: without a key, in the caller's transaction."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from accounts import accounts, keys, trail
from accounts.accounts import Account
from accounts.trail import Actor
from app import admin_documents as render
from app import administration
from app.cli.client.answers import Document
from app.cli.here import settings
from app.cli.output import CommandError, Exit
from jobs.reads import funds


def actor() -> Actor:
    """Who is at the command line, for the trail: the system's user and host; there is no key."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in some containers
        user = "unknown"
    return Actor(f"{user}@{socket.gethostname()}")


class Here:
    """app.cli.operator.admin.Admin over one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create_account(self, body: Mapping[str, Any]) -> Document:
        made = administration.create_account(
            self._connection,
            actor(),
            body["name"],
            weight=body.get("weight", 1),
            external_id=body.get("external_id"),
            limits=_limits(body),
        )
        return self._shown(made)

    def accounts(self) -> list[Document]:
        return [self._shown(each) for each in accounts.list_accounts(self._connection)]

    def account(self, name: str) -> Document:
        return self._shown(accounts.find_account(self._connection, name))

    def change_account(self, name: str, body: Mapping[str, Any]) -> Document:
        changes = {member: body[member] for member in ("name", "weight", "external_id") if member in body}
        changed = administration.change_account(
            self._connection, actor(), name, {**changes, **_limits(body)}, disabled=body.get("disabled")
        )
        return self._shown(changed)

    def create_key(self, body: Mapping[str, Any]) -> Document:
        made, token = administration.create_key(
            self._connection,
            actor(),
            body["account"],
            name=body.get("name", ""),
            scopes=body["scopes"],
            **self._expiry(body),
            **_allowed(body),
            **_limits(body),
        )
        return {**render.key(made), "token": token}

    def keys(self, account: str | None) -> list[Document]:
        owner = accounts.find_account(self._connection, account).id if account else None
        return [render.key(each) for each in keys.list_keys(self._connection, owner)]

    def change_key(self, key_id: str, body: Mapping[str, Any]) -> Document:
        changes = {member: body[member] for member in ("name", "scopes") if member in body}
        changes |= {**self._expiry(body), **_allowed(body), **_limits(body)}
        return render.key(administration.change_key(self._connection, actor(), key_id, changes))

    def rotate_key(self, key_id: str, overlap_s: int) -> Document:
        made, token = administration.rotate_key(self._connection, actor(), key_id, overlap_s=overlap_s)
        return {**render.key(made), "token": token}

    def revoke_key(self, key_id: str) -> Document:
        return render.key(administration.revoke_key(self._connection, actor(), key_id))

    def grant(self, body: Mapping[str, Any], idempotency_key: str | None) -> Document:
        made, _ = administration.grant(
            self._connection,
            actor(),
            body["account"],
            body["amount_microcredits"],
            note=body.get("note", ""),
            request_key=None if idempotency_key is None else f"cli {idempotency_key}",
        )
        return {**render.grant(made), "balance": render.balance(funds.funds(self._connection, made.account_id))}

    def actions(self, filters: Mapping[str, Any]) -> Document:
        given = {name: value for name, value in filters.items() if value is not None}
        limit, cursor = int(given.pop("limit", 50)), given.pop("cursor", None)
        if "account" in given:
            given["account_id"] = accounts.find_account(self._connection, given.pop("account")).id
        asked = trail.ActionFilters(**given, before_id=int(cursor) if cursor else None, limit=limit + 1)
        found = trail.actions(self._connection, asked)
        page = found[:limit]
        next_cursor = page[-1].id if len(found) > len(page) else None
        return {"object": "list", "data": [render.action(each) for each in page], "next_cursor": next_cursor}

    def _shown(self, found: Account) -> Document:
        return render.account(found, funds.funds(self._connection, found.id))

    def _expiry(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The end of a key's life by the database's clock, by which it will be checked."""
        if "expires_in_s" not in body:
            return {"expires_at": body["expires_at"]} if "expires_at" in body else {}
        try:
            seconds = timedelta(seconds=body["expires_in_s"])
            return {"expires_at": administration.database_now(self._connection) + seconds}
        except OverflowError:
            raise CommandError(Exit.USAGE, "bad_expiry", "that is past the end of the calendar") from None


def _limits(body: Mapping[str, Any]) -> dict[str, int | None]:
    given = body.get("limits") or {}
    return {column: given[name] for name, column in render.LIMITS.items() if name in given}


def _allowed(body: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """The lists of models and providers that the body has, by the ids of the catalogue."""
    given = [name for name in ("models", "providers") if name in body]
    if not any(body[name] for name in given):
        return {name: body[name] for name in given}
    from providers.catalog.live import LiveCatalog

    catalog = LiveCatalog(settings().catalog_local).current()
    found = administration.allowed_by(catalog, body.get("models"), body.get("providers"))
    return {name: found[name] for name in given}
