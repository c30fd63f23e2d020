"""Callback URLs at which an upstream may report that a call is done.

A report is only a hint: it makes the job due now, and the upstream is then asked for the call's state. Each call
has its own URL with an unforgeable token. The key of the tokens is in the database, so every worker can make a
token and every web process can check it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from functools import cached_property

from sqlalchemy import Connection

from core import key_values
from core.db import Database, Hot, Statement
from jobs import states
from jobs.states import Nudge

PATH = "/hooks"
_KEY_NAME = "callback_key"
_UPSTREAM_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Callbacks:
    """Makes and checks callback URLs. ``public_url`` None: callbacks are off, and jobs are only polled."""

    def __init__(self, database: Database, public_url: str | None) -> None:
        self._database = database
        self._base = (public_url or "").rstrip("/")

    def __repr__(self) -> str:
        return f"Callbacks({self._base or 'off'})"

    def url(self, provider: str, call_id: str) -> str | None:
        """Return the URL at which a provider may report on a call, or None if off. Raises DatabaseAwayError."""
        if not self._base:
            return None
        return f"{self._base}{PATH}/{provider}/{call_id}/{self._token(provider, call_id)}"

    def knows(self, provider: str, call_id: str, token: str) -> bool:
        """Return whether the token is the call's, compared in constant time. Raises DatabaseAwayError."""
        if not self._base:
            return False
        return hmac.compare_digest(self._token(provider, call_id).encode(), token.encode("utf-8", "replace"))

    def _token(self, provider: str, call_id: str) -> str:
        message = f"{provider}\n{call_id}".encode("utf-8", "replace")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:40]

    @cached_property
    def _key(self) -> bytes:
        with self._database.transaction() as connection:
            return bytes.fromhex(key_values.put_if_absent(connection, _KEY_NAME, secrets.token_hex(32)))


HEARD = Statement("""
WITH seen AS (
    -- The job is locked before its call, as everywhere: a step that writes the call's answer holds the job's lock.
    SELECT id, due_at > clock_timestamp() AS early FROM jobs
    WHERE status = 'waiting'
        AND id = (SELECT job_id FROM upstream_calls WHERE id = :id AND outcome IN ('accepted', 'uncertain'))
    FOR UPDATE
),
named AS (
    UPDATE upstream_calls SET upstream_id = CAST(:upstream_id AS text)
    FROM seen
    WHERE upstream_calls.id = :id AND upstream_calls.job_id = seen.id AND outcome = 'uncertain'
        AND upstream_calls.upstream_id IS NULL AND CAST(:upstream_id AS text) IS NOT NULL
    RETURNING upstream_calls.job_id
)
UPDATE jobs
SET due_at = least(jobs.due_at, clock_timestamp()),
    version = jobs.version + CASE WHEN EXISTS (SELECT 1 FROM named) THEN 1 ELSE 0 END
FROM seen WHERE jobs.id = seen.id AND (seen.early OR EXISTS (SELECT 1 FROM named))
RETURNING jobs.provider
""")


def heard(connection: Connection, call_id: str, upstream_id: object) -> list[Nudge]:
    """Make a call's job due now, because its upstream has reported on the call. Returns the poll to publish.

    If the answer to the call was lost, the upstream's id is stored so that the next status check can use it. A
    repeated or late report, or one about an ended job, changes nothing.
    """
    valid_id = upstream_id if isinstance(upstream_id, str) and _UPSTREAM_ID.fullmatch(upstream_id) else None
    row = Hot.of(connection).one_or_none(HEARD, {"id": call_id, "upstream_id": valid_id})
    return [states.poll(row.provider)] if row else []
