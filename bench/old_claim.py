"""How jobs were claimed before: three round trips in one transaction that holds a row which all share.

Kept as the baseline of ``bench.convoy``, with its own counter and balance, which the service no longer has.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from core.db import Database
from core.ids import new_id

TABLES = (
    "CREATE TABLE bench_credentials (id text PRIMARY KEY, active int NOT NULL DEFAULT 0)",
    "CREATE TABLE bench_balances (account_id text PRIMARY KEY, queued bigint NOT NULL, held bigint NOT NULL)",
)

CLAIM = """
WITH job AS (
    UPDATE jobs
    SET status = 'running', version = version + 1, fence = fence + 1, attempt = attempt + 1, owner = 'bench',
        money = 'held', step_deadline_at = clock_timestamp() + interval '2 minutes', started_at = clock_timestamp()
    WHERE id = :id AND status = 'queued' AND due_at <= clock_timestamp() AND start_deadline_at > clock_timestamp()
    RETURNING id, account_id, quoted
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'started', jsonb_build_object('held_microcredits', quoted) FROM job
)
SELECT account_id, quoted FROM job
"""

INTEND = """
WITH permit AS (
    UPDATE bench_credentials SET active = active + 1 WHERE id = :credential_id RETURNING id
)
INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,
    give_up_at)
SELECT :call_id, :id, 0, 1, 1, 'bench', 'bench', permit.id, 'http://127.0.0.1', :call_id,
    clock_timestamp() + interval '12 minutes'
FROM permit
"""

HOLD = """
WITH held AS (
    UPDATE bench_balances SET queued = queued - :quoted, held = held + :quoted
    WHERE account_id = :account_id RETURNING account_id
)
INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
SELECT account_id, :id, 'hold', 'acct:available', 'acct:held', :quoted FROM held
"""


def prepare(connection: Connection, account_id: str, credential_id: str, credits_: int) -> None:
    for table in TABLES:
        connection.execute(text(table))
    connection.execute(text("INSERT INTO bench_credentials (id) VALUES (:id)"), {"id": credential_id})
    connection.execute(
        text("INSERT INTO bench_balances (account_id, queued, held) VALUES (:id, :credits, 0)"),
        {"id": account_id, "credits": credits_},
    )


def claim(database: Database, job_id: str, credential_id: str) -> None:
    """Raises DatabaseBusyError and DatabaseAwayError when the row that all share does not come free in time."""
    with database.transaction() as connection:
        job = connection.execute(text(CLAIM), {"id": job_id}).one()
        connection.execute(text(INTEND), {"id": job_id, "credential_id": credential_id, "call_id": new_id("call")})
        connection.execute(text(HOLD), {"id": job_id, "account_id": job.account_id, "quoted": job.quoted})
