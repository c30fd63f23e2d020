"""What accounts have in place of the installation's rules. Every function runs in the caller's transaction."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

MAX_READ = 100_000

_ALL = text("""
SELECT account_id, rule, changes FROM abuse_overrides
WHERE CAST(:account_id AS text) IS NULL OR account_id = :account_id
ORDER BY account_id, rule LIMIT :most
""")
_PUT = text("""
INSERT INTO abuse_overrides (account_id, rule, changes) VALUES (:account_id, :rule, CAST(:changes AS jsonb))
ON CONFLICT (account_id, rule) DO UPDATE SET changes = excluded.changes, updated_at = clock_timestamp()
""")
_FIND = text("SELECT changes FROM abuse_overrides WHERE account_id = :account_id AND rule = :rule FOR UPDATE")
_DELETE = text("DELETE FROM abuse_overrides WHERE account_id = :account_id AND rule = :rule")


def overrides(connection: Connection, account_id: str | None = None) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Changes by account and name of the rule; of one account, or of all."""
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in connection.execute(_ALL, {"account_id": account_id, "most": MAX_READ}):
        found[row.account_id][row.rule] = row.changes
    return dict(found)


def find_override(connection: Connection, account_id: str, rule: str) -> Mapping[str, Any] | None:
    """What an account has in place of a rule, locked; None: nothing."""
    row = connection.execute(_FIND, {"account_id": account_id, "rule": rule}).one_or_none()
    return None if row is None else row.changes


def put_override(connection: Connection, account_id: str, rule: str, changes: Mapping[str, Any]) -> None:
    """Have these members hold for the account in place of the rule's; they have been checked."""
    connection.execute(_PUT, {"account_id": account_id, "rule": rule, "changes": json.dumps(dict(changes))})


def delete_override(connection: Connection, account_id: str, rule: str) -> None:
    """Let the rule of the installation hold for the account again."""
    connection.execute(_DELETE, {"account_id": account_id, "rule": rule})
