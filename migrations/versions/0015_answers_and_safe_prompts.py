"""The upstreams' own answers in a table of their own, and how far a job is with adjusting a refused prompt.

Both are new: the release before neither reads nor writes them, and works on while and after this runs.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('safe_prompt', sa.Text(), nullable=True))
    op.add_column('jobs', sa.Column('prompt_adjusted_at', sa.DateTime(timezone=True), nullable=True))
    # Every row there is has NULL, which passes. NOT VALID spares reading them all while no one else can read the table.
    op.execute(
        "ALTER TABLE jobs ADD CONSTRAINT jobs_safe_prompt_known"
        " CHECK (safe_prompt IN ('wanted', 'adjusting', 'adjusted')) NOT VALID"
    )
    op.create_table(
        'call_answers',
        sa.Column('call_id', sa.Text(), nullable=False),
        sa.Column('answer', postgresql.JSONB(), nullable=False),
        sa.Column('answered_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
        sa.ForeignKeyConstraint(['call_id'], ['upstream_calls.id'], name=op.f('call_answers_call_id_fkey'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('call_id', name=op.f('call_answers_pkey')),
    )
    op.create_index('call_answers_kept', 'call_answers', ['answered_at'], unique=False)


def downgrade() -> None:
    op.drop_index('call_answers_kept', table_name='call_answers')
    op.drop_table('call_answers')
    op.drop_constraint(op.f('jobs_safe_prompt_known'), 'jobs', type_='check')
    op.drop_column('jobs', 'prompt_adjusted_at')
    op.drop_column('jobs', 'safe_prompt')
