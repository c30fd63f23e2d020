"""Rules on abuse: keys that are paused, what tripped, accounts with rules of their own, and counts of wrong keys.

The columns may be NULL and the release before neither reads nor writes them: a key that is paused while both releases
run opens at the web processes of the release before.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0024'
down_revision = '0023'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text('clock_timestamp()')


def upgrade() -> None:
    op.add_column('api_keys', sa.Column('paused_at', TIME, nullable=True))
    op.add_column('api_keys', sa.Column('pause_reason', sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f('api_keys_pause_has_reason'), 'api_keys', '(paused_at IS NULL) = (pause_reason IS NULL)'
    )
    op.create_table(
        'abuse_overrides',
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('rule', sa.Text(), nullable=False),
        sa.Column('changes', postgresql.JSONB(), nullable=False),
        sa.Column('updated_at', TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('abuse_overrides_account_id_fkey')),
        sa.PrimaryKeyConstraint('account_id', 'rule', name=op.f('abuse_overrides_pkey')),
    )
    op.create_table(
        'abuse_events',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('at', TIME, server_default=NOW, nullable=False),
        sa.Column('rule', sa.Text(), nullable=False),
        sa.Column('kind', sa.Text(), nullable=False),
        sa.Column('action', sa.Text(), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=True),
        sa.Column('key_id', sa.Text(), nullable=True),
        sa.Column('address', sa.Text(), nullable=True),
        sa.Column('subject', sa.Text(), nullable=False),
        sa.Column('window_at', TIME, nullable=False),
        sa.Column('figures', postgresql.JSONB(), nullable=False),
        sa.Column('paused_keys', postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column('spared_keys', postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column('acknowledged_at', TIME, nullable=True),
        sa.Column('acknowledged_by', sa.Text(), nullable=True),
        sa.Column('note', sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("action IN ('log', 'notify', 'pause_key')", name=op.f('abuse_events_action_known')),
        sa.CheckConstraint(
            '(acknowledged_at IS NULL) = (acknowledged_by IS NULL)', name=op.f('abuse_events_acknowledged_by_someone')
        ),
        sa.PrimaryKeyConstraint('id', name=op.f('abuse_events_pkey')),
    )
    op.create_index('abuse_events_once', 'abuse_events', ['rule', 'subject', 'window_at'], unique=True)
    op.create_index(
        'abuse_events_account', 'abuse_events', ['account_id', 'id'], postgresql_where=sa.text('account_id IS NOT NULL')
    )
    op.create_index(
        'abuse_events_open', 'abuse_events', ['id'], postgresql_where=sa.text('acknowledged_at IS NULL')
    )
    op.create_index('abuse_events_at', 'abuse_events', ['at'])
    op.create_table(
        'abuse_tallies',
        sa.Column('kind', sa.Text(), nullable=False),
        sa.Column('minute', TIME, nullable=False),
        sa.Column('subject', sa.Text(), nullable=False),
        sa.Column('tally', sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('wrong_key', 'wrong_address', 'requests')", name=op.f('abuse_tallies_kind_known')),
        sa.PrimaryKeyConstraint('kind', 'minute', 'subject', name=op.f('abuse_tallies_pkey')),
    )


def downgrade() -> None:
    op.drop_table('abuse_tallies')
    op.drop_table('abuse_events')
    op.drop_table('abuse_overrides')
    op.drop_constraint(op.f('api_keys_pause_has_reason'), 'api_keys', type_='check')
    op.drop_column('api_keys', 'pause_reason')
    op.drop_column('api_keys', 'paused_at')
