"""When a job is cancelled for its caller: a column that may be NULL, and that the release before neither reads nor
writes. The index holds only jobs that have such a time.
"""

from alembic import op
import sqlalchemy as sa

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('cancel_after_at', sa.DateTime(timezone=True), nullable=True))
    op.create_index('jobs_cancel_after', 'jobs', ['cancel_after_at'], unique=False, postgresql_where=sa.text("cancel_after_at IS NOT NULL AND status IN ('queued', 'running', 'waiting')"))


def downgrade() -> None:
    op.drop_index('jobs_cancel_after', table_name='jobs', postgresql_where=sa.text("cancel_after_at IS NOT NULL AND status IN ('queued', 'running', 'waiting')"))
    op.drop_column('jobs', 'cancel_after_at')
