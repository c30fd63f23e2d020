"""Accounts, keys, grants and deeds as app/shapes/schemas/accounts.py has them: what the routes answer, and what the
commands next to the database print."""

from __future__ import annotations

from typing import Any

from accounts.accounts import Account
from accounts.keys import KeyInfo
from accounts.trail import Action
from core.wire import rfc3339
from jobs.reads.funds import Funds
from quota.grants import Grant
from quota.prices import credits_text


def account(found: Account, has: Funds) -> dict[str, Any]:
    """app.shapes.schemas.accounts.AccountOut."""
    return {
        "id": found.id,
        "object": "account",
        "name": found.name,
        "weight": found.weight,
        "external_id": found.external_id,
        "created_at": rfc3339(found.created_at),
        "disabled_at": rfc3339(found.disabled_at),
        "limits": _limits(found),
        "balance": balance(has),
    }


def balance(has: Funds) -> dict[str, int]:
    """app.shapes.schemas.accounts.BalanceOut."""
    return {f"{name}_microcredits": getattr(has, name) for name in ("spendable", "available", "queued", "held")}


# The limits of an account or a key, as documents name them, by their columns.
LIMITS = {
    "day_microcredits": "spend_day_limit",
    "month_microcredits": "spend_month_limit",
    "requests_per_minute": "requests_per_minute",
    "in_flight": "max_in_flight",
    "images_per_minute": "images_per_minute",
}


def _limits(row: Account | KeyInfo) -> dict[str, int | None]:
    return {name: getattr(row, column) for name, column in LIMITS.items()}


def key(found: KeyInfo) -> dict[str, Any]:
    """app.shapes.schemas.accounts.KeyOut."""
    return {
        "id": found.id,
        "object": "key",
        "account_id": found.account_id,
        "name": found.name,
        "scopes": list(found.scopes),
        "models": None if found.models is None else list(found.models),
        "providers": None if found.providers is None else list(found.providers),
        "limits": _limits(found),
        "created_at": rfc3339(found.created_at),
        "expires_at": rfc3339(found.expires_at),
        "revoked_at": rfc3339(found.revoked_at),
        "last_used_at": rfc3339(found.last_used_at),
        "previous_until": rfc3339(found.previous_until),
        "paused_at": rfc3339(found.paused_at),
        "pause_reason": found.pause_reason,
    }


def grant(found: Grant) -> dict[str, Any]:
    """app.shapes.schemas.accounts.GrantOut."""
    return {
        "id": found.id,
        "object": "grant",
        "account_id": found.account_id,
        "kind": found.kind,
        "amount_microcredits": found.amount_microcredits,
        "amount": credits_text(found.amount_microcredits),
        "note": found.note,
        "created_at": rfc3339(found.created_at),
    }


def action(found: Action) -> dict[str, Any]:
    """app.shapes.schemas.accounts.ActionOut."""
    return {
        "id": found.id,
        "object": "admin.action",
        "at": rfc3339(found.at),
        "action": found.action,
        "target": found.target,
        "account_id": found.account_id,
        "actor": {
            "name": found.actor,
            "account_id": found.actor_account_id,
            "key_id": found.actor_key_id,
            "address": found.address,
            "request_id": found.request_id,
        },
        "before": found.before,
        "after": found.after,
    }
