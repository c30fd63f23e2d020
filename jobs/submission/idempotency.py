"""Idempotency keys: the same order sent twice is one job. Unique per account, kept 24 hours.

The OpenAI SDKs send no key, but they count their own retries (``x-stainless-retry-count``). Such an attempt gets a key
made of the API key and the body. A first attempt takes the key over, since two equal orders are two orders; a retry
within a short window joins it (docs/api-conventions.md section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from jobs.errors import IdempotencyMismatchError

LIFE_S = 24 * 3600
# The SDKs give up an answer after 600 s and repeat at most twice, seconds apart.
SDK_WINDOW_S = 20 * 60


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The caller's key, and a hash over method, route and body (parsed parts for multipart).

    ``first``: this attempt is known to be no retry, and takes the key over.
    """

    key: str
    fingerprint: bytes
    life_s: int = LIFE_S
    first: bool = False


def of_sdk_attempt(key_id: str, fingerprint: bytes, retry_count: int) -> IdempotencyKey:
    """The key of an SDK's attempt. No caller's own key can begin with its first character."""
    return IdempotencyKey(
        f"\x01sdk {key_id} {fingerprint.hex()}", fingerprint, life_s=SDK_WINDOW_S, first=retry_count == 0
    )


class TakenError(Exception):
    """Another submit with this key was first."""


_CLAIM = text("""
INSERT INTO idempotency_keys (account_id, key, fingerprint, job_id)
VALUES (:account_id, :key, :fingerprint, :job_id)
ON CONFLICT (account_id, key) DO UPDATE
    SET fingerprint = :fingerprint, job_id = :job_id, created_at = clock_timestamp()
    WHERE :first OR idempotency_keys.created_at < statement_timestamp() - make_interval(secs => :life_s)
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
            "first": key.first,
        },
    ).one_or_none()
    if row is None:
        raise TakenError(key.key)


def find(connection: Connection, account_id: str, key: IdempotencyKey) -> str | None:
    """The job an earlier submit with this key made. Raises IdempotencyMismatchError for another body."""
    if key.first:
        return None
    row = connection.execute(_FIND, {"account_id": account_id, "key": key.key, "life_s": key.life_s}).one_or_none()
    if row is None:
        return None
    if bytes(row.fingerprint) != key.fingerprint:
        raise IdempotencyMismatchError("this Idempotency-Key was used with another request")
    return str(row.job_id)
