"""Images that callers keep here before they order, and which job an order repeats.

New tables, and a column that may be NULL, which the release before neither reads nor writes.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('uploads',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('mime', sa.Text(), nullable=False),
    sa.Column('width_px', sa.Integer(), nullable=False),
    sa.Column('height_px', sa.Integer(), nullable=False),
    sa.Column('size_bytes', sa.Integer(), nullable=False),
    sa.Column('sha256', sa.Text(), nullable=False),
    sa.Column('sent_bytes', sa.Integer(), nullable=False),
    sa.Column('sent_sha256', sa.Text(), nullable=False),
    sa.Column('file_name', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('purpose', sa.Text(), nullable=True),
    sa.Column('metadata', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_used_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("source IN ('file', 'url', 'openai', 'replicate', 'fal')", name=op.f('uploads_source_known')),
    sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('uploads_account_id_fkey')),
    sa.PrimaryKeyConstraint('id', name=op.f('uploads_pkey'))
    )
    op.create_index('uploads_account_content', 'uploads', ['account_id', 'sent_sha256'], unique=True)
    op.create_index('uploads_account_newest', 'uploads', ['account_id', 'id'], unique=False)
    op.create_index('uploads_expiry', 'uploads', ['expires_at'], unique=False, postgresql_where=sa.text('expires_at IS NOT NULL'))
    op.create_table('upload_names',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('upload_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.ForeignKeyConstraint(['upload_id'], ['uploads.id'], name=op.f('upload_names_upload_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('upload_names_pkey'))
    )
    op.create_index('upload_names_upload', 'upload_names', ['upload_id'], unique=False)
    op.add_column('orders', sa.Column('parent_id', sa.Text(), nullable=True))
    op.create_index('orders_parent', 'orders', ['parent_id', 'job_id'], unique=False, postgresql_where=sa.text('parent_id IS NOT NULL'))


def downgrade() -> None:
    op.drop_index('orders_parent', table_name='orders', postgresql_where=sa.text('parent_id IS NOT NULL'))
    op.drop_column('orders', 'parent_id')
    op.drop_table('upload_names')
    op.drop_table('uploads')
