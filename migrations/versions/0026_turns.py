"""Turns of accounts at a provider, what a job counts in its account's share, and an index of what is published.

The index replaces one of the same two columns in the other order, which serves the statements of the release before as
well. That release neither reads nor writes the new table.
"""

from alembic import op
import sqlalchemy as sa

revision = '0026'
down_revision = '0025'
branch_labels = None
depends_on = None

PUBLISHED = sa.text("status = 'queued' AND published_at IS NOT NULL")


def upgrade() -> None:
    op.create_table('dispatch_turns',
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('passed', sa.Float(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.PrimaryKeyConstraint('provider', 'account_id', name=op.f('dispatch_turns_pkey'))
    )
    op.execute(
        """
        CREATE FUNCTION job_share(counted text, n smallint, unit_price bigint) RETURNS double precision
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
            SELECT CASE counted
                WHEN 'images' THEN CAST(n AS double precision)
                -- In credits; an image that costs less than a tenth of one counts as that.
                WHEN 'price' THEN n * greatest(unit_price, 100000) / 1000000.0::double precision
                ELSE 1.0::double precision
            END
        $$
        """
    )
    op.create_index('jobs_published_turns', 'jobs', ['provider', 'account_id'], unique=False, postgresql_where=PUBLISHED)
    op.drop_index('jobs_published', table_name='jobs', postgresql_where=PUBLISHED)


def downgrade() -> None:
    op.create_index('jobs_published', 'jobs', ['account_id', 'provider'], unique=False, postgresql_where=PUBLISHED)
    op.drop_index('jobs_published_turns', table_name='jobs', postgresql_where=PUBLISHED)
    op.execute('DROP FUNCTION job_share(text, smallint, bigint)')
    op.drop_table('dispatch_turns')
