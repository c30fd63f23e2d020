"""The trail of what administrators did: who by which key and from where, what, and how it was before and after.

An entry is written in the transaction of the deed: there is no deed without one, and none of a deed that was rolled
back. Entries hold no secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something. ``name``: of the account, or of the system's user at the command line, who has no key."""

    name: str
    account_id: str | None = None
    key_id: str | None = None
    address: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One entry. ``target``: the id of what it was done to; ``account_id``: the account that it concerns."""

    id: int
    at: datetime
    actor: str
    actor_account_id: str | None
    actor_key_id: str | None
    address: str
    request_id: str
    action: str
    target: str
    account_id: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ActionFilters:
    """All that is given must hold; ``before_id``: entries before that one."""

    action: str | None = None
    target: str | None = None
    account_id: str | None = None
    key_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before_id: int | None = None
    limit: int = 50


_RECORD = text("""
INSERT INTO admin_actions (actor, actor_account_id, actor_key_id, address, request_id, action, target, account_id,
    before, after)
VALUES (:actor, :actor_account_id, :actor_key_id, :address, :request_id, :action, :target, :account_id,
    CAST(:before AS jsonb), CAST(:after AS jsonb))
""")


def record(
    connection: Connection,
    actor: Actor,
    action: str,
    target: str,
    *,
    account_id: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write an entry in the caller's transaction. ``before`` and ``after`` are what changed, ready for JSON."""
    connection.execute(
        _RECORD,
        {
            "actor": actor.name,
            "actor_account_id": actor.account_id,
            "actor_key_id": actor.key_id,
            "address": actor.address,
            "request_id": actor.request_id,
            "action": action,
            "target": target,
            "account_id": account_id,
            "before": None if before is None else json.dumps(before),
            "after": None if after is None else json.dumps(after),
        },
    )


_ACTIONS = text("""
SELECT id, at, actor, actor_account_id, actor_key_id, address, request_id, action, target, account_id, before, after
FROM admin_actions
WHERE (CAST(:before_id AS bigint) IS NULL OR id < :before_id)
    AND (CAST(:action AS text) IS NULL OR action = :action)
    AND (CAST(:target AS text) IS NULL OR target = :target)
    AND (CAST(:account_id AS text) IS NULL OR account_id = :account_id)
    AND (CAST(:key_id AS text) IS NULL OR actor_key_id = :key_id)
    AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)
    AND (CAST(:until AS timestamptz) IS NULL OR at < :until)
ORDER BY id DESC LIMIT :limit
""")


def actions(connection: Connection, filters: ActionFilters) -> list[Action]:
    """Entries, newest first."""
    values = {name: getattr(filters, name) for name in ActionFilters.__slots__}
    return [Action(**row._mapping) for row in connection.execute(_ACTIONS, values)]


_DELETE_OLD = text("""
WITH old AS MATERIALIZED (
    SELECT id FROM admin_actions WHERE at < statement_timestamp() - make_interval(secs => :keep_s)
    ORDER BY at LIMIT :page FOR UPDATE SKIP LOCKED
)
DELETE FROM admin_actions WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING 1
""")


def delete_old(connection: Connection, *, keep_s: float, size: int) -> int:
    """Delete at most ``size`` entries that are older than that; how many."""
    return len(connection.execute(_DELETE_OLD, {"keep_s": keep_s, "page": size}).all())
