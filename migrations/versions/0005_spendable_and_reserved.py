"""Balances by what may be spent and what is reserved, so that a hold changes no balance row.

Code of the release before writes ``available``, ``queued`` and ``held`` next to the new code until the
last old process has stopped; a trigger keeps both sets in step: available - queued = spendable and
queued + held = reserved. Its CHECKs go now, because what one kind of code has held the other may settle. The old
columns and the trigger go in a later release (docs/operating.md, "Upgrading").
"""

from alembic import op
import sqlalchemy as sa

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

# Every table that this release alters, together and before any is altered: workers lock them in another order, and
# a session that waits gives up before PostgreSQL would call it a deadlock and choose a worker to end.
LOCK_TABLES = """
DO $$
DECLARE
    give_up_at timestamptz := clock_timestamp() + interval '60 seconds';
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    LOOP
        BEGIN
            LOCK TABLE jobs, orders, upstream_calls, images, job_events, credentials, balances IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF clock_timestamp() > give_up_at THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', '60s', true);
END
$$
"""

# A change of one set has the other follow. OLD is null at an INSERT.
IN_STEP = """
CREATE FUNCTION balances_in_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.spendable = coalesce(OLD.spendable, 0) AND NEW.reserved = coalesce(OLD.reserved, 0) THEN
        NEW.spendable := NEW.available - NEW.queued;
        NEW.reserved := NEW.queued + NEW.held;
    ELSE
        NEW.available := NEW.spendable + NEW.reserved - NEW.held;
        NEW.queued := NEW.reserved - NEW.held;
    END IF;
    RETURN NEW;
END
$$
"""
TRIGGER = """
CREATE TRIGGER balances_in_step BEFORE INSERT OR UPDATE ON balances
FOR EACH ROW EXECUTE FUNCTION balances_in_step()
"""

# Back to the meaning that the columns have with the old code only.
RECOUNT = """
UPDATE balances SET held = jobs_of.held, queued = reserved - jobs_of.held, available = spendable + reserved - jobs_of.held
FROM (
    SELECT b.account_id, coalesce(sum(j.quoted), 0) AS held
    FROM balances AS b LEFT JOIN jobs AS j ON j.account_id = b.account_id AND j.money = 'held'
    GROUP BY b.account_id
) AS jobs_of
WHERE jobs_of.account_id = balances.account_id
"""


def upgrade() -> None:
    op.execute(LOCK_TABLES)
    op.create_index('jobs_held', 'jobs', ['account_id'], unique=False, postgresql_where=sa.text("money = 'held'"))
    op.drop_constraint(op.f('balances_available_not_negative'), 'balances', type_='check')
    op.drop_constraint(op.f('balances_queued_not_negative'), 'balances', type_='check')
    op.drop_constraint(op.f('balances_held_not_negative'), 'balances', type_='check')
    op.drop_constraint(op.f('balances_queued_is_covered'), 'balances', type_='check')
    op.add_column('balances', sa.Column('spendable', sa.BigInteger(), server_default=sa.text('0'), nullable=False))
    op.add_column('balances', sa.Column('reserved', sa.BigInteger(), server_default=sa.text('0'), nullable=False))
    op.execute('UPDATE balances SET spendable = available - queued, reserved = queued + held')
    op.create_check_constraint(op.f('balances_spendable_not_negative'), 'balances', 'spendable >= 0')
    op.create_check_constraint(op.f('balances_reserved_not_negative'), 'balances', 'reserved >= 0')
    op.execute(IN_STEP)
    op.execute(TRIGGER)


def downgrade() -> None:
    op.execute(LOCK_TABLES)
    op.execute('DROP TRIGGER balances_in_step ON balances')
    op.execute('DROP FUNCTION balances_in_step()')
    op.execute(RECOUNT)
    op.drop_constraint(op.f('balances_reserved_not_negative'), 'balances', type_='check')
    op.drop_constraint(op.f('balances_spendable_not_negative'), 'balances', type_='check')
    op.drop_column('balances', 'reserved')
    op.drop_column('balances', 'spendable')
    op.create_check_constraint(op.f('balances_queued_is_covered'), 'balances', 'queued <= available')
    op.create_check_constraint(op.f('balances_held_not_negative'), 'balances', 'held >= 0')
    op.create_check_constraint(op.f('balances_queued_not_negative'), 'balances', 'queued >= 0')
    op.create_check_constraint(op.f('balances_available_not_negative'), 'balances', 'available >= 0')
    op.drop_index('jobs_held', table_name='jobs', postgresql_where=sa.text("money = 'held'"))
