"""Many upstreams: models to fall back to, results that are not images, short lives, and the price of each call.

Code of the release before may leave out every column, so that old and new run next to each other during a deploy.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('fallbacks', sa.SmallInteger(), server_default=sa.text('0'), nullable=False))
    op.add_column('jobs', sa.Column('keep_s', sa.Integer(), nullable=True))
    op.add_column('orders', sa.Column('fallbacks', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('upstream_calls', sa.Column('unit_price', sa.BigInteger(), nullable=True))
    op.add_column('images', sa.Column('text', sa.Text(), nullable=True))
    op.alter_column('images', 'width_px', existing_type=sa.Integer(), nullable=True)
    op.alter_column('images', 'height_px', existing_type=sa.Integer(), nullable=True)
    op.create_index('jobs_short_lives', 'jobs', ['finished_at'], unique=False, postgresql_where=sa.text('keep_s IS NOT NULL'))


def downgrade() -> None:
    op.drop_index('jobs_short_lives', table_name='jobs', postgresql_where=sa.text('keep_s IS NOT NULL'))
    op.execute('UPDATE images SET width_px = coalesce(width_px, 0), height_px = coalesce(height_px, 0)')
    op.alter_column('images', 'height_px', existing_type=sa.Integer(), nullable=False)
    op.alter_column('images', 'width_px', existing_type=sa.Integer(), nullable=False)
    op.drop_column('images', 'text')
    op.drop_column('upstream_calls', 'unit_price')
    op.drop_column('orders', 'fallbacks')
    op.drop_column('jobs', 'keep_s')
    op.drop_column('jobs', 'fallbacks')
