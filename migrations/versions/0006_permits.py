"""A row for every permit and every submit of a minute.

The columns `active` and `submits` of credentials and `failing_job` of providers stay for workers of the release
before that still run. A new worker makes the rows of its credentials when it starts, before its first claim.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('permits',
    sa.Column('credential_id', sa.Text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('call_id', sa.Text(), nullable=True),
    sa.Column('taken_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('credential_id', 'number', name=op.f('permits_pkey')),
    postgresql_with={'fillfactor': 50}
    )
    op.create_index('permits_call', 'permits', ['call_id'], unique=True, postgresql_where=sa.text('call_id IS NOT NULL'))
    op.create_index('permits_free', 'permits', ['credential_id', 'call_id', 'number'], unique=False, postgresql_where=sa.text('call_id IS NULL'))
    op.create_table('submit_tokens',
    sa.Column('credential_id', sa.Text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('free_at', sa.DateTime(timezone=True), server_default=sa.text("'-infinity'"), nullable=False),
    sa.PrimaryKeyConstraint('credential_id', 'number', name=op.f('submit_tokens_pkey')),
    postgresql_with={'fillfactor': 50}
    )
    op.create_index('submit_tokens_free', 'submit_tokens', ['credential_id', 'free_at'], unique=False)
    op.add_column('providers', sa.Column('failing_jobs', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False))
    # A worker of the release before gives back at the end of a call what a new worker has not counted there.
    op.drop_constraint(op.f('credentials_active_not_negative'), 'credentials', type_='check')


def downgrade() -> None:
    op.execute('UPDATE credentials AS c SET active = (SELECT count(*) FROM upstream_calls AS u WHERE u.credential_id = c.id'
               " AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain')))")
    op.create_check_constraint(op.f('credentials_active_not_negative'), 'credentials', 'active >= 0')
    op.drop_column('providers', 'failing_jobs')
    op.drop_table('submit_tokens')
    op.drop_table('permits')
