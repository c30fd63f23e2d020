"""What is stuck, orphaned or out of balance, why, and the command that repairs it.

Examining changes nothing; ``jobs/maintenance/repair.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from core.db import Database
from jobs.dispatch import heartbeats
from jobs.maintenance import audit, orphans
from jobs.maintenance.sweep import SWEEP_LOCK
from providers.catalog.catalog import Catalog
from storage.base import Store
from storage.media import Media

FIX = "darkroom doctor --fix"
FIX_MONEY = "darkroom doctor --fix --money"
START_WORKER = "darkroom up (or python -m workers where workers run)"

STUCK_AFTER_S = 60.0
UNCLAIMED_AFTER_S = 300.0
PAGE = 1000
# More blobs missing than this, and most of those examined: it is the wrong store.
MISSING_AT_MOST = 20

# Tables whose rows have a blob: the column of the job or upload, and which rows still have it.
_WITH_BLOBS = {
    "images": ("job_id", "deleted_at IS NULL"),
    "inputs": ("job_id", "deleted_at IS NULL"),
    "uploads": ("id", "true"),
}

# Drifts that an adjustment can close; where transfers and jobs themselves disagree, a person must look.
# Sums of usage, which are added up again from the ledger.
USAGE = ("usage_is_the_sum_of_its_facts", "usage_is_what_was_transferred", "usage_steps_do_not_overlap")
MONEY = ("spendable_is_transferred_less_queued", "reserved_is_queued_and_held", "money_has_a_balance")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. ``fix`` is the command to type, or what to look at where no command repairs it."""

    kind: str
    subject: str  # the id of a job, account, credential or session; the key of a blob
    cause: str
    fix: str
    since: datetime | None = None
    about: str = ""  # what else a repair must know: the job of an image


@dataclass(frozen=True)
class Doctor:
    """Examines the database and the store. ``store`` and ``media`` None: rows and blobs are not compared."""

    database: Database
    catalog: Catalog
    store: Store | None = None
    media: Media | None = None
    stuck_after_s: float = STUCK_AFTER_S
    unclaimed_after_s: float = UNCLAIMED_AFTER_S

    def examine(self) -> list[Finding]:
        """Everything that is wrong now. Raises DatabaseAwayError, StorageUnavailableError."""
        with self.database.autocommit() as connection:
            found = [*self._queue(connection), *self._steps(connection)]
        with self.database.transaction() as connection:
            found += [_of_audit(finding) for finding in audit.check(connection)]
        if self.store is not None:
            found += [*self._images(self.store), *self._blobs(self.store)]
        with self.database.autocommit() as connection:
            found += [*self._deletions(connection), *self._callbacks(connection)]
        return found

    def _queue(self, connection: Connection) -> Iterator[Finding]:
        """Jobs that are not published, and messages that are not read."""
        yield from self._sweep_lock(connection)
        no_worker = "" if heartbeats.any_alive(connection) else "no worker is alive"
        if no_worker:
            for row in self.rows(connection, _SILENT):
                cause = (
                    f"{no_worker}: process {row.pid} on {row.host} was the last and is silent: it hangs or was killed"
                )
                yield Finding("workers_silent", row.boot_id, cause, START_WORKER, row.heartbeat_at)
        for row in self.rows(connection, _UNPUBLISHED):
            cause, fix = _why_unpublished(row, no_worker)
            subject = f"{row.provider}/{row.account_id}"
            yield Finding("queued_unpublished", subject, f"{jobs_text(row.jobs)}: {cause}", fix, row.since)
        unclaimed_s = min(self.unclaimed_after_s, self.stuck_after_s) if no_worker else self.unclaimed_after_s
        for row in self.rows(connection, _UNCLAIMED, unclaimed_s=unclaimed_s):
            cause, fix = _why_unclaimed(row, no_worker)
            yield Finding("queued_unclaimed", row.provider, f"{jobs_text(row.jobs)}: {cause}", fix, row.since)

    def _sweep_lock(self, connection: Connection) -> Iterator[Finding]:
        for row in self.rows(connection, BLOCKED):
            cause = f"session {row.pid} ({row.application_name}) holds the sweep's lock and does nothing"
            yield Finding("sweep_blocked", str(row.pid), cause, FIX, row.state_change)

    def _steps(self, connection: Connection) -> Iterator[Finding]:
        """Jobs whose worker is gone, and jobs whose upstream is not polled."""
        for row in self.rows(connection, DEAD_STEPS, id=None):
            kind = "running_overdue" if row.owner_lives else "running_without_owner"
            cause = (
                f"its step at worker {row.owner} should have ended"
                if row.owner_lives
                else f"its worker {row.owner} is {'gone' if row.heartbeat_at is None else 'silent'}"
            )
            since = row.step_deadline_at if row.owner_lives else row.heartbeat_at
            yield Finding(kind, row.id, cause, FIX, since)
        for row in self.rows(connection, _NOT_POLLED):
            cause = f"no worker polls {row.provider} for it"
            fix = f"{START_WORKER}, with a key for {row.provider}"
            yield Finding("waiting_overdue", row.id, cause, fix, row.due_at)

    def _images(self, store: Store) -> Iterator[Finding]:
        """Rows whose blob is missing."""
        missing: list[Row[Any]] = []
        examined = 0
        for table in _WITH_BLOBS:
            for row in self._kept(table):
                examined += 1
                if not store.exists(row.key) and self._still_kept(table, row.key, row.job_id):
                    missing.append(row)
        if len(missing) > MISSING_AT_MOST and len(missing) > examined / 2:
            cause = f"{len(missing)} of {examined} images are not in the store: it seems to be another installation's"
            yield Finding("store_suspicious", "store", cause, "look at DARKROOM_VAR and DATABASE_URL")
            return
        for row in missing:
            if row.table == "images":
                cause = "its job has an image that is not in the store"
                yield Finding("picture_missing", row.key, cause, FIX, row.created_at, about=row.job_id)
            elif row.table == "uploads":
                cause = "an upload whose image is not in the store"
                yield Finding("upload_missing", row.key, cause, FIX, row.created_at, about=row.job_id)
            else:
                cause = "its job came with an image that is not in the store"
                fix = f"darkroom show {row.job_id}"
                yield Finding("input_missing", row.key, cause, fix, row.created_at, about=row.job_id)

    def _kept(self, table: str) -> Iterator[Row[Any]]:
        """Every row that should have a blob, page by page; no connection is held while a page is examined."""
        after: tuple[str, str] = ("", "")
        owner, kept = _WITH_BLOBS[table]
        while True:
            with self.database.autocommit() as connection:
                rows = connection.execute(
                    text(
                        f"SELECT '{table}' AS \"table\", {owner} AS job_id, key, created_at FROM {table} WHERE {kept}"
                        f" AND {owner} >= :job AND ({owner}, key) > (:job, :key) ORDER BY {owner}, key LIMIT :page"
                    ),
                    {"job": after[0], "key": after[1], "page": PAGE},
                ).all()
            yield from rows
            if len(rows) < PAGE:
                return
            after = (rows[-1].job_id, rows[-1].key)

    def _still_kept(self, table: str, key: str, job_id: str) -> bool:
        owner, kept = _WITH_BLOBS[table]
        query = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {owner} = :job AND key = :key AND {kept})"
        with self.database.autocommit() as connection:
            return bool(connection.execute(text(query), {"job": job_id, "key": key}).scalar_one())

    def _blobs(self, store: Store) -> Iterator[Finding]:
        """Blobs without a row."""
        for search in orphans.search_all(self.database, store):
            if search.suspicious:
                cause = (
                    "most of the store's folders are of jobs that the database does not have: it is another"
                    " installation's, or was restored from before them"
                )
                yield Finding("store_suspicious", "database", cause, "look at DARKROOM_VAR and DATABASE_URL")
                continue
            for key in search.orphans:
                cause = "no row owns it: a writer was killed, or another was first"
                yield Finding("blob_orphaned", key, cause, FIX)

    def _deletions(self, connection: Connection) -> Iterator[Finding]:
        for row in self.rows(connection, _OVERDUE_DELETIONS):
            cause = "its row is a tombstone, but the store has not deleted it"
            yield Finding("deletion_overdue", row.key, cause, FIX, row.doomed_at)

    def _callbacks(self, connection: Connection) -> Iterator[Finding]:
        """Callbacks that no one sends, and webhooks that were disabled because nothing reached them."""
        for row in self.rows(connection, _UNSENT):
            no_worker = not heartbeats.any_alive(connection)
            cause = "no worker is alive" if no_worker else "its receiver is slow, or no worker comes to it"
            fix = START_WORKER if no_worker else "look for webhook_put_off and webhook_crashed in the workers' logs"
            yield Finding("webhook_unsent", row.subject, f"{row.messages} waiting: {cause}", fix, row.since)
        for row in self.rows(connection, _DISABLED):
            cause = "nothing that was sent to it for days arrived, so it was disabled"
            fix = f"tell account {row.account_id}; it enables it by PATCH /api/webhooks/{row.id}"
            yield Finding("webhook_disabled", row.id, cause, fix, row.disabled_at)

    def rows(self, connection: Connection, query: str, **values: Any) -> Sequence[Row[Any]]:
        """The rows of a query of this module, with this doctor's time limits as parameters."""
        waits = {
            "stuck_s": self.stuck_after_s,
            "unclaimed_s": self.unclaimed_after_s,
            "lock": SWEEP_LOCK,
        }
        return connection.execute(text(query), {**waits, **values}).all()


_UNPUBLISHED = """
SELECT j.provider, j.account_id, count(*) AS jobs, min(j.due_at) AS since,
    (SELECT p.name FROM providers AS p WHERE p.name = j.provider AND p.paused_at IS NOT NULL) AS paused,
    (SELECT min(c.id) FROM credentials AS c WHERE c.provider = j.provider AND c.account_id IS NULL
        HAVING bool_and(c.paused_at IS NOT NULL)) AS paused_credential
FROM jobs AS j
WHERE j.status = 'queued' AND j.published_at IS NULL
    AND j.due_at < statement_timestamp() - make_interval(secs => :stuck_s)
    -- While a message of an account is on its way, its other jobs wait for their turn, as they should.
    AND NOT EXISTS (SELECT 1 FROM jobs AS p WHERE p.status = 'queued' AND p.published_at IS NOT NULL
        AND p.account_id = j.account_id AND p.provider = j.provider)
GROUP BY 1, 2
ORDER BY since
"""
_UNCLAIMED = """
SELECT j.provider, count(*) AS jobs, min(j.due_at) AS since,
    (SELECT p.name FROM providers AS p WHERE p.name = j.provider AND p.paused_at IS NOT NULL) AS paused,
    (SELECT min(c.id) FROM credentials AS c WHERE c.provider = j.provider AND c.account_id IS NULL
        HAVING bool_and(c.paused_at IS NOT NULL)) AS paused_credential,
    (SELECT bool_and(c.max_active IS NOT NULL AND NOT EXISTS (SELECT 1 FROM permits AS p
        WHERE p.credential_id = c.id AND p.call_id IS NULL AND p.number <= c.max_active))
        FROM credentials AS c WHERE c.provider = j.provider AND c.account_id IS NULL) AS full
FROM jobs AS j
WHERE j.status = 'queued' AND j.published_at IS NOT NULL
    AND j.due_at < statement_timestamp() - make_interval(secs => :unclaimed_s)
    AND NOT EXISTS (SELECT 1 FROM jobs AS s WHERE s.provider = j.provider AND s.status <> 'queued'
        AND s.started_at > statement_timestamp() - make_interval(secs => :unclaimed_s))
GROUP BY j.provider
ORDER BY since
"""
_SILENT = "SELECT boot_id, host, pid, heartbeat_at FROM workers ORDER BY heartbeat_at DESC LIMIT 1"
_NOT_POLLED = """
SELECT id, provider, due_at FROM jobs
WHERE status = 'waiting' AND due_at < statement_timestamp() - make_interval(secs => :stuck_s)
ORDER BY due_at
"""
_OVERDUE_DELETIONS = """
SELECT key, doomed_at FROM doomed_blobs
WHERE doomed_at < statement_timestamp() - interval '1 hour'
ORDER BY doomed_at LIMIT 1000
"""
_UNSENT = """
SELECT coalesce(m.endpoint_id, m.account_id) AS subject, count(*) AS messages, min(m.due_at) AS since
FROM webhook_messages AS m
LEFT JOIN webhook_endpoints AS e ON e.id = m.endpoint_id
WHERE m.state = 'pending' AND m.due_at < statement_timestamp() - make_interval(secs => :stuck_s)
    AND coalesce(e.not_before < statement_timestamp(), true)
GROUP BY 1
ORDER BY since
"""
_DISABLED = """
SELECT id, account_id, disabled_at FROM webhook_endpoints
WHERE disabled_reason = 'failing' AND disabled_at > statement_timestamp() - interval '7 days'
ORDER BY disabled_at
"""
BLOCKED = """
SELECT a.pid, a.application_name, a.state_change
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND (CAST(l.classid AS bigint) << 32) + CAST(l.objid AS bigint) = :lock
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND a.state LIKE 'idle%' AND a.state_change < clock_timestamp() - make_interval(secs => :stuck_s)
"""
# A worker counts as silent much later than in the sweep, which knows whether its own heartbeats go through.
DEAD_STEPS = """
SELECT j.id, j.fence, j.owner, j.step_deadline_at, w.heartbeat_at,
    coalesce(w.heartbeat_at >= statement_timestamp() - make_interval(secs => :stuck_s), false) AS owner_lives
FROM jobs AS j LEFT JOIN workers AS w ON w.boot_id = j.owner
WHERE j.status = 'running' AND (CAST(:id AS text) IS NULL OR j.id = :id)
    AND (w.boot_id IS NULL OR w.heartbeat_at < statement_timestamp() - make_interval(secs => :stuck_s)
        OR j.step_deadline_at < statement_timestamp() - make_interval(secs => :stuck_s))
ORDER BY j.id
"""


def _why_unpublished(row: Row[Any], no_worker: str) -> tuple[str, str]:
    """The cause, and the command that repairs it."""
    return _held_back(row, no_worker) or (
        "workers are alive, but no message is sent: the broker is away, or the sweep hangs",
        "look at /readyz and docs/on-call.md, Redis is away; no worker has to be started again for it",
    )


def _held_back(row: Row[Any], no_worker: str) -> tuple[str, str] | None:
    if no_worker:
        return no_worker, START_WORKER
    if paused := row.paused or row.paused_credential:
        return f"{paused} is paused", f"darkroom providers resume {paused}"
    return None


def _why_unclaimed(row: Row[Any], no_worker: str) -> tuple[str, str]:
    """The cause, and the command that repairs it."""
    if held_back := _held_back(row, no_worker):
        return held_back
    if row.full:
        return "every permit of its credentials is taken", "wait, or raise the most active jobs of its credentials"
    return "their messages are not read: lost, or no worker takes them", FIX


def _of_audit(finding: audit.Finding) -> Finding:
    if finding.invariant in MONEY:
        fix = FIX_MONEY
    elif finding.invariant == "permits_are_open_calls" or finding.invariant in USAGE:
        fix = FIX
    elif finding.subject.startswith("job_"):
        fix = f"darkroom show {finding.subject}"
    else:
        fix = "repair the other findings, then run it again"
    return Finding(finding.invariant, finding.subject, finding.detail, fix)


def jobs_text(count: int) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{count} job" if count == 1 else f"{count} jobs"
