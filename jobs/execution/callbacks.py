"""Callback URLs at which an upstream may report that a call is done.

A report is a hint: it makes the job due now, and a look at the upstream says what is true. Each call
has its own address, with a token that no one else can make; the key to the tokens lies in the database,
so that every worker makes them and every web process knows them.
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
    """Makes and checks addresses. ``public_url`` None: there are none, and every look is a poll."""

    def __init__(self, database: Database, public_url: str | None) -> None:
        self._database = database
        self._base = (public_url or "").rstrip("/")

    def __repr__(self) -> str:
        return f"Callbacks({self._base or 'off'})"

    def url(self, provider: str, call_id: str) -> str | None:
        """Where a provider may report on a call; None while switched off. Raises DatabaseAwayError."""
        if not self._base:
            return None
        return f"{self._base}{PATH}/{provider}/{call_id}/{self._token(provider, call_id)}"

    def knows(self, provider: str, call_id: str, token: str) -> bool:
        """Whether we made this address; in constant time. Raises DatabaseAwayError."""
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
    -- The job first, as everywhere: an answer that is being written has locked it, and waits for no one.
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
    """An upstream has said something about a call: its job is due now.

    The upstream's own id is taken down for a call whose answer was lost: it is how the next look can
    ask. Saying it again, late, or of a job that has ended changes nothing.
    """
    told = upstream_id if isinstance(upstream_id, str) and _UPSTREAM_ID.fullmatch(upstream_id) else None
    row = Hot.of(connection).one_or_none(HEARD, {"id": call_id, "upstream_id": told})
    return [states.poll(row.provider)] if row else []
