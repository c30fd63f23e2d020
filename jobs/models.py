"""The tables of a job. ``jobs`` is narrow and hot; ``orders`` is written once and read seldom.

Indexes are partial on live states, so that a million finished jobs cost the queue nothing.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from core.tables import metadata

NOW = func.clock_timestamp()
TIME = DateTime(timezone=True)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("operation", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("n", SmallInteger, nullable=False),
    Column("low_priority", Boolean, nullable=False, server_default=text("false")),
    Column("weight", SmallInteger, nullable=False, server_default=text("1")),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    # Who may move it on: the owner's boot id and the fence it was given.
    Column("owner", Text),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    Column("step_deadline_at", TIME),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    # When somebody should look next, and when a message last said so (NULL: unpublished).
    Column("due_at", TIME, nullable=False, server_default=NOW),
    Column("published_at", TIME),
    Column("start_deadline_at", TIME),
    # By when it must have moved on once it was begun, in any live state: the sweep ends what is past it.
    Column("deadline_at", TIME),
    Column("lost_messages", SmallInteger, nullable=False, server_default=text("0")),  # sent again so often
    Column("node", Text),  # the worker node that made its latest call
    Column("progress", Float),  # 0 to 1, where the upstream tells
    Column("progress_at", TIME),
    Column("cancel_requested_at", TIME),
    Column("cancel_outcome", Text),
    Column("money", Text, nullable=False),
    Column("unit_price", BigInteger, nullable=False),
    Column("quoted", BigInteger, nullable=False),
    Column("captured", BigInteger),
    Column("released", BigInteger),
    Column("failure_code", Text),
    Column("failure_detail", Text),
    Column("notes", JSONB),  # warnings that came up while it ran
    Column("fallbacks", SmallInteger, nullable=False, server_default=text("0")),  # models still to fall back to
    Column("keep_s", Integer),  # images go so long after the end; NULL: by the general rule
    Column("per_call", SmallInteger, nullable=False, server_default=text("1")),  # images that one call makes at most
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    CheckConstraint(
        "status IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')", name="status_known"
    ),
    CheckConstraint("money IN ('queued', 'held', 'settled')", name="money_known"),
    # A live job has its price counted or held, and only before its first claim counted;
    # a terminal job holds nothing and says when it ended.
    CheckConstraint("(status IN ('succeeded', 'failed', 'cancelled')) = (money = 'settled')", name="money_fits_status"),
    CheckConstraint("money <> 'queued' OR status = 'queued'", name="held_before_running"),
    CheckConstraint(
        "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="end_has_time"
    ),
    CheckConstraint("(status = 'running') = (owner IS NOT NULL)", name="running_has_owner"),
    CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="failure_has_code"),
    CheckConstraint("n BETWEEN 1 AND 10", name="n_in_range"),
    CheckConstraint("unit_price >= 0 AND quoted >= 0", name="price_not_negative"),
    CheckConstraint("captured + released <= quoted", name="settlement_within_quote"),
    CheckConstraint("captured >= 0 AND released >= 0", name="settlement_not_negative"),
    Index("jobs_account_newest", "account_id", "id"),
    # An account's newest tasks of one status, however rare it is among them.
    Index("jobs_account_queued", "account_id", "id", postgresql_where=text("status = 'queued'")),
    Index("jobs_account_running", "account_id", "id", postgresql_where=text("status IN ('running', 'waiting')")),
    Index(
        "jobs_account_ended",
        "account_id",
        "status",
        "id",
        postgresql_where=text("status IN ('succeeded', 'failed', 'cancelled')"),
    ),
    Index(
        "jobs_unpublished",
        "account_id",
        "provider",
        "low_priority",
        "due_at",
        postgresql_where=text("status = 'queued' AND published_at IS NULL"),
    ),
    Index(
        "jobs_published",
        "account_id",
        "provider",
        postgresql_where=text("status = 'queued' AND published_at IS NOT NULL"),
    ),
    Index("jobs_queue_order", "provider", "id", postgresql_where=text("status = 'queued'")),
    Index(
        "jobs_republish",
        "published_at",
        postgresql_where=text("status = 'queued' AND published_at IS NOT NULL"),
    ),
    Index("jobs_waiting_due", "provider", "due_at", postgresql_where=text("status = 'waiting'")),
    # In turns by account, so that one's thousand images in progress do not delay the look at another's.
    Index("jobs_waiting_turns", "provider", "account_id", "due_at", postgresql_where=text("status = 'waiting'")),
    Index("jobs_running", "owner", postgresql_where=text("status = 'running'")),
    # Newest service times of a model, for the estimate of waits.
    Index("jobs_measured", "provider", "model", "finished_at", postgresql_where=text("status = 'succeeded'")),
    Index(
        "jobs_deadline",
        text("coalesce(deadline_at, start_deadline_at)"),
        postgresql_where=text("status IN ('queued', 'waiting')"),
    ),
    # What an account has held, for its owner to see.
    Index("jobs_held", "account_id", postgresql_where=text("money = 'held'")),
    Index("jobs_short_lives", "finished_at", postgresql_where=text("keep_s IS NOT NULL")),
    postgresql_with={"fillfactor": 70},
)

orders = Table(
    "orders",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    # What will be asked: prompt, size, params, extra, and what was normalised.
    Column("request", JSONB, nullable=False),
    # [{model, provider, unit_price, request}] in the order in which they are tried.
    Column("fallbacks", JSONB),
    Column("warnings", JSONB, nullable=False, server_default=text("'[]'")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("price_version", Text, nullable=False, server_default=text("''")),
    Column("request_id", Text, nullable=False, server_default=text("''")),
    Column("unit_cost", BigInteger),  # what one image by the first model costs us, in micro-USD, as far as we know
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Index("idempotency_keys_age", "created_at"),
)

inputs = Table(
    "inputs",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("role", Text, primary_key=True),
    Column("position", SmallInteger, primary_key=True),
    Column("key", Text, nullable=False),
    Column("mime", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("deleted_at", TIME),
    CheckConstraint("role IN ('image', 'mask', 'face')", name="role_known"),
    Index("inputs_kept", "created_at", "job_id", postgresql_where=text("deleted_at IS NULL")),
)

upstream_calls = Table(
    "upstream_calls",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("slot", SmallInteger, nullable=False),
    Column("try", SmallInteger, nullable=False),
    Column("pictures", SmallInteger, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("credential_id", Text, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("dedupe_key", Text, nullable=False, unique=True),
    Column("outcome", Text),  # NULL while unanswered
    Column("intended_at", TIME, nullable=False, server_default=NOW),
    Column("answered_at", TIME),
    Column("closed_at", TIME),
    Column("give_up_at", TIME, nullable=False),
    Column("missing_since", TIME),  # an uncertain or accepted call the upstream does not know
    Column("cancel_asked_at", TIME),
    Column("upstream_id", Text),
    Column("poll_url", Text),
    Column("result", JSONB),  # links of a finished call, until its images are kept
    Column("pictures_kept", SmallInteger, nullable=False, server_default=text("0")),
    Column("error_code", Text),
    Column("error_detail", Text),
    Column("retryable", Boolean),
    Column("retry_after_s", Float),
    Column("resends", SmallInteger, nullable=False, server_default=text("0")),
    Column("written_off", Boolean, nullable=False, server_default=text("false")),
    Column("unit_price", BigInteger),  # of one image by this call's model; NULL: the job's
    Column("searches", SmallInteger, nullable=False, server_default=text("0")),  # for an answer that was lost
    # What the call was to cost us and what the upstream says that it cost, in micro-USD; `usage` in its own units.
    Column("expected_cost", BigInteger),
    Column("reported_cost", BigInteger),
    Column("usage", JSONB),
    UniqueConstraint("job_id", "slot", "try"),
    CheckConstraint(
        "outcome IN ('accepted', 'uncertain', 'finished', 'kept', 'not_run', 'failed', 'refused',"
        " 'misconfigured', 'cancelled', 'timed_out', 'lost')",
        name="outcome_known",
    ),
    CheckConstraint("pictures BETWEEN 1 AND 10", name="pictures_in_range"),
    Index(
        "upstream_calls_open",
        "credential_id",
        postgresql_where=text("outcome IS NULL OR outcome IN ('accepted', 'uncertain')"),
    ),
    # Whose is this id, and which calls might be meant: the search for a lost answer asks both.
    Index("upstream_calls_upstream_id", "upstream_id"),
    Index(
        "upstream_calls_without_id",
        "credential_id",
        "intended_at",
        postgresql_where=text("upstream_id IS NULL"),
    ),
)

images = Table(
    "images",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("index", SmallInteger, primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("mime", Text, nullable=False),
    Column("width_px", Integer),  # NULL: no image but a 3D file or a text
    Column("height_px", Integer),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("seed", BigInteger),
    Column("revised_prompt", Text),
    Column("text", Text),  # what a model of texts answered
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("deleted_at", TIME),
    Index("images_kept", "created_at", "job_id", postgresql_where=text("deleted_at IS NULL")),
)

# Blobs whose row is a tombstone already and whose bytes are still to go. Empty nearly always.
doomed_blobs = Table(
    "doomed_blobs",
    metadata,
    Column("key", Text, primary_key=True),
    Column("doomed_at", TIME, nullable=False, server_default=NOW),
    Column("due_at", TIME, nullable=False, server_default=NOW),  # later again when the store would not
    Index("doomed_blobs_due", "due_at"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("at", TIME, nullable=False, server_default=NOW),
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    Index("job_events_job", "job_id", "id"),
)

workers = Table(
    "workers",
    metadata,
    Column("boot_id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", TIME, nullable=False, server_default=NOW),
    Column("heartbeat_at", TIME, nullable=False, server_default=NOW),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", Text, primary_key=True),
    Column("provider", Text, nullable=False),
    # Written and read by workers of the release before only; goes with the next release.
    Column("active", Integer, nullable=False, server_default=text("0")),
    Column("max_active", Integer),
    Column("max_per_minute", Integer),
    # Written and read by workers of the release before only; goes with the next release.
    Column("submits", JSONB, nullable=False, server_default=text("'{}'")),
    Column("not_before", TIME),  # the upstream asked everyone to come back later
    Column("paused_at", TIME),
    postgresql_with={"fillfactor": 50},
)

# One row for each call that may be open at a credential with `max_active`. Numbers above `max_active` are
# taken by calls from before the limit was lowered or set; they are never taken again.
permits = Table(
    "permits",
    metadata,
    Column("credential_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("call_id", Text),  # NULL: free
    Column("taken_at", TIME),
    Index("permits_call", "call_id", unique=True, postgresql_where=text("call_id IS NOT NULL")),
    # call_id is always NULL here: sorted by it, a statement can use no other index (see capacity.TAKE).
    Index("permits_free", "credential_id", "call_id", "number", postgresql_where=text("call_id IS NULL")),
    postgresql_with={"fillfactor": 50},
)

# One row for each submit a minute at a credential with `max_per_minute`; used again a minute and 2 s later.
submit_tokens = Table(
    "submit_tokens",
    metadata,
    Column("credential_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("free_at", TIME, nullable=False, server_default=text("'-infinity'")),
    Index("submit_tokens_free", "credential_id", "free_at"),
    postgresql_with={"fillfactor": 50},
)

# What holds for all credentials of a provider: an operator's pause, and the circuit breaker.
providers = Table(
    "providers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused_at", TIME),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("failing_since", TIME),
    # Written and read by workers of the release before only; goes with the next release.
    Column("failing_job", Text),
    # The jobs whose failures were counted, newest last: a job counts once (jobs/dispatch/circuit.py).
    Column("failing_jobs", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("trips", Integer, nullable=False, server_default=text("0")),
    Column("opened_at", TIME),
    Column("open_until", TIME),  # NULL while closed; past: half-open, one probe may go
    Column("probe_call_id", Text),
    CheckConstraint("(trips > 0) = (open_until IS NOT NULL)", name="open_has_end"),
    postgresql_with={"fillfactor": 50},
)
