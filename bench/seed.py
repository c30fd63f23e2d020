"""Rows by SQL, as if the service had run for a long time: finished, waiting and queued jobs of many accounts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

MODEL, PROVIDER = "chatgpt2api-gpt-image-2", "chatgpt2api"
PRICE = 4_000_000
PAGE = 20_000

# Ids of digits only: valid, unlike any real id, and older than all of them.
_ID = "'job_' || lpad((:first + i)::text, 26, '0')"
_ACCOUNT = "(CAST(:accounts AS text[]))[1 + (:first + i) % :account_count]"

_JOBS = (
    "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted, captured,"
    " released, attempt, created_at, started_at, finished_at, start_deadline_at, due_at)"
    f" SELECT {_ID}, {_ACCOUNT}, 'generate', :model, :provider, 1, CAST(:status AS text), :money,"
    " CAST(:price AS bigint), CAST(:price AS bigint),"
    " CASE WHEN :ended THEN CAST(:price AS bigint) END, CASE WHEN :ended THEN 0 END,"
    " CASE WHEN :status = 'queued' THEN 0 ELSE 1 END, at, CASE WHEN :status <> 'queued' THEN at END,"
    " CASE WHEN :ended THEN at END, at + interval '1 year', at + interval '1 hour'"
    " FROM (SELECT i, clock_timestamp() - make_interval(secs => :count - i) AS at"
    " FROM generate_series(0, :count - 1) AS i) AS s"
)
_ORDERS = (
    "INSERT INTO orders (job_id, request)"
    f" SELECT {_ID}, jsonb_build_object('prompt', 'a red kite over the sea', 'n', 1, 'size',"
    " jsonb_build_object('width', 256, 'height', 256), 'params', '{}'::jsonb, 'normalised', '{}'::jsonb)"
    " FROM generate_series(0, :count - 1) AS i"
)
_EVENTS = (
    f"INSERT INTO job_events (job_id, type) SELECT {_ID}, type FROM generate_series(0, :count - 1) AS i,"
    " unnest(CAST(:events AS text[])) AS type"
)
_CALLS = (
    "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,"
    " dedupe_key, outcome, give_up_at, pictures_kept)"
    " SELECT 'call_' || lpad((:first + i)::text, 26, '0'), "
    f"{_ID}, 0, 1, 1, :provider, :model, 'bench', 'http://127.0.0.1', 'bench-' || (:first + i),"
    " CASE WHEN :ended THEN 'kept' ELSE 'accepted' END, clock_timestamp() + interval '1 hour', 1"
    " FROM generate_series(0, :count - 1) AS i"
)
_IMAGES = (
    "INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256)"
    f" SELECT {_ID}, 0, 'call_' || lpad((:first + i)::text, 26, '0'), 'jobs/bench/' || i, 'image/png', 256, 256,"
    " 1000, repeat('0', 64) FROM generate_series(0, :count - 1) AS i"
)
_TRANSFERS = (
    "INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
    f" SELECT {_ACCOUNT}, {_ID}, kind, source, target, CAST(:price AS bigint)"
    " FROM generate_series(0, :count - 1) AS i, (VALUES ('hold', 'acct:available', 'acct:held'),"
    " ('capture', 'acct:held', 'house:revenue')) AS t (kind, source, target)"
)
_STATUS = {
    "succeeded": ("settled", ("queued", "started", "waiting", "collecting", "succeeded")),
    "waiting": ("held", ("queued", "started", "waiting")),
    "queued": ("queued", ("queued",)),
}


def jobs(connection: Connection, accounts: Sequence[str], status: str, count: int, *, first: int) -> list[str]:
    """Insert ``count`` jobs numbered from ``first``; the ids of the newest (at most 300).

    Job number k belongs to ``accounts[k % len(accounts)]``, see :func:`owner`.
    """
    connection.execute(
        text("INSERT INTO credentials (id, provider) VALUES ('bench', :provider) ON CONFLICT DO NOTHING"),
        {"provider": PROVIDER},
    )
    for start in range(0, count, PAGE):
        _page(connection, accounts, status, min(PAGE, count - start), first=first + start)
    return [f"job_{first + number:026d}" for number in range(max(0, count - 300), count)]


def owner(accounts: Sequence[str], job_id: str) -> str:
    return accounts[int(job_id.removeprefix("job_")) % len(accounts)]


def settle_in(connection: Connection) -> None:
    """What autovacuum would have done by the time so many rows were there."""
    connection.execute(text("VACUUM (ANALYZE)"))


def _page(connection: Connection, accounts: Sequence[str], status: str, count: int, *, first: int) -> None:
    money, events = _STATUS[status]
    ended = status == "succeeded"
    values = {
        "first": first,
        "count": count,
        "accounts": list(accounts),
        "account_count": len(accounts),
        "model": MODEL,
        "provider": PROVIDER,
        "status": status,
        "money": money,
        "ended": ended,
        "price": PRICE,
        "events": list(events),
    }
    statements = [_JOBS, _ORDERS, _EVENTS]
    statements += [] if status == "queued" else [_CALLS]
    statements += [_IMAGES, _TRANSFERS] if ended else []
    for statement in statements:
        connection.execute(text(statement), values)
