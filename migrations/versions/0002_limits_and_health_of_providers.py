"""Limits and health of providers."""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('providers',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('paused_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('failures', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('failing_since', sa.DateTime(timezone=True), nullable=True),
    sa.Column('failing_job', sa.Text(), nullable=True),
    sa.Column('trips', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('open_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('probe_call_id', sa.Text(), nullable=True),
    sa.CheckConstraint('(trips > 0) = (open_until IS NOT NULL)', name=op.f('providers_open_has_end')),
    sa.PrimaryKeyConstraint('name', name=op.f('providers_pkey')),
    postgresql_with={'fillfactor': 50}
    )
    op.add_column('credentials', sa.Column('max_per_minute', sa.Integer(), nullable=True))
    op.add_column('credentials', sa.Column('submits', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False))
    op.add_column('credentials', sa.Column('not_before', sa.DateTime(timezone=True), nullable=True))
    op.create_index('jobs_measured', 'jobs', ['provider', 'model', 'finished_at'], unique=False, postgresql_where=sa.text("status = 'succeeded'"))


def downgrade() -> None:
    op.drop_index('jobs_measured', table_name='jobs', postgresql_where=sa.text("status = 'succeeded'"))
    op.drop_column('credentials', 'not_before')
    op.drop_column('credentials', 'submits')
    op.drop_column('credentials', 'max_per_minute')
    op.drop_table('providers')
