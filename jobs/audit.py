"""The books, checked: every invariant of DESIGN section 4 as one query that must find nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must never be: which rule, about whom, and the figures."""

    invariant: str
    subject: str
    detail: str


_SUMS = (
    "SELECT account_id,"
    " sum(CASE WHEN target = 'acct:available' THEN amount WHEN source = 'acct:available' THEN -amount ELSE 0 END)"
    " AS available,"
    " sum(CASE WHEN target = 'acct:held' THEN amount WHEN source = 'acct:held' THEN -amount ELSE 0 END) AS held"
    " FROM transfers GROUP BY account_id"
)

# Each query yields (subject, detail) rows; all are run in one snapshot.
INVARIANTS: dict[str, str] = {
    "balance_is_sum_of_transfers": (
        f"WITH s AS ({_SUMS}) SELECT coalesce(b.account_id, s.account_id), format('row %s/%s, transfers %s/%s"
        " (available/held)', b.available, b.held, s.available, s.held) FROM balances AS b"
        " FULL JOIN s USING (account_id) WHERE coalesce(b.available, 0) <> coalesce(s.available, 0)"
        " OR coalesce(b.held, 0) <> coalesce(s.held, 0)"
    ),
    "transfers_sum_to_zero": (
        "SELECT 'all', format('accounts hold %s, the house issued %s and earned %s', a.total, h.issued, h.revenue)"
        " FROM (SELECT coalesce(sum(available + held), 0) AS total FROM balances) AS a,"
        " (SELECT coalesce(sum(CASE WHEN source = 'house:issued' THEN amount WHEN target = 'house:issued'"
        " THEN -amount ELSE 0 END), 0) AS issued,"
        " coalesce(sum(amount) FILTER (WHERE target = 'house:revenue'), 0) AS revenue FROM transfers) AS h"
        " WHERE a.total + h.revenue <> h.issued"
    ),
    "queued_is_what_jobs_say": (
        "SELECT b.account_id, format('row %s, jobs %s', b.queued, coalesce(j.total, 0)) FROM balances AS b"
        " LEFT JOIN (SELECT account_id, sum(quoted) AS total FROM jobs WHERE money = 'queued' GROUP BY 1) AS j"
        " USING (account_id) WHERE b.queued <> coalesce(j.total, 0)"
    ),
    "held_is_what_jobs_say": (
        "SELECT b.account_id, format('row %s, jobs %s', b.held, coalesce(j.total, 0)) FROM balances AS b"
        " LEFT JOIN (SELECT account_id, sum(quoted) AS total FROM jobs WHERE money = 'held' GROUP BY 1) AS j"
        " USING (account_id) WHERE b.held <> coalesce(j.total, 0)"
    ),
    "job_is_settled_once": (
        "SELECT j.id, format('held %s, captured %s, released %s', t.held, t.captured, t.released) FROM jobs AS j"
        " JOIN (SELECT job_id, sum(amount) FILTER (WHERE kind = 'hold') AS held,"
        " coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,"
        " coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0) AS released FROM transfers"
        " WHERE job_id IS NOT NULL GROUP BY job_id) AS t ON t.job_id = j.id"
        " WHERE (j.money = 'settled' AND (t.held <> t.captured + t.released OR t.captured <> j.captured"
        " OR t.released <> j.released)) OR (j.money = 'held' AND t.captured + t.released <> 0)"
        " OR t.held IS DISTINCT FROM j.quoted"
    ),
    "captured_is_pictures_kept": (
        "SELECT j.id, format('captured %s for %s pictures worth %s', j.captured, count(i.*), coalesce(sum("
        "coalesce(c.unit_price, j.unit_price)) FILTER (WHERE i.job_id IS NOT NULL), 0)) FROM jobs AS j"
        " LEFT JOIN images AS i ON i.job_id = j.id LEFT JOIN upstream_calls AS c ON c.id = i.call_id"
        " WHERE j.status = 'succeeded' GROUP BY j.id HAVING j.captured <> coalesce(sum("
        "coalesce(c.unit_price, j.unit_price)) FILTER (WHERE i.job_id IS NOT NULL), 0)"
    ),
    "only_pictures_are_charged": (
        "SELECT j.id, format('%s, captured %s', j.status, j.captured) FROM jobs AS j WHERE j.captured > 0"
        " AND NOT EXISTS (SELECT 1 FROM images AS i WHERE i.job_id = j.id)"
    ),
    "permits_are_open_calls": """
        WITH open AS (
            SELECT u.id, u.credential_id
            FROM upstream_calls AS u
            JOIN credentials AS c ON c.id = u.credential_id
            WHERE c.max_active IS NOT NULL AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain'))
        ),
        taken AS (
            SELECT call_id AS id, credential_id FROM permits WHERE call_id IS NOT NULL
        )
        SELECT credential_id,
               format('%s permits taken by no open call, %s open calls without a permit',
                      count(*) FILTER (WHERE open.id IS NULL), count(*) FILTER (WHERE taken.id IS NULL))
        FROM open
        FULL JOIN taken USING (credential_id, id)
        WHERE open.id IS NULL OR taken.id IS NULL
        GROUP BY credential_id
    """,
    "ended_jobs_have_no_open_calls": (
        "SELECT j.id, format('%s with call %s %s', j.status, u.id, coalesce(u.outcome, 'unanswered')) FROM jobs AS j"
        " JOIN upstream_calls AS u ON u.job_id = j.id WHERE j.finished_at < clock_timestamp() - interval '15 minutes'"
        " AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain', 'finished'))"
    ),
}


def check(connection: Connection, *, timeout_s: int = 120) -> list[Finding]:
    """Run every invariant in one read-only snapshot; an empty list is a clean audit.

    First in its transaction. ``timeout_s`` bounds each of the queries.
    """
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{timeout_s:d}s'"))
    return [
        Finding(invariant, str(subject), str(detail))
        for invariant, query in INVARIANTS.items()
        for subject, detail in connection.execute(text(query))
    ]
