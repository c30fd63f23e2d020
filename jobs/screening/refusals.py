"""Refusals as rows, for the rules that count them: who was refused what, when. No text of a caller is kept."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

_RECORD = text("""
INSERT INTO screening_refusals (account_id, key_id, screen, category, prompt_sha256)
VALUES (:account_id, :key_id, :screen, :category, :prompt_sha256)
""")


def record_refusal(
    connection: Connection,
    account_id: str,
    key_id: str | None,
    category: str,
    *,
    screen: str = "",
    prompt_sha256: str | None = None,
) -> None:
    """Write a refusal down. ``key_id``: as of Caller; ``prompt_sha256``: in hex, of the prompt as it was sent."""
    connection.execute(
        _RECORD,
        {
            "account_id": account_id,
            "key_id": key_id or None,
            "screen": screen,
            "category": category,
            "prompt_sha256": prompt_sha256,
        },
    )


_COUNT = text("""
SELECT count(*) FROM screening_refusals
WHERE account_id = :account_id AND (CAST(:key_id AS text) IS NULL OR key_id = :key_id)
    AND at > statement_timestamp() - make_interval(secs => :since_s)
""")


def refusals_of(connection: Connection, account_id: str, *, key_id: str | None = None, since_s: float) -> int:
    """How often an account, or one key of it, was refused within the last ``since_s`` seconds."""
    values = {"account_id": account_id, "key_id": key_id, "since_s": since_s}
    return int(connection.execute(_COUNT, values).scalar_one())


@dataclass(frozen=True, slots=True)
class Refused:
    """How often a key of an account was refused; ``key_id`` None: by a caller without a key."""

    account_id: str
    key_id: str | None
    refusals: int


_LATELY = text("""
SELECT account_id, key_id, count(*) AS refusals FROM screening_refusals
WHERE at > statement_timestamp() - make_interval(secs => :since_s)
GROUP BY account_id, key_id HAVING count(*) >= :least ORDER BY account_id, key_id
""")


def refused_lately(connection: Connection, *, since_s: float, least: int = 1) -> list[Refused]:
    """The accounts and keys that were refused ``least`` times or more within the last ``since_s`` seconds."""
    return [Refused(*row) for row in connection.execute(_LATELY, {"since_s": since_s, "least": least})]


_DELETE_OLD = text("""
WITH old AS MATERIALIZED (
    SELECT id FROM screening_refusals WHERE at < statement_timestamp() - make_interval(secs => :keep_s)
    ORDER BY at LIMIT :page FOR UPDATE SKIP LOCKED
)
DELETE FROM screening_refusals WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING 1
""")


def delete_old(connection: Connection, *, keep_s: float, size: int) -> int:
    """Delete at most ``size`` refusals that are older than that; how many."""
    return len(connection.execute(_DELETE_OLD, {"keep_s": keep_s, "page": size}).all())
