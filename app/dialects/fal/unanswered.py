"""Synchronous calls whose answer was not complete: the same call sent again gets their job, once.

fal's clients repeat a call whose connection broke, and name neither an attempt nor a key. An answer that we break off
ourselves, because its 200 has gone out and its job has failed since, and one whose client has left, are noted here.
"""

from __future__ import annotations

from contextlib import suppress

from app.connections import Connections
from core.errors import DatabaseAwayError
from jobs.submission import idempotency
from jobs.submission.idempotency import IdempotencyKey

LIFE_S = 15 * 60


def note(connections: Connections, account_id: str, attempt: bytes, job_id: str) -> None:
    """Note that a call of this job was not answered."""
    with suppress(DatabaseAwayError, idempotency.TakenError):
        connections.transaction(idempotency.claim, account_id, _key(attempt, first=True), job_id)


def take(connections: Connections, account_id: str, attempt: bytes) -> str | None:
    """The job of an equal call that was not answered; None where there is none. Raises DatabaseAwayError."""
    return connections.autocommit(idempotency.take, account_id, _key(attempt))


def _key(attempt: bytes, *, first: bool = False) -> IdempotencyKey:
    """No caller's own key can begin with its first character."""
    return IdempotencyKey(f"\x02fal {attempt.hex()}", attempt, life_s=LIFE_S, first=first)
