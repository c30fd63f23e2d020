"""Pausing a key: it opens nothing until it is let on. What was accepted with it goes on."""

from __future__ import annotations

from sqlalchemy import Connection, text

from accounts.key_changes import KeyEndedError, find_key
from accounts.keys import COLUMNS, KeyInfo, key_info
from core.errors import ServiceError

MAX_REASON_CHARS = 500
# Pauses go one after the other, so that two of them cannot take each other's key for the one that is left.
_LOCK = 7_216_050_024


class LastAdminKeyError(ServiceError):
    """No other key with the scope admin opens: paused, it could not be let on from outside."""

    code = "last_admin_key"


_TAKE_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_OTHER_ADMIN = text("""
SELECT 1 FROM api_keys AS k JOIN accounts AS a ON a.id = k.account_id
WHERE 'admin' = ANY(k.scopes) AND k.id <> :id AND k.revoked_at IS NULL AND k.paused_at IS NULL
    AND a.disabled_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
LIMIT 1
""")
_PAUSE = text(f"""
UPDATE api_keys SET paused_at = coalesce(paused_at, clock_timestamp()), pause_reason = coalesce(pause_reason, :reason)
WHERE id = :id RETURNING {COLUMNS}
""")
_RESUME = text(f"UPDATE api_keys SET paused_at = NULL, pause_reason = NULL WHERE id = :id RETURNING {COLUMNS}")


def pause_key(connection: Connection, key_id: str, reason: str) -> tuple[KeyInfo, KeyInfo]:
    """Pause a key; the key before and after, which are alike where it was paused. Processes accept it for up to
    ``accounts.keys.CACHE_S`` seconds more.

    Must run in a transaction. Raises KeyNotFoundError, KeyEndedError for a revoked key, LastAdminKeyError.
    """
    connection.execute(_TAKE_LOCK, {"lock": _LOCK})
    before = find_key(connection, key_id, lock=True)
    if before.revoked_at:
        raise KeyEndedError(f"the key {key_id} is revoked")
    if before.paused_at:
        return before, before
    if "admin" in before.scopes and connection.execute(_OTHER_ADMIN, {"id": key_id}).one_or_none() is None:
        raise LastAdminKeyError(f"no other key with the scope admin opens than {key_id}")
    row = connection.execute(_PAUSE, {"id": key_id, "reason": reason[:MAX_REASON_CHARS]}).one()
    return before, key_info(row)


def resume_key(connection: Connection, key_id: str) -> tuple[KeyInfo, KeyInfo]:
    """Let a key on; the key before and after, which are alike where it was not paused. Raises KeyNotFoundError."""
    before = find_key(connection, key_id, lock=True)
    if before.paused_at is None:
        return before, before
    return before, key_info(connection.execute(_RESUME, {"id": key_id}).one())
