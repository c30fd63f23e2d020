"""Limits of load: how many requests and images a minute, and how many jobs in flight, an account and a key may have,
and the buckets that the images of a minute are taken from.

Columns may be NULL and nothing old reads them, so the release before works on while and after this runs; it keeps none
of these limits.
"""

from alembic import op
import sqlalchemy as sa

revision = '0021'
down_revision = '0020'
branch_labels = None
depends_on = None

LIMITS = ('requests_per_minute', 'max_in_flight', 'images_per_minute')


def upgrade() -> None:
    for table in ('accounts', 'api_keys'):
        for name in LIMITS:
            op.add_column(table, sa.Column(name, sa.Integer(), nullable=True))
        op.create_check_constraint(
            op.f(f'{table}_load_limits_positive'),
            table,
            'requests_per_minute > 0 AND max_in_flight > 0 AND images_per_minute > 0',
        )
    op.create_table(
        'image_buckets',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('images', sa.Float(), nullable=False),
        sa.Column('at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('image_buckets_pkey')),
        postgresql_with={'fillfactor': 50},
    )


def downgrade() -> None:
    op.drop_table('image_buckets')
    for table in ('api_keys', 'accounts'):
        op.drop_constraint(op.f(f'{table}_load_limits_positive'), table, type_='check')
        for name in reversed(LIMITS):
            op.drop_column(table, name)
