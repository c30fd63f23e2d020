"""Usage: what was sold and what it cost, from the ledger and its jobs, and the sums of spans that have ended.

``usage_facts`` is the one reading of it: the roll-up, the part that is read live and the audit use it. The trigger
takes a span's sums away when a call of one of its jobs is changed afterwards. The column may be NULL and nothing old
reads it, so the release before works on while and after this runs; its late calls fire the trigger, too. The indexes
are built in place: ends of jobs wait for that long.
"""

from alembic import op
import sqlalchemy as sa

revision = '0018'
down_revision = '0017'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

FACTS = """
CREATE FUNCTION usage_facts(since timestamptz, until timestamptz)
RETURNS TABLE (at timestamptz, account_id text, key_id text, operation text, model text, provider text, outcome text,
    jobs bigint, images bigint, captured bigint, released bigint, calls bigint, reported_cost bigint,
    computed_cost bigint, uncosted_calls bigint)
LANGUAGE sql STABLE AS $$
WITH settled AS (
    SELECT t.created_at AS at, t.account_id, t.job_id, t.kind,
        CASE t.kind WHEN 'capture' THEN t.amount ELSE 0 END AS captured,
        CASE t.kind WHEN 'release' THEN t.amount ELSE 0 END AS released
    FROM transfers AS t
    WHERE t.kind IN ('capture', 'release') AND t.created_at >= since AND t.created_at < until
    UNION ALL
    -- Ended without a settlement: never held, or free. A count instead of NOT EXISTS, because PostgreSQL may answer
    -- that by hashing the whole table.
    SELECT j.finished_at, j.account_id, j.id, 'end', 0, 0
    FROM jobs AS j
    WHERE j.captured = 0 AND j.finished_at >= since AND j.finished_at < until
        AND (SELECT count(*) FROM transfers AS t WHERE t.job_id = j.id AND t.kind IN ('capture', 'release')) = 0
),
-- A job counts once: at its capture, else at its release, else at its end.
known AS (
    SELECT s.*, s.kind <> 'release' OR coalesce(j.captured, 0) = 0 AS counted, coalesce(j.key_id, '') AS key_id,
        coalesce(j.operation, '') AS operation, coalesce(j.model, '') AS model, coalesce(j.provider, '') AS provider,
        coalesce(j.status, '') AS outcome, j.status = 'succeeded' OR j.captured > 0 AS sold
    FROM settled AS s LEFT JOIN jobs AS j ON j.id = s.job_id
)
SELECT k.at, k.account_id, k.key_id, k.operation, k.model, k.provider, k.outcome,
    CASE WHEN k.counted THEN 1 ELSE 0 END,
    CASE WHEN k.counted AND k.sold THEN (SELECT count(*) FROM images AS i WHERE i.job_id = k.job_id) ELSE 0 END,
    k.captured, k.released, 0, 0, 0, 0
FROM known AS k
UNION ALL
-- The calls under their own model and provider, which are those of the job unless it fell back.
SELECT k.at, k.account_id, k.key_id, k.operation, c.model, c.provider, k.outcome, 0, 0, 0, 0, 1,
    coalesce(c.reported_cost, 0), CASE WHEN c.reported_cost IS NULL THEN coalesce(c.expected_cost, 0) ELSE 0 END,
    CASE WHEN c.reported_cost IS NULL AND c.expected_cost IS NULL THEN 1 ELSE 0 END
FROM known AS k JOIN upstream_calls AS c ON c.job_id = k.job_id
WHERE k.counted
    AND (c.outcome IN ('kept', 'finished', 'lost', 'timed_out') OR c.reported_cost IS NOT NULL OR c.written_off)
$$
"""

# A step is made five minutes after its last job has ended, so the end of a job is spared the lock. Under the lock that the roll-up takes alone, so that a change is either seen by it or takes its sums away. Each
# statement of the function sees what has been committed until then.
REOPEN = """
CREATE FUNCTION usage_reopen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM jobs WHERE id = NEW.job_id AND finished_at < clock_timestamp() - interval '5 minutes';
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(7216050018);
    WITH moment AS (
        SELECT created_at AS at FROM transfers WHERE job_id = NEW.job_id AND kind IN ('capture', 'release')
        UNION ALL
        SELECT finished_at FROM jobs WHERE id = NEW.job_id
    ),
    step AS (
        DELETE FROM usage_steps AS s USING moment WHERE s.from_at <= moment.at AND moment.at < s.to_at
        RETURNING s.from_at
    )
    DELETE FROM usage_sums AS u USING step WHERE u.from_at = step.from_at;
    RETURN NULL;
END $$
"""

# A span is rolled up five minutes after its end at the earliest, and its calls are older than that.
TRIGGER = """
CREATE TRIGGER usage_reopen AFTER UPDATE ON upstream_calls FOR EACH ROW
WHEN (
    OLD.intended_at < clock_timestamp() - interval '5 minutes'
    AND (OLD.outcome, OLD.reported_cost, OLD.expected_cost, OLD.written_off, OLD.pictures_kept)
        IS DISTINCT FROM (NEW.outcome, NEW.reported_cost, NEW.expected_cost, NEW.written_off, NEW.pictures_kept)
)
EXECUTE FUNCTION usage_reopen()
"""


def upgrade() -> None:
    # Revision 0017 has it already.
    op.create_index('transfers_settled', 'transfers', ['created_at'], unique=False, postgresql_where=sa.text("kind IN ('capture', 'release')"))
    op.create_index('jobs_uncharged', 'jobs', ['finished_at'], unique=False, postgresql_where=sa.text('captured = 0'))
    op.create_table(
        'usage_steps',
        sa.Column('from_at', TIME, nullable=False),
        sa.Column('to_at', TIME, nullable=False),
        sa.Column('rolled_at', TIME, server_default=sa.text('clock_timestamp()'), nullable=False),
        sa.CheckConstraint('from_at < to_at', name=op.f('usage_steps_step_has_length')),
        sa.PrimaryKeyConstraint('from_at', name=op.f('usage_steps_pkey')),
    )
    dimensions = ('account_id', 'key_id', 'operation', 'model', 'provider', 'outcome')
    sums = ('jobs', 'images', 'captured', 'released', 'calls', 'reported_cost', 'computed_cost', 'uncosted_calls')
    op.create_table(
        'usage_sums',
        sa.Column('from_at', TIME, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in dimensions),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in sums),
        sa.PrimaryKeyConstraint('from_at', *dimensions, name=op.f('usage_sums_pkey')),
    )
    op.execute(FACTS)
    op.execute(REOPEN)
    op.execute(TRIGGER)


def downgrade() -> None:
    op.execute('DROP TRIGGER usage_reopen ON upstream_calls')
    op.execute('DROP FUNCTION usage_reopen()')
    op.execute('DROP FUNCTION usage_facts(timestamptz, timestamptz)')
    op.drop_table('usage_sums')
    op.drop_table('usage_steps')
    op.drop_index('jobs_uncharged', table_name='jobs', postgresql_where=sa.text('captured = 0'))
    op.drop_index('transfers_settled', table_name='transfers', postgresql_where=sa.text("kind IN ('capture', 'release')"))
