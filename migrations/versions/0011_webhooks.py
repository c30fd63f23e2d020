"""Callbacks: endpoints, accounts' secrets, the outbox, and what an order's own URL is told. The release before neither
reads nor writes any of it.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text('clock_timestamp()')
NEW_MESSAGE_ID = (
    "('msg_' || upper(lpad(to_hex(CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)), 13, '0')"
    " || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 1, 13)))"
)


def upgrade() -> None:
    op.add_column('orders', sa.Column('webhook', postgresql.JSONB(), nullable=True))
    op.create_table(
        'webhook_endpoints',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('url', sa.Text(), nullable=False),
        sa.Column('description', sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column('events', postgresql.JSONB(), nullable=False),
        sa.Column('secret', sa.Text(), nullable=False),
        sa.Column('previous_secret', sa.Text(), nullable=True),
        sa.Column('previous_until', TIME, nullable=True),
        sa.Column('created_at', TIME, server_default=NOW, nullable=False),
        sa.Column('updated_at', TIME, server_default=NOW, nullable=False),
        sa.Column('disabled_at', TIME, nullable=True),
        sa.Column('disabled_reason', sa.Text(), nullable=True),
        sa.Column('failing_since', TIME, nullable=True),
        sa.Column('not_before', TIME, nullable=True),
        sa.CheckConstraint(
            '(disabled_at IS NULL) = (disabled_reason IS NULL)', name=op.f('webhook_endpoints_disabled_has_reason')
        ),
        sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('webhook_endpoints_account_id_fkey')),
        sa.PrimaryKeyConstraint('id', name=op.f('webhook_endpoints_pkey')),
    )
    op.create_index('webhook_endpoints_account', 'webhook_endpoints', ['account_id', 'id'])
    op.create_table(
        'webhook_account_secrets',
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('secret', sa.Text(), nullable=False),
        sa.Column('previous_secret', sa.Text(), nullable=True),
        sa.Column('previous_until', TIME, nullable=True),
        sa.Column('created_at', TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('webhook_account_secrets_account_id_fkey')),
        sa.PrimaryKeyConstraint('account_id', name=op.f('webhook_account_secrets_pkey')),
    )
    op.create_table(
        'webhook_messages',
        sa.Column('id', sa.Text(), server_default=sa.text(NEW_MESSAGE_ID), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('job_id', sa.Text(), nullable=True),
        sa.Column('event', sa.Text(), nullable=False),
        sa.Column('at', TIME, server_default=NOW, nullable=False),
        sa.Column('endpoint_id', sa.Text(), nullable=True),
        sa.Column('target', sa.Text(), nullable=False),
        sa.Column('form', sa.Text(), nullable=False),
        sa.Column('state', sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column('due_at', TIME, server_default=NOW, nullable=False),
        sa.Column('attempts', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
        sa.Column('status', sa.SmallInteger(), nullable=True),
        sa.Column('error', sa.Text(), nullable=True),
        sa.Column('duration_ms', sa.Integer(), nullable=True),
        sa.Column('log', postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column('ended_at', TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed', 'dropped')", name=op.f('webhook_messages_state_known')
        ),
        sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name=op.f('webhook_messages_end_has_time')),
        sa.PrimaryKeyConstraint('id', name=op.f('webhook_messages_pkey')),
    )
    op.create_index(
        'webhook_messages_due', 'webhook_messages', ['due_at'], postgresql_where=sa.text("state = 'pending'")
    )
    op.create_index(
        'webhook_messages_job', 'webhook_messages', ['job_id', 'id'], postgresql_where=sa.text('job_id IS NOT NULL')
    )
    op.create_index('webhook_messages_account', 'webhook_messages', ['account_id', 'id'])
    op.create_index(
        'webhook_messages_ended', 'webhook_messages', ['ended_at'], postgresql_where=sa.text("state <> 'pending'")
    )


def downgrade() -> None:
    op.drop_table('webhook_messages')
    op.drop_table('webhook_account_secrets')
    op.drop_table('webhook_endpoints')
    op.drop_column('orders', 'webhook')
