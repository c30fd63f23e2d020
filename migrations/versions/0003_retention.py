"""Retention: when inputs were stored and deleted, blobs that are still to be deleted, and indexes on what is old."""

from alembic import op
import sqlalchemy as sa

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('doomed_blobs',
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('doomed_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.PrimaryKeyConstraint('key', name=op.f('doomed_blobs_pkey'))
    )
    op.create_index('doomed_blobs_due', 'doomed_blobs', ['due_at'], unique=False)
    op.add_column('inputs', sa.Column('created_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('inputs', sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True))
    # Inputs are stored moments before their job's row is written.
    op.execute('UPDATE inputs SET created_at = jobs.created_at FROM jobs WHERE jobs.id = inputs.job_id')
    op.alter_column('inputs', 'created_at', nullable=False, server_default=sa.text('clock_timestamp()'))
    op.create_index('inputs_kept', 'inputs', ['created_at', 'job_id'], unique=False, postgresql_where=sa.text("deleted_at IS NULL"))
    op.create_index('images_kept', 'images', ['created_at', 'job_id'], unique=False, postgresql_where=sa.text("deleted_at IS NULL"))


def downgrade() -> None:
    op.drop_index('images_kept', table_name='images', postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index('inputs_kept', table_name='inputs', postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_column('inputs', 'deleted_at')
    op.drop_column('inputs', 'created_at')
    op.drop_index('doomed_blobs_due', table_name='doomed_blobs')
    op.drop_table('doomed_blobs')
