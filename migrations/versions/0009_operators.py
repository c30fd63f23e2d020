"""What operators ask for: why something is paused, and jobs of every account by what is known of them.

Columns may be NULL and nothing old reads them, so the release before works on while and after this runs. The indexes
are built in place: submits wait for that long.
"""

from alembic import op
import sqlalchemy as sa

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

# convert_to() counts as depending on the database's encoding, which is always UTF-8 here.
PROMPT_SHA256 = """
CREATE FUNCTION prompt_sha256(request jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN encode(sha256(convert_to(request ->> 'prompt', 'UTF8')), 'hex')
"""


def upgrade() -> None:
    op.add_column('providers', sa.Column('pause_reason', sa.Text(), nullable=True))
    op.add_column('credentials', sa.Column('pause_reason', sa.Text(), nullable=True))
    op.execute(PROMPT_SHA256)
    op.create_index('orders_request_id', 'orders', ['request_id'], unique=False, postgresql_where=sa.text("request_id <> ''"))
    op.create_index('orders_prompt', 'orders', [sa.text('prompt_sha256(request)')], unique=False)
    op.create_index('jobs_provider_newest', 'jobs', ['provider', 'id'], unique=False)
    op.create_index('jobs_failed', 'jobs', ['failure_code', 'id'], unique=False, postgresql_where=sa.text("status = 'failed'"))
    op.create_index('jobs_failed_newest', 'jobs', ['id'], unique=False, postgresql_where=sa.text("status = 'failed'"))
    op.create_index('jobs_cancelled_newest', 'jobs', ['id'], unique=False, postgresql_where=sa.text("status = 'cancelled'"))


def downgrade() -> None:
    op.drop_index('jobs_cancelled_newest', table_name='jobs', postgresql_where=sa.text("status = 'cancelled'"))
    op.drop_index('jobs_failed_newest', table_name='jobs', postgresql_where=sa.text("status = 'failed'"))
    op.drop_index('jobs_failed', table_name='jobs', postgresql_where=sa.text("status = 'failed'"))
    op.drop_index('jobs_provider_newest', table_name='jobs')
    op.drop_index('orders_prompt', table_name='orders')
    op.drop_index('orders_request_id', table_name='orders', postgresql_where=sa.text("request_id <> ''"))
    op.execute('DROP FUNCTION prompt_sha256(jsonb)')
    op.drop_column('credentials', 'pause_reason')
    op.drop_column('providers', 'pause_reason')
