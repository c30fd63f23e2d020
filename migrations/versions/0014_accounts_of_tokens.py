"""The id under which an issuer of tokens knows an account: a column that may be NULL, and that the release before
neither reads nor writes. The table has one row an account, so that its index is built in place.
"""

from alembic import op
import sqlalchemy as sa

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('accounts', sa.Column('external_id', sa.Text(), nullable=True))
    op.create_unique_constraint(op.f('accounts_external_id_key'), 'accounts', ['external_id'])


def downgrade() -> None:
    op.drop_constraint(op.f('accounts_external_id_key'), 'accounts', type_='unique')
    op.drop_column('accounts', 'external_id')
