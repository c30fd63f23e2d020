"""The audit: every invariant of money and jobs (docs/architecture.md section 4) as a query that must find nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken invariant: which, of what (an account, a job, a credential), and the figures."""

    invariant: str
    subject: str
    detail: str


# Each query yields (subject, detail) rows; all are run in one snapshot.
INVARIANTS: dict[str, str] = {
    "spendable_is_transferred_less_queued": """
        WITH said AS (
            SELECT account_id,
                sum(CASE 'acct:available' WHEN target THEN amount WHEN source THEN -amount ELSE 0 END) AS available
            FROM transfers GROUP BY account_id
        ), queue AS (
            SELECT account_id, sum(quoted) AS quoted FROM jobs WHERE money = 'queued' GROUP BY account_id
        )
        SELECT account_id, format(
            'row %s, which is %s micro-credits beyond transfers %s less queued jobs %s',
            coalesce(b.spendable::text, 'gone'),
            coalesce(b.spendable, 0) - coalesce(said.available, 0) + coalesce(queue.quoted, 0),
            coalesce(said.available, 0), coalesce(queue.quoted, 0))
        FROM balances AS b FULL JOIN said USING (account_id) FULL JOIN queue USING (account_id)
        WHERE coalesce(b.spendable, 0) <> coalesce(said.available, 0) - coalesce(queue.quoted, 0)
    """,
    "reserved_is_queued_and_held": """
        WITH said AS (
            SELECT account_id,
                sum(CASE 'acct:held' WHEN target THEN amount WHEN source THEN -amount ELSE 0 END) AS held
            FROM transfers GROUP BY account_id
        ), queue AS (
            SELECT account_id, sum(quoted) AS quoted FROM jobs WHERE money = 'queued' GROUP BY account_id
        )
        SELECT account_id, format(
            'row %s, which is %s micro-credits beyond transfers held %s and queued jobs %s',
            coalesce(b.reserved::text, 'gone'),
            coalesce(b.reserved, 0) - coalesce(said.held, 0) - coalesce(queue.quoted, 0),
            coalesce(said.held, 0), coalesce(queue.quoted, 0))
        FROM balances AS b FULL JOIN said USING (account_id) FULL JOIN queue USING (account_id)
        WHERE coalesce(b.reserved, 0) <> coalesce(said.held, 0) + coalesce(queue.quoted, 0)
    """,
    "held_is_what_jobs_say": """
        WITH said AS (
            SELECT account_id,
                sum(CASE 'acct:held' WHEN target THEN amount WHEN source THEN -amount ELSE 0 END) AS held
            FROM transfers GROUP BY account_id
        ), under_way AS (
            SELECT account_id, sum(quoted) AS quoted FROM jobs WHERE money = 'held' GROUP BY account_id
        )
        SELECT account_id, format('transfers %s, jobs %s', coalesce(said.held, 0), coalesce(under_way.quoted, 0))
        FROM said FULL JOIN under_way USING (account_id)
        WHERE coalesce(said.held, 0) <> coalesce(under_way.quoted, 0)
    """,
    "money_has_a_balance": """
        SELECT t.account_id, 'transfers, and no balance row'
        FROM (SELECT DISTINCT account_id FROM transfers WHERE amount > 0) AS t
        WHERE NOT EXISTS (SELECT 1 FROM balances AS b WHERE b.account_id = t.account_id)
    """,
    "transfers_sum_to_zero": """
        SELECT 'all', format('accounts have %s, the house issued %s and earned %s', a.total, h.issued, h.revenue)
        FROM (SELECT coalesce(sum(spendable + reserved), 0) AS total FROM balances) AS a, (
            SELECT
                coalesce(sum(CASE 'house:issued' WHEN source THEN amount WHEN target THEN -amount END), 0) AS issued,
                coalesce(sum(amount) FILTER (WHERE target = 'house:revenue'), 0) AS revenue
            FROM transfers
        ) AS h
        WHERE a.total + h.revenue <> h.issued
    """,
    "transfers_are_of_a_job": """
        SELECT t.job_id, format('%s of %s by %s, the job is of %s',
            t.kind, t.amount, t.account_id, coalesce(j.account_id, 'no one: there is none'))
        FROM transfers AS t LEFT JOIN jobs AS j ON j.id = t.job_id
        WHERE t.job_id IS NOT NULL AND t.account_id IS DISTINCT FROM j.account_id
    """,
    "what_started_was_held": """
        SELECT j.id, format('%s, quoted %s, %s; its hold %s', j.money, j.quoted,
            CASE WHEN j.started_at IS NULL THEN 'never started' ELSE 'started' END, coalesce(t.amount::text, 'missing'))
        FROM jobs AS j LEFT JOIN transfers AS t ON t.job_id = j.id AND t.kind = 'hold'
        WHERE coalesce(t.amount, 0) <> CASE WHEN j.money = 'held' OR j.started_at IS NOT NULL THEN j.quoted ELSE 0 END
    """,
    "job_is_settled_once": """
        SELECT j.id, format('%s, says captured %s, released %s of %s; transfers held %s, captured %s, released %s',
            j.money, j.captured, j.released, j.quoted, t.held, t.captured, t.released)
        FROM jobs AS j LEFT JOIN (
            SELECT job_id,
                sum(amount) FILTER (WHERE kind = 'hold') AS held,
                coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,
                coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0) AS released
            FROM transfers WHERE job_id IS NOT NULL GROUP BY job_id
        ) AS t ON t.job_id = j.id
        WHERE (j.money <> 'settled' AND t.captured + t.released <> 0)
            OR (j.money = 'settled' AND j.captured + j.released IS DISTINCT FROM j.quoted)
            OR (j.money = 'settled' AND coalesce(t.captured, 0) <> j.captured)
            -- What was only reserved goes back without a transfer.
            OR (j.money = 'settled' AND coalesce(t.released, 0) <> CASE WHEN t.held > 0 THEN j.released ELSE 0 END)
    """,
    "captured_is_pictures_kept": """
        SELECT j.id, format('captured %s for %s images worth %s', j.captured, count(i.*),
            coalesce(sum(coalesce(c.unit_price, j.unit_price)) FILTER (WHERE i.job_id IS NOT NULL), 0))
        FROM jobs AS j LEFT JOIN images AS i ON i.job_id = j.id LEFT JOIN upstream_calls AS c ON c.id = i.call_id
        WHERE j.status = 'succeeded'
        GROUP BY j.id
        HAVING j.captured <>
            coalesce(sum(coalesce(c.unit_price, j.unit_price)) FILTER (WHERE i.job_id IS NOT NULL), 0)
    """,
    "only_pictures_are_charged": """
        SELECT j.id, format('%s, captured %s', j.status, j.captured)
        FROM jobs AS j
        WHERE j.captured > 0 AND NOT EXISTS (SELECT 1 FROM images AS i WHERE i.job_id = j.id)
    """,
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
    "ended_jobs_have_no_open_calls": """
        SELECT j.id, format('%s with call %s %s', j.status, u.id, coalesce(u.outcome, 'unanswered'))
        FROM jobs AS j JOIN upstream_calls AS u ON u.job_id = j.id
        WHERE j.finished_at < clock_timestamp() - interval '15 minutes'
            AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain', 'finished'))
    """,
    # The sums of a step against the ledger and the jobs, read again and added up: of the newest steps, with about so
    # many jobs (:most; null: of all), and of as many older ones, whose turn it is today.
    "usage_is_the_sum_of_its_facts": """
        WITH sized AS (
            SELECT s.from_at, s.to_at,
                coalesce(sum(sum(u.jobs)) OVER (ORDER BY s.from_at DESC), 0) - coalesce(sum(u.jobs), 0) AS newer
            FROM usage_steps AS s LEFT JOIN usage_sums AS u ON u.from_at = s.from_at
            GROUP BY s.from_at, s.to_at
        ), placed AS (
            SELECT from_at, to_at, floor(newer / CAST(:most AS bigint)) AS place FROM sized
        ), chosen AS (
            SELECT from_at, to_at FROM placed
            WHERE place IS NULL OR place = 0 OR place - 1 = mod(
                floor(extract(epoch FROM statement_timestamp()) / 86400),
                (SELECT greatest(max(place), 1) FROM placed)
            )
        ), counted AS (
            SELECT s.from_at, f.account_id, f.key_id, f.operation, f.model, f.provider, f.outcome,
                ARRAY[sum(f.jobs), sum(f.images), sum(f.captured), sum(f.released), sum(f.calls), sum(f.reported_cost),
                    sum(f.computed_cost), sum(f.uncosted_calls)]::bigint[] AS sums
            FROM chosen AS s CROSS JOIN LATERAL usage_facts(s.from_at, s.to_at) AS f
            GROUP BY s.from_at, f.account_id, f.key_id, f.operation, f.model, f.provider, f.outcome
        ), said AS (
            SELECT from_at, account_id, key_id, operation, model, provider, outcome,
                ARRAY[jobs, images, captured, released, calls, reported_cost, computed_cost, uncosted_calls] AS sums
            FROM usage_sums JOIN chosen USING (from_at)
        )
        SELECT to_char(from_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            format('%s, key %s, %s by %s at %s, %s: rolled up %s, counted %s', account_id, key_id, operation, model,
                provider, outcome, coalesce(said.sums::text, 'nothing'), coalesce(counted.sums::text, 'nothing'))
        FROM said FULL JOIN counted USING (from_at, account_id, key_id, operation, model, provider, outcome)
        WHERE said.sums IS DISTINCT FROM counted.sums
    """,
    # The same without jobs: whatever becomes of them, the money of a step is that of its transfers.
    "usage_is_what_was_transferred": """
        WITH counted AS (
            SELECT s.from_at, t.account_id, coalesce(sum(t.amount) FILTER (WHERE t.kind = 'capture'), 0) AS captured,
                coalesce(sum(t.amount) FILTER (WHERE t.kind = 'release'), 0) AS released
            FROM usage_steps AS s
            JOIN transfers AS t ON t.created_at >= s.from_at AND t.created_at < s.to_at
                AND t.kind IN ('capture', 'release')
            GROUP BY s.from_at, t.account_id
        ), said AS (
            SELECT from_at, account_id, sum(captured) AS captured, sum(released) AS released
            FROM usage_sums GROUP BY from_at, account_id
        )
        SELECT to_char(from_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            format('%s: rolled up %s captured, %s released, transfers %s and %s', account_id,
                coalesce(said.captured, 0), coalesce(said.released, 0),
                coalesce(counted.captured, 0), coalesce(counted.released, 0))
        FROM said FULL JOIN counted USING (from_at, account_id)
        WHERE coalesce(said.captured, 0) <> coalesce(counted.captured, 0)
            OR coalesce(said.released, 0) <> coalesce(counted.released, 0)
    """,
    "usage_steps_do_not_overlap": """
        SELECT to_char(from_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            format('goes on until %s, the next begins at %s', to_at, next_at)
        FROM (SELECT from_at, to_at, lead(from_at) OVER (ORDER BY from_at) AS next_at FROM usage_steps) AS s
        WHERE next_at < to_at
        UNION ALL
        SELECT to_char(u.from_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'sums without a step'
        FROM (SELECT DISTINCT from_at FROM usage_sums) AS u
        WHERE NOT EXISTS (SELECT 1 FROM usage_steps AS s WHERE s.from_at = u.from_at)
    """,
}


# The steps of the roll-up that an audit reads again in passing: of so many jobs, the newest and the day's older ones.
FACTS_AT_MOST = 50_000


def check(connection: Connection, *, timeout_s: int = 120, facts_at_most: int | None = None) -> list[Finding]:
    """Run every invariant in one read-only snapshot; an empty list is a clean audit.

    Must come first in its transaction. ``timeout_s`` bounds each of the queries. ``facts_at_most``: compare the usage
    of the newest jobs, so many, and of as many older ones, which are others each day, with their facts; None: of all.
    Their money is compared in any case. Raises DatabaseAwayError.
    """
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{timeout_s:d}s'"))
    return [
        Finding(invariant, str(subject), str(detail))
        for invariant, query in INVARIANTS.items()
        for subject, detail in connection.execute(text(query), {"most": facts_at_most} if ":most" in query else {})
    ]
