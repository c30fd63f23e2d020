"""Idempotency keys: the same order sent twice is one job. Unique per account, kept 24 hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from jobs.errors import IdempotencyMismatchError

LIFE_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The caller's key, and a hash over method, route and body (parsed parts for multipart)."""

    key: str
    fingerprint: bytes
    life_s: int = LIFE_S


class TakenError(Exception):
    """Another submit with this key was first."""


_CLAIM = text("""
INSERT INTO idempotency_keys (account_id, key, fingerprint, job_id)
VALUES (:account_id, :key, :fingerprint, :job_id)
ON CONFLICT (account_id, key) DO UPDATE
    SET fingerprint = :fingerprint, job_id = :job_id, created_at = clock_timestamp()
    WHERE idempotency_keys.created_at < statement_timestamp() - make_interval(secs => :life_s)
RETURNING 1
""")

_FIND = text("""
SELECT job_id, fingerprint FROM idempotency_keys
WHERE account_id = :account_id AND key = :key
    AND created_at >= statement_timestamp() - make_interval(secs => :life_s)
""")


def claim(connection: Connection, account_id: str, key: IdempotencyKey, job_id: str) -> None:
    """Take the key for a job about to be inserted, as the first statement of its transaction.

    Of concurrent submits the first wins, and the others wait here for its commit. Raises TakenError.
    """
    row = connection.execute(
        _CLAIM,
        {
            "account_id": account_id,
            "key": key.key,
            "fingerprint": key.fingerprint,
            "job_id": job_id,
            "life_s": key.life_s,
        },
    ).one_or_none()
    if row is None:
        raise TakenError(key.key)


def find(connection: Connection, account_id: str, key: IdempotencyKey) -> str | None:
    """The job an earlier submit with this key made. Raises IdempotencyMismatchError for another body."""
    row = connection.execute(_FIND, {"account_id": account_id, "key": key.key, "life_s": key.life_s}).one_or_none()
    if row is None:
        return None
    if bytes(row.fingerprint) != key.fingerprint:
        raise IdempotencyMismatchError("this Idempotency-Key was used with another request")
    return str(row.job_id)


_JOBS_OF = text("""
SELECT key, job_id FROM idempotency_keys
WHERE account_id = :account_id AND key = ANY(CAST(:keys AS text[]))
    AND created_at >= statement_timestamp() - make_interval(secs => :life_s)
""")


def jobs_of(connection: Connection, account_id: str, keys: Sequence[str]) -> dict[str, str]:
    """The jobs that submits with these keys have made, by key; keys that are not known are left out."""
    rows = connection.execute(_JOBS_OF, {"account_id": account_id, "keys": list(keys), "life_s": LIFE_S})
    return {row.key: row.job_id for row in rows}
