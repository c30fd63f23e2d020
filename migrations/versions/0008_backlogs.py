"""Indexes for what is read and deleted in bulk."""

from alembic import op
import sqlalchemy as sa

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index('jobs_account_queued', 'jobs', ['account_id', 'id'], unique=False, postgresql_where=sa.text("status = 'queued'"))
    op.create_index('jobs_account_running', 'jobs', ['account_id', 'id'], unique=False, postgresql_where=sa.text("status IN ('running', 'waiting')"))
    op.create_index('jobs_account_ended', 'jobs', ['account_id', 'status', 'id'], unique=False, postgresql_where=sa.text("status IN ('succeeded', 'failed', 'cancelled')"))


def downgrade() -> None:
    op.drop_index('jobs_account_ended', table_name='jobs', postgresql_where=sa.text("status IN ('succeeded', 'failed', 'cancelled')"))
    op.drop_index('jobs_account_running', table_name='jobs', postgresql_where=sa.text("status IN ('running', 'waiting')"))
    op.drop_index('jobs_account_queued', table_name='jobs', postgresql_where=sa.text("status = 'queued'"))
