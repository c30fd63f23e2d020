"""Calls whose answer was not complete: an equal call sent again gets their job, once.

The rows are those of idempotency keys, under keys that no caller can send, and go with them.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_NOTE = text("""
INSERT INTO idempotency_keys (account_id, key, fingerprint, job_id)
VALUES (:account_id, :key, :fingerprint, :job_id)
ON CONFLICT (account_id, key) DO UPDATE SET job_id = :job_id, created_at = clock_timestamp()
""")
_TAKE = text("""
DELETE FROM idempotency_keys
WHERE account_id = :account_id AND key = :key
    AND created_at >= statement_timestamp() - make_interval(secs => :life_s)
RETURNING job_id
""")


def note(connection: Connection, account_id: str, attempt: bytes, job_id: str) -> None:
    """Note that a call was not answered; ``attempt`` is a digest of all that makes two calls equal."""
    values = {"account_id": account_id, "key": _key(attempt), "fingerprint": attempt, "job_id": job_id}
    connection.execute(_NOTE, values)


def take(connection: Connection, account_id: str, attempt: bytes, *, life_s: int) -> str | None:
    """The job of an equal call that was not answered within the last ``life_s`` seconds; None where there is none."""
    values = {"account_id": account_id, "key": _key(attempt), "life_s": life_s}
    row = connection.execute(_TAKE, values).one_or_none()
    return str(row.job_id) if row else None


def _key(attempt: bytes) -> str:
    """A caller's own key cannot begin with its first character."""
    return f"\x02unanswered {attempt.hex()}"
