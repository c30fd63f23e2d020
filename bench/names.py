"""Names that the compared programs and the measuring one share."""

FLOOR_QUEUE = "bench.floor"
FLOOR_TABLE = (
    "CREATE TABLE IF NOT EXISTS bench_floor (id text PRIMARY KEY, body jsonb NOT NULL,"
    " created_at timestamptz NOT NULL DEFAULT clock_timestamp())"
)
