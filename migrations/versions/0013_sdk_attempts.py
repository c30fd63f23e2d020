"""Attempts of SDKs that count their retries: a table that the release before neither reads nor writes."""

from alembic import op
import sqlalchemy as sa

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'sdk_attempts',
        sa.Column('job_id', sa.Text(), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('fingerprint', sa.LargeBinary(), nullable=False),
        sa.Column('retry_count', sa.SmallInteger(), nullable=False),
        sa.Column('answered', sa.Boolean(), server_default=sa.text('false'), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('sdk_attempts_account_id_fkey')),
        sa.PrimaryKeyConstraint('job_id', name=op.f('sdk_attempts_pkey')),
    )
    op.create_index('sdk_attempts_age', 'sdk_attempts', ['created_at'], unique=False)
    op.create_index('sdk_attempts_open', 'sdk_attempts', ['fingerprint', 'retry_count'], unique=False, postgresql_where=sa.text('NOT answered'))


def downgrade() -> None:
    op.drop_index('sdk_attempts_open', table_name='sdk_attempts', postgresql_where=sa.text('NOT answered'))
    op.drop_index('sdk_attempts_age', table_name='sdk_attempts')
    op.drop_table('sdk_attempts')
