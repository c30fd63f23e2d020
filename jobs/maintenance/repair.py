"""Mending what the doctor found: only what is safe, and only if it still holds under the rows' locks.

Workers go on meanwhile; what mended itself is left alone. Money moves only when asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from jobs import lifecycle
from jobs.dispatch import limits, publishing
from jobs.errors import StaleJobError
from jobs.execution.context import give_up_s
from jobs.maintenance import retention
from jobs.maintenance.doctor import BLOCKED, DEAD_STEPS, FIX, MONEY, Doctor, Finding, jobs_text
from jobs.maintenance.retention import Reason
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


class Mender:
    """Mends findings of ``doctor``, each in a transaction of its own."""

    def __init__(self, doctor: Doctor) -> None:
        self._doctor = doctor
        self._database = doctor.database
        self._mends: Mapping[str, Callable[[Finding], str | None]] = {
            "sweep_blocked": self._end_session,
            "queued_unclaimed": self._publish_again,
            "running_without_owner": self._lapse,
            "running_overdue": self._lapse,
            "permits_are_open_calls": self._reconcile_permits,
            "picture_missing": self._mark_lost,
            "blob_orphaned": self._delete_blob,
            "deletion_overdue": self._delete_blob,
        }

    def mend(self, finding: Finding, *, money: bool = False) -> str | None:
        """Do what is safe about one finding: what was done, or None when that takes a person."""
        if finding.kind in MONEY:
            return self._reconcile(finding) if money else None
        if finding.mend != FIX:  # such as a queue that waits for a worker: sending again would help nobody
            return None
        return self._mends[finding.kind](finding)

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
        """Count them as unpublished: the next sweep of any worker sends them."""
        jobs = 0
        while True:
            with self._database.autocommit() as connection:
                forgotten = publishing.mark_lost_unpublished(connection, older_than_s=self._doctor.stuck_after_s)
            jobs += forgotten
            if not forgotten:
                return f"{jobs_text(jobs)} will be published again by the next sweep"

    def _lapse(self, finding: Finding) -> str:
        try:
            with self._database.transaction() as connection:
                for row in self._doctor.rows(connection, DEAD_STEPS + " AND j.id = :id", id=finding.subject):
                    code = "step_overdue" if row.owner_lives else "owner_gone"
                    waits = give_up_s(self._doctor.catalog)
                    lifecycle.lapse(connection, row.id, row.fence, code=code, give_up_s=waits)
                    return "taken from its worker; it goes on at another"
        except StaleJobError:
            pass
        return "moved on by itself"

    def _reconcile_permits(self, finding: Finding) -> str:
        """Permits of calls that are over come back; open calls get theirs."""
        with self._database.transaction() as connection:
            limits.reconcile(connection, finding.subject)
        return "its permits are those of its open calls again"

    def _mark_lost(self, finding: Finding) -> str | None:
        if self._doctor.store is None or self._doctor.store.exists(finding.subject):
            return "is there after all"
        with self._database.transaction() as connection:
            marked = retention.delete_images(connection, [finding.about], reason=Reason.LOST, keys=[finding.subject])
        # A job that is still going on ends first; its image can be marked afterwards.
        return "LOST: marked as deleted, the caller now gets 410" if marked else None

    def _delete_blob(self, finding: Finding) -> str | None:
        if self._doctor.media is None:
            return None
        with self._database.transaction() as connection:
            retention.doom(connection, [finding.subject])
        went = retention.remove_doomed(self._database, self._doctor.media, [finding.subject])
        return "deleted" if went else None

    def _reconcile(self, finding: Finding) -> str | None:
        """Account by account, under the balance's lock; None when no adjustment can mend it."""
        try:
            with self._database.transaction() as connection:
                ledger.lock(connection, finding.subject)
                # A statement of its own, so that it sees what was committed before the lock was ours. Holds go on
                # meanwhile, but one moves as much from `available` to `held` as from queued jobs to held ones.
                said = connection.execute(_BOOKS, {"id": finding.subject}).one()
                if said.held != said.held_by_jobs:
                    return None
                spendable, reserved = int(said.available - said.queued), int(said.queued + said.held)
                done = ledger.reconcile(
                    connection, finding.subject, spendable=spendable, reserved=reserved, note="darkroom doctor"
                )
        except IntegrityError:
            return None
        return "adjusted; " + "; ".join(done) if done else "balances again"
