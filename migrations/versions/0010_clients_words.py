"""What the dialect of an order keeps with it: a column that may be NULL, and that the release before neither reads nor
writes.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('orders', sa.Column('client', postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column('orders', 'client')
