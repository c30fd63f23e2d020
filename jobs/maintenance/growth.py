"""Tables that have grown are analysed within seconds, which drops the plans made while they were small.

Autovacuum does the same after a minute or so. Until then each verb would read a whole table that had a few rows when
its statement was planned and has a million now.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from core.db import Hot, Statement

# A table counts as grown when so many rows have changed, and as many as there were. Not sooner: afterwards every
# connection plans its statements again.
ROWS = 2_000
TABLES = (
    *("jobs", "orders", "inputs", "upstream_calls", "images", "job_events", "transfers", "idempotency_keys"),
    *("call_answers", "sdk_attempts", "uploads", "upload_names", "webhook_messages", "usage_sums"),
)

GROWN = Statement("""
SELECT s.relname AS name FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
WHERE s.schemaname = current_schema() AND s.relname = ANY(CAST(:tables AS text[]))
    AND s.n_mod_since_analyze > greatest(CAST(:rows AS int), c.reltuples)
""")


def analyse_grown(connection: Connection) -> list[str]:
    """Run ANALYZE on grown tables, on an autocommit connection; their names."""
    names = [row.name for row in Hot.of(connection).all(GROWN, {"tables": list(TABLES), "rows": ROWS})]
    for name in names:
        connection.execute(text(f"ANALYZE {name}"))
    return names
