"""Accounts over HTTP: limits of accounts and keys, keys that rotate, which key ordered a job, grants that are repeated
under one key, and the trail of what administrators did.

Columns may be NULL and nothing old reads them, so the release before works on while and after this runs. The indexes
hold few rows at first; building them reads the tables once.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text('clock_timestamp()')


def upgrade() -> None:
    for table in ('accounts', 'api_keys'):
        op.add_column(table, sa.Column('spend_day_limit', sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column('spend_month_limit', sa.BigInteger(), nullable=True))
        op.create_check_constraint(
            op.f(f'{table}_limits_not_negative'), table, 'spend_day_limit >= 0 AND spend_month_limit >= 0'
        )
    op.add_column('api_keys', sa.Column('models', postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column('api_keys', sa.Column('providers', postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column('api_keys', sa.Column('previous_sha256', sa.LargeBinary(), nullable=True))
    op.add_column('api_keys', sa.Column('previous_until', TIME, nullable=True))
    op.create_check_constraint(
        op.f('api_keys_previous_has_end'), 'api_keys', '(previous_sha256 IS NULL) = (previous_until IS NULL)'
    )
    op.add_column('jobs', sa.Column('key_id', sa.Text(), nullable=True))
    op.create_index(
        'jobs_key_newest', 'jobs', ['key_id', 'id'], unique=False, postgresql_where=sa.text('key_id IS NOT NULL')
    )
    op.add_column('transfers', sa.Column('request_key', sa.Text(), nullable=True))
    op.create_index('transfers_grants', 'transfers', ['id'], postgresql_where=sa.text('job_id IS NULL'))
    op.create_index(
        'transfers_once_per_request',
        'transfers',
        ['request_key'],
        unique=True,
        postgresql_where=sa.text('request_key IS NOT NULL'),
    )
    op.create_table(
        'spending_memos',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('upto', TIME, nullable=False),
        sa.Column('in_day', sa.BigInteger(), nullable=False),
        sa.Column('in_month', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('spending_memos_pkey')),
    )
    op.create_table(
        'admin_actions',
        sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column('at', TIME, server_default=NOW, nullable=False),
        sa.Column('actor', sa.Text(), nullable=False),
        sa.Column('actor_account_id', sa.Text(), nullable=True),
        sa.Column('actor_key_id', sa.Text(), nullable=True),
        sa.Column('address', sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column('request_id', sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column('action', sa.Text(), nullable=False),
        sa.Column('target', sa.Text(), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=True),
        sa.Column('before', postgresql.JSONB(), nullable=True),
        sa.Column('after', postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint('id', name=op.f('admin_actions_pkey')),
    )
    op.create_index('admin_actions_at', 'admin_actions', ['at'])
    op.create_index(
        'admin_actions_account', 'admin_actions', ['account_id', 'id'], postgresql_where=sa.text('account_id IS NOT NULL')
    )


def downgrade() -> None:
    op.drop_table('admin_actions')
    op.drop_table('spending_memos')
    op.drop_index('transfers_once_per_request', table_name='transfers')
    op.drop_index('transfers_grants', table_name='transfers')
    op.drop_column('transfers', 'request_key')
    op.drop_index('jobs_key_newest', table_name='jobs')
    op.drop_column('jobs', 'key_id')
    op.drop_constraint(op.f('api_keys_previous_has_end'), 'api_keys', type_='check')
    for column in ('previous_until', 'previous_sha256', 'providers', 'models'):
        op.drop_column('api_keys', column)
    for table in ('api_keys', 'accounts'):
        op.drop_constraint(op.f(f'{table}_limits_not_negative'), table, type_='check')
        op.drop_column(table, 'spend_month_limit')
        op.drop_column(table, 'spend_day_limit')
