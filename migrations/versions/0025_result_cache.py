"""Equal orders answered by an earlier job: which job, and what equal orders share.

Both columns may be NULL, and the release before neither reads nor writes them: its jobs answer no order. The reading of
usage counts such jobs under an outcome of their own; it is changed where it stands, so that whatever else has changed in
it stays.
"""

from alembic import op
import sqlalchemy as sa

revision = '0025'
down_revision = '0024'
branch_labels = None
depends_on = None

FACTS = "SELECT pg_get_functiondef('usage_facts(timestamptz, timestamptz)'::regprocedure)"
OUTCOME = "coalesce(j.status, '') AS outcome"
OUTCOME_OR_CACHED = "CASE WHEN j.cached_from IS NULL THEN coalesce(j.status, '') ELSE 'cached' END AS outcome"


def upgrade() -> None:
    op.add_column('jobs', sa.Column('cached_from', sa.Text(), nullable=True))
    op.add_column('orders', sa.Column('order_sha256', sa.LargeBinary(), nullable=True))
    op.create_index('orders_equal', 'orders', ['order_sha256', 'job_id'], unique=False, postgresql_where=sa.text('order_sha256 IS NOT NULL'))
    _change_facts(OUTCOME, OUTCOME_OR_CACHED)


def downgrade() -> None:
    _change_facts(OUTCOME_OR_CACHED, OUTCOME)
    op.drop_index('orders_equal', table_name='orders', postgresql_where=sa.text('order_sha256 IS NOT NULL'))
    op.drop_column('orders', 'order_sha256')
    op.drop_column('jobs', 'cached_from')


def _change_facts(old: str, new: str) -> None:
    connection = op.get_bind()
    facts = connection.execute(sa.text(FACTS)).scalar_one()
    if facts.count(old) != 1:
        raise RuntimeError(f'usage_facts does not say {old!r} once')
    connection.exec_driver_sql(facts.replace(old, new).replace('%', '%%'))
