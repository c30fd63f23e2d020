"""The attempts of an SDK that counts its retries and sends no key: a retry joins its own first attempt, and only that.

The OpenAI SDKs number their attempts (``x-stainless-retry-count``). Attempt 0 is always a job of its own, since two
equal orders are two orders. Attempt r joins one job of the same fingerprint whose last attempt was r - 1, that is not
too old and whose answer did not get out completely; the row moves to r in the same statement, so that a second caller
with the same order finds another job or makes one (docs/api-conventions.md section 2). Attempts that never arrived,
because no web process listened, leave a gap in the count: without a job at r - 1, the nearest before it is joined.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

# The SDKs give up an answer after 600 s and repeat at most twice, seconds apart.
WINDOW_S = 15 * 60


@dataclass(frozen=True, slots=True)
class SdkAttempt:
    """``fingerprint``: a digest of who asks from where, of the route and of the body. ``retry_count``: 0 is the first
    attempt."""

    fingerprint: bytes
    retry_count: int


# SKIP LOCKED: of two retries at the same moment each takes a job of its own.
_JOIN = text("""
UPDATE sdk_attempts SET retry_count = :retry_count
WHERE job_id = (
    SELECT job_id FROM sdk_attempts
    WHERE fingerprint = :fingerprint AND retry_count < :retry_count AND NOT answered
        AND account_id = :account_id AND created_at >= statement_timestamp() - make_interval(secs => :window_s)
    ORDER BY retry_count DESC, created_at, job_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING job_id
""")

_NOTE = text("""
INSERT INTO sdk_attempts (job_id, account_id, fingerprint, retry_count)
VALUES (:job_id, :account_id, :fingerprint, :retry_count)
""")

_ANSWERED = text("UPDATE sdk_attempts SET answered = true WHERE job_id = :job_id")


def join(connection: Connection, account_id: str, attempt: SdkAttempt) -> str | None:
    """The job that a retry continues, which is this retry's from now on; None: the order is a new one."""
    if attempt.retry_count == 0:
        return None
    found: str | None = connection.execute(
        _JOIN,
        {
            "account_id": account_id,
            "fingerprint": attempt.fingerprint,
            "retry_count": attempt.retry_count,
            "window_s": WINDOW_S,
        },
    ).scalar_one_or_none()
    return found


def note(connection: Connection, account_id: str, attempt: SdkAttempt, job_id: str) -> None:
    """Write down which attempt makes a job, in the transaction of its submit."""
    connection.execute(
        _NOTE,
        {
            "job_id": job_id,
            "account_id": account_id,
            "fingerprint": attempt.fingerprint,
            "retry_count": attempt.retry_count,
        },
    )


def answered(connection: Connection, job_id: str) -> None:
    """The job's answer went out to its last byte: no retry joins it. Does nothing for a job without attempts."""
    connection.execute(_ANSWERED, {"job_id": job_id})
