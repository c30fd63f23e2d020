"""Repairs what the doctor found: only what is safe, and only if it still holds under the rows' locks.

Workers go on meanwhile; what has recovered by itself is left alone. Money moves only on explicit request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from jobs import lifecycle
from jobs.dispatch import limits, publishing
from jobs.errors import StaleJobError
from jobs.execution.context import give_up_s
from jobs.maintenance import deletion, usage_rollup
from jobs.maintenance.deletion import Reason
from jobs.maintenance.doctor import BLOCKED, DEAD_STEPS, FIX, MONEY, USAGE, Doctor, Finding, jobs_text
from quota import ledger

# What an account's transfers and jobs say, at one moment.
_BOOKS = text("""
WITH said AS (
    SELECT
        coalesce(sum(CASE 'acct:available' WHEN target THEN amount WHEN source THEN -amount END), 0) AS available,
        coalesce(sum(CASE 'acct:held' WHEN target THEN amount WHEN source THEN -amount END), 0) AS held
    FROM transfers WHERE account_id = :id
), live AS (
    SELECT
        coalesce(sum(quoted) FILTER (WHERE money = 'queued'), 0) AS queued,
        coalesce(sum(quoted) FILTER (WHERE money = 'held'), 0) AS held
    FROM jobs WHERE account_id = :id AND money IN ('queued', 'held')
)
SELECT said.available, said.held, live.queued, live.held AS held_by_jobs FROM said, live
""")


class Repairer:
    """Repairs findings of ``doctor``, each in its own transaction."""

    def __init__(self, doctor: Doctor) -> None:
        self._doctor = doctor
        self._database = doctor.database
        self._repairs: Mapping[str, Callable[[Finding], str | None]] = {
            "sweep_blocked": self._end_session,
            "queued_unclaimed": self._publish_again,
            "running_without_owner": self._lapse,
            "running_overdue": self._lapse,
            "permits_are_open_calls": self._reconcile_permits,
            **dict.fromkeys(USAGE, self._forget_usage),
            "picture_missing": self._mark_lost,
            "upload_missing": self._delete_upload,
            "blob_orphaned": self._delete_blob,
            "deletion_overdue": self._delete_blob,
        }

    def repair(self, finding: Finding, *, money: bool = False) -> str | None:
        """Do what is safe about one finding: what was done, or None when it takes a person.

        ``money`` allows ``adjust`` transfers. Raises DatabaseAwayError, StorageUnavailableError.
        """
        if finding.kind in MONEY:
            return self._reconcile(finding) if money else None
        if finding.fix != FIX:  # such as a queue that waits for a worker: sending again would not help
            return None
        return self._repairs[finding.kind](finding)

    def _end_session(self, finding: Finding) -> str | None:
        with self._database.autocommit() as connection:
            for row in self._doctor.rows(connection, BLOCKED):
                if str(row.pid) == finding.subject:
                    ended = text("SELECT pg_terminate_backend(:pid, 5000)")
                    if connection.execute(ended, {"pid": row.pid}).scalar_one():
                        return "ended that session; another worker sweeps within seconds"
                    return None
        return "is free again"

    def _publish_again(self, _finding: Finding) -> str:
        """Count its messages as unpublished: the next sweep of any worker sends them."""
        jobs = 0
        while True:
            with self._database.autocommit() as connection:
                unpublished = publishing.mark_lost_unpublished(connection, older_than_s=self._doctor.stuck_after_s)
            jobs += unpublished
            if not unpublished:
                return f"{jobs_text(jobs)} will be published again by the next sweep"

    def _lapse(self, finding: Finding) -> str:
        try:
            with self._database.transaction() as connection:
                for row in self._doctor.rows(connection, DEAD_STEPS, id=finding.subject):
                    code = "step_overdue" if row.owner_lives else "owner_gone"
                    waits = give_up_s(self._doctor.catalog)
                    lifecycle.lapse(connection, row.id, row.fence, code=code, give_up_s=waits)
                    return "taken from its worker; it goes on at another"
        except StaleJobError:
            pass
        return "moved on by itself"

    def _reconcile_permits(self, finding: Finding) -> str:
        """Take back the permits of calls that have ended, and give open calls theirs."""
        with self._database.transaction() as connection:
            limits.reconcile(connection, finding.subject)
        return "its permits are those of its open calls again"

    def _forget_usage(self, finding: Finding) -> str:
        """Take the sums of a span away; usage is read from the ledger there until they are made again."""
        with self._database.transaction() as connection:
            forgotten = usage_rollup.drop_step(connection, datetime.fromisoformat(finding.subject))
        return "forgotten; the sweep adds it up again" if forgotten else "was forgotten before"

    def _mark_lost(self, finding: Finding) -> str | None:
        if self._doctor.store is None or self._doctor.store.exists(finding.subject):
            return "is there after all"
        with self._database.transaction() as connection:
            marked = deletion.delete_images(connection, [finding.about], reason=Reason.LOST, keys=[finding.subject])
        # A job that is still going on ends first; its image can be marked afterwards.
        return "LOST: marked as deleted, the caller now gets 410" if marked else None

    def _delete_upload(self, finding: Finding) -> str | None:
        if self._doctor.store is None or self._doctor.store.exists(finding.subject):
            return "is there after all"
        with self._database.transaction() as connection:
            query = text("DELETE FROM uploads WHERE id = :id AND key = :key")
            connection.execute(query, {"id": finding.about, "key": finding.subject})
        return "LOST: the upload is deleted, its owner can send the image again"

    def _delete_blob(self, finding: Finding) -> str | None:
        if self._doctor.media is None:
            return None
        with self._database.transaction() as connection:
            deletion.list_for_deletion(connection, [finding.subject])
        deleted = deletion.delete_blobs(self._database, self._doctor.media, [finding.subject])
        return "deleted" if deleted else None

    def _reconcile(self, finding: Finding) -> str | None:
        """Close the drift of one account under its balance's lock; None when no adjustment can."""
        try:
            with self._database.transaction() as connection:
                ledger.lock(connection, finding.subject)
                # A statement of its own, so that it sees what was committed before the lock was ours. Holds go on
                # meanwhile, but one moves as much from `available` to `held` as from queued jobs to held ones.
                said = connection.execute(_BOOKS, {"id": finding.subject}).one()
                if said.held != said.held_by_jobs:
                    return None
                done = ledger.reconcile(
                    connection,
                    finding.subject,
                    spendable_microcredits=int(said.available - said.queued),
                    reserved_microcredits=int(said.queued + said.held),
                    note="darkroom doctor",
                )
        except IntegrityError:
            return None
        return "adjusted; " + "; ".join(done) if done else "balances again"
