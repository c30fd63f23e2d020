"""The first tables."""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('accounts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('weight', sa.SmallInteger(), server_default=sa.text('1'), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('length(name) BETWEEN 1 AND 100', name=op.f('accounts_name_length')),
    sa.CheckConstraint('weight BETWEEN 1 AND 100', name=op.f('accounts_weight_in_range')),
    sa.PrimaryKeyConstraint('id', name=op.f('accounts_pkey')),
    sa.UniqueConstraint('name', name=op.f('accounts_name_key'))
    )
    op.create_table('credentials',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('active', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('max_active', sa.Integer(), nullable=True),
    sa.Column('paused_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('active >= 0', name=op.f('credentials_active_not_negative')),
    sa.PrimaryKeyConstraint('id', name=op.f('credentials_pkey')),
    postgresql_with={'fillfactor': 50}
    )
    op.create_table('marks',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('value', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('marks_pkey'))
    )
    op.create_table('workers',
    sa.Column('boot_id', sa.Text(), nullable=False),
    sa.Column('host', sa.Text(), nullable=False),
    sa.Column('pid', sa.Integer(), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('heartbeat_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.PrimaryKeyConstraint('boot_id', name=op.f('workers_pkey'))
    )
    op.create_table('api_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('secret_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('scopes', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_used_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('api_keys_account_id_fkey')),
    sa.PrimaryKeyConstraint('id', name=op.f('api_keys_pkey'))
    )
    op.create_index('api_keys_account', 'api_keys', ['account_id'], unique=False)
    op.create_table('balances',
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('available', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('queued', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('held', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.CheckConstraint('available >= 0', name=op.f('balances_available_not_negative')),
    sa.CheckConstraint('held >= 0', name=op.f('balances_held_not_negative')),
    sa.CheckConstraint('queued <= available', name=op.f('balances_queued_is_covered')),
    sa.CheckConstraint('queued >= 0', name=op.f('balances_queued_not_negative')),
    sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('balances_account_id_fkey')),
    sa.PrimaryKeyConstraint('account_id', name=op.f('balances_pkey')),
    postgresql_with={'fillfactor': 70}
    )
    op.create_table('idempotency_keys',
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('fingerprint', sa.LargeBinary(), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('idempotency_keys_account_id_fkey')),
    sa.PrimaryKeyConstraint('account_id', 'key', name=op.f('idempotency_keys_pkey'))
    )
    op.create_index('idempotency_keys_age', 'idempotency_keys', ['created_at'], unique=False)
    op.create_table('jobs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('operation', sa.Text(), nullable=False),
    sa.Column('model', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('n', sa.SmallInteger(), nullable=False),
    sa.Column('low_priority', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('weight', sa.SmallInteger(), server_default=sa.text('1'), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('version', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('owner', sa.Text(), nullable=True),
    sa.Column('fence', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('step_deadline_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('attempt', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('published_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('start_deadline_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cancel_requested_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cancel_outcome', sa.Text(), nullable=True),
    sa.Column('money', sa.Text(), nullable=False),
    sa.Column('unit_price', sa.BigInteger(), nullable=False),
    sa.Column('quoted', sa.BigInteger(), nullable=False),
    sa.Column('captured', sa.BigInteger(), nullable=True),
    sa.Column('released', sa.BigInteger(), nullable=True),
    sa.Column('failure_code', sa.Text(), nullable=True),
    sa.Column('failure_detail', sa.Text(), nullable=True),
    sa.Column('notes', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name=op.f('jobs_failure_has_code')),
    sa.CheckConstraint("(status = 'running') = (owner IS NOT NULL)", name=op.f('jobs_running_has_owner')),
    sa.CheckConstraint("(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name=op.f('jobs_end_has_time')),
    sa.CheckConstraint("(status IN ('succeeded', 'failed', 'cancelled')) = (money = 'settled')", name=op.f('jobs_money_fits_status')),
    sa.CheckConstraint("money <> 'queued' OR status = 'queued'", name=op.f('jobs_held_before_running')),
    sa.CheckConstraint("money IN ('queued', 'held', 'settled')", name=op.f('jobs_money_known')),
    sa.CheckConstraint("status IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')", name=op.f('jobs_status_known')),
    sa.CheckConstraint('captured + released <= quoted', name=op.f('jobs_settlement_within_quote')),
    sa.CheckConstraint('n BETWEEN 1 AND 10', name=op.f('jobs_n_in_range')),
    sa.CheckConstraint('unit_price >= 0 AND quoted >= 0', name=op.f('jobs_price_not_negative')),
    sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('jobs_account_id_fkey')),
    sa.PrimaryKeyConstraint('id', name=op.f('jobs_pkey')),
    postgresql_with={'fillfactor': 70}
    )
    op.create_index('jobs_account_newest', 'jobs', ['account_id', 'id'], unique=False)
    op.create_index('jobs_published', 'jobs', ['account_id', 'provider'], unique=False, postgresql_where=sa.text("status = 'queued' AND published_at IS NOT NULL"))
    op.create_index('jobs_queue_order', 'jobs', ['provider', 'id'], unique=False, postgresql_where=sa.text("status = 'queued'"))
    op.create_index('jobs_republish', 'jobs', ['published_at'], unique=False, postgresql_where=sa.text("status = 'queued' AND published_at IS NOT NULL"))
    op.create_index('jobs_running', 'jobs', ['owner'], unique=False, postgresql_where=sa.text("status = 'running'"))
    op.create_index('jobs_start_deadline', 'jobs', ['start_deadline_at'], unique=False, postgresql_where=sa.text("status = 'queued'"))
    op.create_index('jobs_unpublished', 'jobs', ['account_id', 'provider', 'low_priority', 'due_at'], unique=False, postgresql_where=sa.text("status = 'queued' AND published_at IS NULL"))
    op.create_index('jobs_waiting_due', 'jobs', ['provider', 'due_at'], unique=False, postgresql_where=sa.text("status = 'waiting'"))
    op.create_table('transfers',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=True),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('target', sa.Text(), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('note', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.CheckConstraint("(kind IN ('hold', 'capture', 'release')) = (job_id IS NOT NULL)", name=op.f('transfers_job_fits_the_kind')),
    sa.CheckConstraint("(kind, source, target) IN (('grant', 'house:issued', 'acct:available'), ('hold', 'acct:available', 'acct:held'),('capture', 'acct:held', 'house:revenue'), ('release', 'acct:held', 'acct:available'),('adjust', 'house:issued', 'acct:available'), ('adjust', 'acct:available', 'house:issued'))", name=op.f('transfers_places_fit_the_kind')),
    sa.CheckConstraint("kind IN ('grant', 'hold', 'capture', 'release', 'adjust')", name=op.f('transfers_kind_known')),
    sa.CheckConstraint('amount >= 0', name=op.f('transfers_amount_not_negative')),
    sa.ForeignKeyConstraint(['account_id'], ['accounts.id'], name=op.f('transfers_account_id_fkey')),
    sa.PrimaryKeyConstraint('id', name=op.f('transfers_pkey'))
    )
    op.create_index('transfers_account', 'transfers', ['account_id', 'id'], unique=False)
    op.create_index('transfers_once_per_job', 'transfers', ['job_id', 'kind'], unique=True, postgresql_where=sa.text('job_id IS NOT NULL'))
    op.create_table('inputs',
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('position', sa.SmallInteger(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('mime', sa.Text(), nullable=False),
    sa.Column('width_px', sa.Integer(), nullable=False),
    sa.Column('height_px', sa.Integer(), nullable=False),
    sa.Column('size_bytes', sa.Integer(), nullable=False),
    sa.Column('sha256', sa.Text(), nullable=False),
    sa.CheckConstraint("role IN ('image', 'mask', 'face')", name=op.f('inputs_role_known')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('inputs_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'role', 'position', name=op.f('inputs_pkey'))
    )
    op.create_table('job_events',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('data', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('job_events_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('job_events_pkey'))
    )
    op.create_index('job_events_job', 'job_events', ['job_id', 'id'], unique=False)
    op.create_table('orders',
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('request', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('warnings', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
    sa.Column('metadata', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('price_version', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('request_id', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('orders_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', name=op.f('orders_pkey'))
    )
    op.create_table('upstream_calls',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('slot', sa.SmallInteger(), nullable=False),
    sa.Column('try', sa.SmallInteger(), nullable=False),
    sa.Column('pictures', sa.SmallInteger(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('model', sa.Text(), nullable=False),
    sa.Column('credential_id', sa.Text(), nullable=False),
    sa.Column('base_url', sa.Text(), nullable=False),
    sa.Column('dedupe_key', sa.Text(), nullable=False),
    sa.Column('outcome', sa.Text(), nullable=True),
    sa.Column('intended_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('answered_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('closed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('give_up_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('missing_since', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cancel_asked_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('upstream_id', sa.Text(), nullable=True),
    sa.Column('poll_url', sa.Text(), nullable=True),
    sa.Column('result', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('pictures_kept', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('error_detail', sa.Text(), nullable=True),
    sa.Column('retryable', sa.Boolean(), nullable=True),
    sa.Column('retry_after_s', sa.Float(), nullable=True),
    sa.Column('resends', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('written_off', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.CheckConstraint("outcome IN ('accepted', 'uncertain', 'finished', 'kept', 'not_run', 'failed', 'refused', 'misconfigured', 'cancelled', 'timed_out', 'lost')", name=op.f('upstream_calls_outcome_known')),
    sa.CheckConstraint('pictures BETWEEN 1 AND 10', name=op.f('upstream_calls_pictures_in_range')),
    sa.ForeignKeyConstraint(['credential_id'], ['credentials.id'], name=op.f('upstream_calls_credential_id_fkey')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('upstream_calls_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('upstream_calls_pkey')),
    sa.UniqueConstraint('dedupe_key', name=op.f('upstream_calls_dedupe_key_key')),
    sa.UniqueConstraint('job_id', 'slot', 'try', name=op.f('upstream_calls_job_id_slot_try_key'))
    )
    op.create_index('upstream_calls_open', 'upstream_calls', ['credential_id'], unique=False, postgresql_where=sa.text("outcome IS NULL OR outcome IN ('accepted', 'uncertain')"))
    op.create_table('images',
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('index', sa.SmallInteger(), nullable=False),
    sa.Column('call_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('mime', sa.Text(), nullable=False),
    sa.Column('width_px', sa.Integer(), nullable=False),
    sa.Column('height_px', sa.Integer(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.Column('sha256', sa.Text(), nullable=False),
    sa.Column('seed', sa.BigInteger(), nullable=True),
    sa.Column('revised_prompt', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['call_id'], ['upstream_calls.id'], name=op.f('images_call_id_fkey'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('images_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'index', name=op.f('images_pkey'))
    )
    # The ledger only grows: who may write it may not change what is written.
    op.execute(
        "CREATE FUNCTION transfers_are_final() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'transfers are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER transfers_are_final BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers"
        " FOR EACH STATEMENT EXECUTE FUNCTION transfers_are_final()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER transfers_are_final ON transfers")
    op.execute("DROP FUNCTION transfers_are_final()")
    op.drop_table('images')
    op.drop_index('upstream_calls_open', table_name='upstream_calls', postgresql_where=sa.text("outcome IS NULL OR outcome IN ('accepted', 'uncertain')"))
    op.drop_table('upstream_calls')
    op.drop_table('orders')
    op.drop_index('job_events_job', table_name='job_events')
    op.drop_table('job_events')
    op.drop_table('inputs')
    op.drop_index('transfers_once_per_job', table_name='transfers', postgresql_where=sa.text('job_id IS NOT NULL'))
    op.drop_index('transfers_account', table_name='transfers')
    op.drop_table('transfers')
    op.drop_index('jobs_waiting_due', table_name='jobs', postgresql_where=sa.text("status = 'waiting'"))
    op.drop_index('jobs_unpublished', table_name='jobs', postgresql_where=sa.text("status = 'queued' AND published_at IS NULL"))
    op.drop_index('jobs_start_deadline', table_name='jobs', postgresql_where=sa.text("status = 'queued'"))
    op.drop_index('jobs_running', table_name='jobs', postgresql_where=sa.text("status = 'running'"))
    op.drop_index('jobs_republish', table_name='jobs', postgresql_where=sa.text("status = 'queued' AND published_at IS NOT NULL"))
    op.drop_index('jobs_queue_order', table_name='jobs', postgresql_where=sa.text("status = 'queued'"))
    op.drop_index('jobs_published', table_name='jobs', postgresql_where=sa.text("status = 'queued' AND published_at IS NOT NULL"))
    op.drop_index('jobs_account_newest', table_name='jobs')
    op.drop_table('jobs')
    op.drop_index('idempotency_keys_age', table_name='idempotency_keys')
    op.drop_table('idempotency_keys')
    op.drop_table('balances')
    op.drop_index('api_keys_account', table_name='api_keys')
    op.drop_table('api_keys')
    op.drop_table('workers')
    op.drop_table('marks')
    op.drop_table('credentials')
    op.drop_table('accounts')
