"""API keys after they were made: found, listed by pages, changed, and given another secret."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

from accounts.accounts import LIMITS
from accounts.keys import COLUMNS, KeyInfo, NewKey, check_scopes, digest_of, key_info, token_of
from core.errors import ServiceError

CHANGEABLE = ("name", "scopes", "expires_at", "models", "providers", *LIMITS)


class KeyNotFoundError(ServiceError):
    """There is no key of this id."""

    code = "key_not_found"


class KeyEndedError(ServiceError):
    """The key is revoked or has expired: nothing makes it open again."""

    code = "key_ended"


def find_key(connection: Connection, key_id: str, *, lock: bool = False) -> KeyInfo:
    """The key of an id; ``lock`` keeps others from changing it until the transaction ends. Raises KeyNotFoundError."""
    query = f"SELECT {COLUMNS} FROM api_keys WHERE id = :id{' FOR NO KEY UPDATE' if lock else ''}"
    row = connection.execute(text(query), {"id": key_id}).one_or_none()
    if row is None:
        raise KeyNotFoundError(f"there is no key {key_id!r}")
    return key_info(row)


_PAGE = text(f"""
SELECT {COLUMNS} FROM api_keys
WHERE (CAST(:account_id AS text) IS NULL OR account_id = :account_id)
    AND (CAST(:after_id AS text) IS NULL
        OR (created_at, id) > (SELECT k.created_at, k.id FROM api_keys AS k WHERE k.id = :after_id))
ORDER BY created_at, id LIMIT :limit
""")


def key_page(connection: Connection, account_id: str | None, *, after_id: str | None, limit: int) -> list[KeyInfo]:
    """At most ``limit`` keys of an account, or of all, oldest first: those behind the key ``after_id``."""
    values = {"account_id": account_id, "after_id": after_id, "limit": limit}
    return [key_info(row) for row in connection.execute(_PAGE, values)]


_CHANGE = text(f"""
UPDATE api_keys SET name = :name, scopes = :scopes, expires_at = :expires_at, models = :models, providers = :providers,
    {", ".join(f"{name} = :{name}" for name in LIMITS)}
WHERE id = :id RETURNING {COLUMNS}
""")


def change_key(connection: Connection, key_id: str, changes: Mapping[str, Any]) -> tuple[KeyInfo, KeyInfo]:
    """Set columns of ``CHANGEABLE``; the key before and after. Processes know the old ones for up to ``CACHE_S``.

    Raises KeyNotFoundError, KeyEndedError for a revoked key, ValueError for an unknown scope.
    """
    before = find_key(connection, key_id, lock=True)
    if before.revoked_at:
        raise KeyEndedError(f"the key {key_id} is revoked")
    values = {name: changes.get(name, getattr(before, name)) for name in CHANGEABLE}
    check_scopes(values["scopes"])
    for name in ("scopes", "models", "providers"):
        values[name] = None if values[name] is None else sorted(values[name])
    return before, key_info(connection.execute(_CHANGE, {**values, "id": key_id}).one())


_ROTATE = text(f"""
UPDATE api_keys SET secret_sha256 = :digest,
    previous_sha256 = CASE WHEN :overlap_s > 0 THEN secret_sha256 END,
    previous_until = CASE WHEN :overlap_s > 0 THEN clock_timestamp() + make_interval(secs => :overlap_s) END
WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING {COLUMNS}
""")


def rotate_key(connection: Connection, key_id: str, *, overlap_s: int) -> tuple[KeyInfo, KeyInfo, NewKey]:
    """Give a key another secret under the same id; the one before opens as well for ``overlap_s`` seconds more.

    Returns the key before and after, and the new token. A secret that was replaced before that stops at once.
    Raises KeyNotFoundError, KeyEndedError.
    """
    before = find_key(connection, key_id, lock=True)
    secret = secrets.token_urlsafe(32)
    values = {"id": key_id, "digest": digest_of(secret), "overlap_s": float(overlap_s)}
    row = connection.execute(_ROTATE, values).one_or_none()
    if row is None:
        raise KeyEndedError(f"the key {key_id} is revoked or has expired")
    return before, key_info(row), NewKey(key_id, token_of(key_id, secret))
