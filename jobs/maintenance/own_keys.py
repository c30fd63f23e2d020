"""Deleted own keys: the jobs that wait for one are ended, the key is forgotten, and then its rows go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from core.db import Hot, Statement
from jobs.dispatch import own_keys

PAGE = 50

CLOSING = Statement("""
SELECT credential_id, sealed IS NOT NULL AS sealed FROM own_keys WHERE deleted_at IS NOT NULL
ORDER BY deleted_at LIMIT CAST(:page AS int)
""")

# The jobs that wait for the key of an account that has deleted its last one at the provider.
KEYLESS = Statement("""
SELECT j.id, j.account_id
FROM (SELECT DISTINCT account_id, provider FROM own_keys WHERE deleted_at IS NOT NULL LIMIT CAST(:page AS int)) AS k
JOIN jobs AS j ON j.account_id = k.account_id AND j.provider = k.provider AND j.status = 'queued' AND j.own_key
WHERE NOT EXISTS (
    SELECT 1 FROM own_keys AS now
    WHERE now.account_id = k.account_id AND now.provider = k.provider AND now.deleted_at IS NULL
)
LIMIT CAST(:page AS int)
""")


def keyless(hot: Hot, *, page: int) -> Sequence[Any]:
    """Return (id, account_id) of a page of queued jobs whose key is gone."""
    return hot.all(KEYLESS, {"page": page})


# Not while a call of it is open, or its outcome would release a permit that is no longer there.
_CLOSE = text("""
WITH closed AS (
    DELETE FROM own_keys AS k
    WHERE k.credential_id = :credential_id AND k.deleted_at < statement_timestamp() - interval '1 minute'
        AND k.sealed IS NULL
        AND NOT EXISTS (
            SELECT 1 FROM upstream_calls AS u
            WHERE u.credential_id = k.credential_id AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain'))
        )
        AND (
            EXISTS (
                SELECT 1 FROM own_keys AS now
                WHERE now.account_id = k.account_id AND now.provider = k.provider AND now.deleted_at IS NULL
            )
            OR NOT EXISTS (
                SELECT 1 FROM jobs AS j
                WHERE j.account_id = k.account_id AND j.provider = k.provider AND j.status = 'queued' AND j.own_key
            )
        )
    RETURNING k.credential_id AS id
),
permits_gone AS (DELETE FROM permits USING closed WHERE permits.credential_id = closed.id),
tokens_gone AS (DELETE FROM submit_tokens USING closed WHERE submit_tokens.credential_id = closed.id)
DELETE FROM credentials USING closed WHERE credentials.id = closed.id
""")


def close(connection: Connection) -> int:
    """Forget deleted keys that no open call needs, and delete the rows of those that nothing waits for.

    Works on one page. Returns how many keys were forgotten. Each statement is a transaction of its own.
    """
    forgotten = 0
    for row in Hot.of(connection).all(CLOSING, {"page": PAGE}):
        if row.sealed:
            forgotten += own_keys.wipe(connection, row.credential_id)
        else:
            connection.execute(_CLOSE, {"credential_id": row.credential_id})
    return forgotten
