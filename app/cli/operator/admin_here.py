"""What administrators do, next to the database: without a key, in the caller's transaction."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from accounts import accounts, keys, trail
from accounts.accounts import Account
from accounts.trail import Actor
from app import abuse, administration, provider_keys
from app import admin_documents as render
from app.cli.client.answers import Document
from app.cli.here import settings
from app.cli.output import CommandError, Exit
from core.sealing import Sealer, sealer_of
from jobs.abuse import events, rules
from jobs.abuse.rules import Rule
from jobs.dispatch import own_keys
from jobs.reads import funds
from webhooks import operator


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

    def pause_key(self, key_id: str, reason: str) -> Document:
        return render.key(administration.pause_key(self._connection, actor(), key_id, reason))

    def resume_key(self, key_id: str) -> Document:
        return render.key(administration.resume_key(self._connection, actor(), key_id))

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

    def provider_keys(self, account: str | None) -> list[Document]:
        owner = accounts.find_account(self._connection, account).id if account else None
        return [provider_keys.shown(each) for each in own_keys.keys(self._connection, owner)]

    def store_provider_key(self, account: str, provider: str, body: Mapping[str, Any]) -> Document:
        from app.cli.operator.upstreams import environment
        from providers.catalog.live import LiveCatalog
        from providers.configured import configured_names

        if body.get("check"):
            hint = "Give --server and --key: a server asks the provider."
            raise CommandError(Exit.USAGE, "check_needs_server", "next to the database no provider is asked", hint=hint)
        sealer = _sealer()
        configured = frozenset(configured_names(environment(os.environ, settings())))
        catalog = LiveCatalog(settings().catalog_local).current()
        key = provider_keys.check(catalog, configured, provider, body["key"])
        owner = accounts.find_account(self._connection, account).id
        limits = body.get("limits") or {}
        found, _ = provider_keys.store(self._connection, actor(), owner, provider, key, sealer=sealer, changes=limits)
        return provider_keys.shown(found)

    def change_provider_key(self, account: str, provider: str, body: Mapping[str, Any]) -> Document:
        owner = accounts.find_account(self._connection, account).id
        found = own_keys.find(self._connection, owner, provider)
        if limits := body.get("limits"):
            found = provider_keys.change_limits(self._connection, actor(), owner, provider, limits)
        if (paused := body.get("paused")) is not None:
            found = provider_keys.set_pause(
                self._connection, actor(), owner, provider, paused=paused, reason=body.get("reason", "")
            )
        return provider_keys.shown(found)

    def delete_provider_key(self, account: str, provider: str) -> None:
        owner = accounts.find_account(self._connection, account).id
        provider_keys.delete(self._connection, actor(), owner, provider)

    def rotate_provider_keys(self) -> Document:
        done = provider_keys.reseal(self._connection, actor(), _sealer())
        return {"object": "provider_keys.rotation", "sealed": done.sealed, "broken": list(done.broken)}

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

    def abuse_rules(self, account: str | None) -> list[Document]:
        return abuse.rules_of(self._connection, _rules(), account)

    def change_rule(self, rule: str, body: Mapping[str, Any]) -> Document:
        changes = {name: value for name, value in body.items() if name != "account"}
        return abuse.change_rule(self._connection, actor(), _rules(), rule, body["account"], changes)

    def reset_rule(self, rule: str, account: str) -> Document:
        return abuse.reset_rule(self._connection, actor(), _rules(), rule, account)

    def abuse_events(self, filters: Mapping[str, Any]) -> Document:
        given = {name: value for name, value in filters.items() if value is not None}
        limit = int(given.pop("limit", 50))
        if "account" in given:
            given["account_id"] = accounts.find_account(self._connection, given.pop("account")).id
        found = events.events(self._connection, events.Filters(**given, limit=limit + 1))
        page = found[:limit]
        next_cursor = page[-1].id if len(found) > len(page) else None
        return {"object": "list", "data": [events.document(each) for each in page], "next_cursor": next_cursor}

    def send_operator_test(self) -> Document:
        return abuse.send_test(self._connection, operator.targets_of(settings().operator_webhooks))

    def acknowledge(self, event_id: str, note: str) -> Document:
        return events.document(abuse.acknowledge(self._connection, actor(), event_id, note))

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


def _rules() -> Mapping[str, Rule]:
    try:
        return rules.load(settings().abuse_rules)
    except rules.RulesError as error:
        raise CommandError(Exit.USAGE, "bad_settings", f"DARKROOM_ABUSE_RULES: {error}") from error


def _sealer() -> Sealer:
    """What seals own keys, of this machine's settings. Raises CommandError, ProviderKeysOffError."""
    try:
        return provider_keys.needed(sealer_of(settings().own_keys_secret, "DARKROOM_OWN_KEYS_SECRET"))
    except ValueError as error:
        raise CommandError(Exit.USAGE, "bad_settings", str(error)) from None


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
