"""Own keys: accounts' keys of providers, sealed; whose a credential is, and which jobs go by their account's key.

The columns have a constant default or may be NULL, and nothing old reads them, so the release before works on while
and after this runs. It would send such jobs with the operator's keys: no one can store a key before the new release
has its secret. The index holds no rows at first; building it reads the table once.
"""

from alembic import op
import sqlalchemy as sa

revision = '0022'
down_revision = '0021'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        'own_keys',
        sa.Column('credential_id', sa.Text(), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('provider', sa.Text(), nullable=False),
        sa.Column('sealed', sa.LargeBinary(), nullable=True),
        sa.Column('last_four', sa.Text(), nullable=False),
        sa.Column('created_at', TIME, server_default=sa.text('clock_timestamp()'), nullable=False),
        sa.Column('checked_at', TIME, nullable=True),
        sa.Column('last_used_at', TIME, nullable=True),
        sa.Column('deleted_at', TIME, nullable=True),
        sa.CheckConstraint('deleted_at IS NOT NULL OR sealed IS NOT NULL', name=op.f('own_keys_live_has_key')),
        sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('own_keys_account_id_fkey')),
        sa.PrimaryKeyConstraint('credential_id', name=op.f('own_keys_pkey')),
    )
    op.create_index(
        'own_keys_live', 'own_keys', ['account_id', 'provider'], unique=True, postgresql_where=sa.text('deleted_at IS NULL')
    )
    op.create_index(
        'own_keys_closing', 'own_keys', ['deleted_at'], unique=False, postgresql_where=sa.text('deleted_at IS NOT NULL')
    )
    op.add_column('credentials', sa.Column('account_id', sa.Text(), nullable=True))
    op.create_index(
        'credentials_house', 'credentials', ['provider'], unique=False, postgresql_where=sa.text('account_id IS NULL')
    )
    op.add_column('jobs', sa.Column('own_key', sa.Boolean(), server_default=sa.text('false'), nullable=False))
    op.create_index(
        'jobs_own_queued',
        'jobs',
        ['account_id', 'provider'],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND own_key"),
    )


def downgrade() -> None:
    op.drop_index('jobs_own_queued', table_name='jobs')
    op.drop_column('jobs', 'own_key')
    op.drop_index('credentials_house', table_name='credentials')
    # What is left of them would be the operator's: no worker knows their keys.
    op.execute('DELETE FROM permits USING credentials AS c WHERE c.id = permits.credential_id AND c.account_id IS NOT NULL')
    op.execute(
        'DELETE FROM submit_tokens USING credentials AS c'
        ' WHERE c.id = submit_tokens.credential_id AND c.account_id IS NOT NULL'
    )
    op.execute('DELETE FROM credentials WHERE account_id IS NOT NULL')
    op.drop_column('credentials', 'account_id')
    op.drop_table('own_keys')
