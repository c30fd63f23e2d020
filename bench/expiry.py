"""How quickly backlogs of retention drain: rows a second while a round works, and what that is over the minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import text

from bench import seed
from bench.stand import Stand, customers, floor_program, make_floor_table, stand
from bench.table import Bound, Row
from jobs.maintenance import retention
from jobs.maintenance.backlogs import Backlog, drain
from jobs.maintenance.retention import Retention
from storage.local import LocalStore
from storage.media import Media

# Twice the jobs that two cores finish, sustained: a backlog must shrink while the service is busy.
SUSTAINED = Bound("ours", at_least=200.0)
KEEP_DAYS = 30.0
IMAGE_BYTES = 20_000
WITHIN_S = 3600.0
NAMES = {
    "short_lives": "images of store: false",
    "images": "images past the general rule",
    "idempotency_keys": "idempotency keys",
}

# The older half has a short life, the younger half is past the general rule.
_KEYS_OF_IMAGES = "UPDATE images SET key = 'jobs/' || job_id || '/0/' || repeat('0', 64) || '.png'"
_SHORT_LIVES = """
UPDATE jobs SET keep_s = 600, finished_at = finished_at - interval '1 hour'
WHERE id < 'job_' || lpad(CAST(:rows AS text), 26, '0')
"""
_OLD_IMAGES = """
WITH old AS (
    UPDATE jobs SET finished_at = finished_at - interval '40 days' WHERE keep_s IS NULL RETURNING id
)
UPDATE images SET created_at = created_at - interval '40 days' FROM old WHERE job_id = old.id
"""
_OLD_KEYS = """
INSERT INTO idempotency_keys (account_id, key, fingerprint, job_id, created_at)
SELECT account_id, id, '', id, clock_timestamp() - interval '2 days' FROM jobs ORDER BY id LIMIT :rows
"""


def measure(folder: Path, *, rows: int) -> list[Row]:
    """``rows`` in each backlog; the blobs of the first are deleted for real, from a local folder."""
    with stand(
        folder / "expiry", sandbox={}, workers=False, companions=floor_program, prepare=make_floor_table
    ) as service:
        [account_id] = customers(service.database, 1)
        store = LocalStore(folder / "expiry-blobs")
        media = Media(store, folder / "expiry-work", decoders=1)
        try:
            return list(_rows(service, store, media, account_id, rows))
        finally:
            media.close()


def _rows(service: Stand, store: LocalStore, media: Media, account_id: str, rows: int) -> Iterator[Row]:
    with service.database.autocommit() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        seed.jobs(connection, [account_id], "succeeded", 2 * rows, first=0)
        for statement in (_KEYS_OF_IMAGES, _SHORT_LIVES, _OLD_IMAGES, _OLD_KEYS):
            connection.execute(text(statement), {"rows": rows} if ":rows" in statement else {})
        connection.execute(text("ANALYZE"))  # and no VACUUM: a backlog meets the tables as they are
        connection.execute(text("RESET statement_timeout"))
        keys = connection.execute(text("SELECT key FROM images")).scalars().all()
    for key in keys:
        path = store.root / key
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * IMAGE_BYTES)
    expiry = Retention("bench", service.database, media, store, KEEP_DAYS, KEEP_DAYS)
    for backlog in expiry.expiry_backlogs():
        if backlog.name in NAMES:
            yield _drained(NAMES[backlog.name], rows, partial(_drain, backlog))
    yield _drained("blobs of deleted images", 2 * rows, partial(expiry.delete_listed_blobs, seconds=WITHIN_S))


def _drain(backlog: Backlog) -> int:
    drain([backlog], seconds=WITHIN_S)
    return backlog.done


def _drained(what: str, expected: int, work: Callable[[], int]) -> Row:
    began = time.monotonic()
    went = work()
    per_s = went / (time.monotonic() - began)
    if went != expected:
        raise RuntimeError(f"of {expected} {what} {went} went")
    share = retention.WORK_S / retention.EVERY_S
    return Row(f"drained: {what}", "rows/s", per_s * share, bound=SUSTAINED, more={"while_working_per_s": per_s})
