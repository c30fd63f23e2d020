"""Refusals of screens: a table that the release before neither reads nor writes."""

from alembic import op
import sqlalchemy as sa

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'screening_refusals',
        sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
        sa.Column('account_id', sa.Text(), nullable=False),
        sa.Column('key_id', sa.Text(), nullable=True),
        sa.Column('screen', sa.Text(), nullable=False),
        sa.Column('category', sa.Text(), nullable=False),
        sa.Column('prompt_sha256', sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('screening_refusals_account_id_fkey')),
        sa.PrimaryKeyConstraint('id', name=op.f('screening_refusals_pkey')),
    )
    op.create_index('screening_refusals_age', 'screening_refusals', ['at'], unique=False)
    op.create_index('screening_refusals_account', 'screening_refusals', ['account_id', 'at'], unique=False)


def downgrade() -> None:
    op.drop_index('screening_refusals_account', table_name='screening_refusals')
    op.drop_index('screening_refusals_age', table_name='screening_refusals')
    op.drop_table('screening_refusals')
