"""What the dialect of an order keeps with it: a column that may be NULL, and that the release before neither reads nor
writes.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None

# Every table that this release alters, together and before any is altered: submits and workers lock them in another
# order, and a session that waits gives up before PostgreSQL would call it a deadlock and choose one of them to end.
LOCK_TABLES = """
DO $$
DECLARE
    give_up_at timestamptz := clock_timestamp() + interval '60 seconds';
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    LOOP
        BEGIN
            LOCK TABLE jobs, orders, upstream_calls, accounts IN ACCESS EXCLUSIVE MODE;
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


def upgrade() -> None:
    op.execute(LOCK_TABLES)
    op.add_column('orders', sa.Column('client', postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column('orders', 'client')
