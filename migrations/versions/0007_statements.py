"""Columns for one statement per verb, without the foreign keys that cost time and cannot fail.

The rows of job_events, images and upstream_calls are inserted from the row that they refer to, in the
same statement; each check cost a lock on that row. Transfers would lock the account's row for every hold and
settlement. Code of the release before may leave out every column.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('deadline_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('jobs', sa.Column('lost_messages', sa.SmallInteger(), server_default=sa.text('0'), nullable=False))
    op.add_column('jobs', sa.Column('node', sa.Text(), nullable=True))
    op.add_column('jobs', sa.Column('progress', sa.Float(), nullable=True))
    op.add_column('jobs', sa.Column('progress_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('jobs', sa.Column('per_call', sa.SmallInteger(), server_default=sa.text('1'), nullable=False))
    op.create_check_constraint(op.f('jobs_settlement_not_negative'), 'jobs', 'captured >= 0 AND released >= 0')
    op.create_index('jobs_waiting_turns', 'jobs', ['provider', 'account_id', 'due_at'], unique=False, postgresql_where=sa.text("status = 'waiting'"))
    op.drop_index('jobs_start_deadline', table_name='jobs')
    op.create_index('jobs_deadline', 'jobs', [sa.text('coalesce(deadline_at, start_deadline_at)')], unique=False, postgresql_where=sa.text("status IN ('queued', 'waiting')"))
    op.add_column('orders', sa.Column('unit_cost', sa.BigInteger(), nullable=True))
    op.add_column('upstream_calls', sa.Column('searches', sa.SmallInteger(), server_default=sa.text('0'), nullable=False))
    op.add_column('upstream_calls', sa.Column('expected_cost', sa.BigInteger(), nullable=True))
    op.add_column('upstream_calls', sa.Column('reported_cost', sa.BigInteger(), nullable=True))
    op.add_column('upstream_calls', sa.Column('usage', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index('upstream_calls_upstream_id', 'upstream_calls', ['upstream_id'], unique=False)
    op.create_index('upstream_calls_without_id', 'upstream_calls', ['credential_id', 'intended_at'], unique=False, postgresql_where=sa.text('upstream_id IS NULL'))
    op.drop_constraint('upstream_calls_credential_id_fkey', 'upstream_calls', type_='foreignkey')
    op.drop_constraint('images_call_id_fkey', 'images', type_='foreignkey')
    op.drop_constraint('job_events_job_id_fkey', 'job_events', type_='foreignkey')
    op.drop_constraint('transfers_account_id_fkey', 'transfers', type_='foreignkey')


def downgrade() -> None:
    op.create_foreign_key('transfers_account_id_fkey', 'transfers', 'accounts', ['account_id'], ['id'])
    op.create_foreign_key('job_events_job_id_fkey', 'job_events', 'jobs', ['job_id'], ['id'], ondelete='CASCADE')
    op.create_foreign_key('images_call_id_fkey', 'images', 'upstream_calls', ['call_id'], ['id'], ondelete='CASCADE')
    op.create_foreign_key('upstream_calls_credential_id_fkey', 'upstream_calls', 'credentials', ['credential_id'], ['id'])
    op.drop_index('upstream_calls_without_id', table_name='upstream_calls', postgresql_where=sa.text('upstream_id IS NULL'))
    op.drop_index('upstream_calls_upstream_id', table_name='upstream_calls')
    op.drop_column('upstream_calls', 'usage')
    op.drop_column('upstream_calls', 'reported_cost')
    op.drop_column('upstream_calls', 'expected_cost')
    op.drop_column('upstream_calls', 'searches')
    op.drop_column('orders', 'unit_cost')
    op.drop_index('jobs_deadline', table_name='jobs', postgresql_where=sa.text("status IN ('queued', 'waiting')"))
    op.create_index('jobs_start_deadline', 'jobs', ['start_deadline_at'], unique=False, postgresql_where=sa.text("status = 'queued'"))
    op.drop_index('jobs_waiting_turns', table_name='jobs', postgresql_where=sa.text("status = 'waiting'"))
    op.drop_constraint(op.f('jobs_settlement_not_negative'), 'jobs', type_='check')
    op.drop_column('jobs', 'per_call')
    op.drop_column('jobs', 'progress_at')
    op.drop_column('jobs', 'progress')
    op.drop_column('jobs', 'node')
    op.drop_column('jobs', 'lost_messages')
    op.drop_column('jobs', 'deadline_at')
