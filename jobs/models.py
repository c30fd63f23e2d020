"""The tables of jobs, their calls and images, of batches, and of the credentials and providers that make them.

``jobs`` is narrow and hot; ``orders`` is written once and read seldom. Indexes are partial on live states, so that a
million finished jobs cost the queue nothing. Money is in whole micro-credits where it is ours and in micro-USD where
it is an upstream's; times are by the database's clock. JSON columns name the type of their document.
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
    Column("id", Text, primary_key=True),  # job_...: the order of ids is the order of the queue
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("key_id", Text),  # the API key of the order, or jwt; NULL: ordered before that was noted
    Column("operation", Text, nullable=False),  # generate, edit, upscale, ... as the catalogue names it
    Column("model", Text, nullable=False),  # the model that makes it now: the first, or a fallback
    Column("provider", Text, nullable=False),  # of that model
    Column("n", SmallInteger, nullable=False),  # images ordered
    Column("low_priority", Boolean, nullable=False, server_default=text("false")),
    Column("weight", SmallInteger, nullable=False, server_default=text("1")),  # its account's share of the queue
    Column("status", Text, nullable=False),  # jobs.states.JobStatus
    Column("version", Integer, nullable=False, server_default=text("1")),  # up with each change that callers can see
    Column("owner", Text),  # while running: the boot id of the worker that holds it
    Column("fence", Integer, nullable=False, server_default=text("0")),  # one higher with every claim
    Column("step_deadline_at", TIME),  # while running: by when its worker must have moved it on
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),  # calls made so far
    Column("due_at", TIME, nullable=False, server_default=NOW),  # when it should be looked at next
    Column("published_at", TIME),  # when a message last said so; NULL: unpublished
    Column("start_deadline_at", TIME),  # it fails unless it has started by then
    # By when it must have moved on once it was started, in any live state: the sweep ends what is past it.
    Column("deadline_at", TIME),
    Column("lost_messages", SmallInteger, nullable=False, server_default=text("0")),  # overdue messages, since it moved
    Column("node", Text),  # the worker node that made its latest call
    Column("progress", Float),  # 0 to 1, where the upstream reports it
    Column("progress_at", TIME),  # when progress last changed
    Column("cancel_requested_at", TIME),
    Column("cancel_after_at", TIME),  # when the sweep cancels it for its caller, unless it has ended
    Column("cancel_outcome", Text),  # how its cancel ended; the codes of docs/errors.md, "Cancelled jobs"
    Column("money", Text, nullable=False),  # jobs.states.Money
    Column("unit_price", BigInteger, nullable=False),  # micro-credits, of one image by ``model``
    Column("quoted", BigInteger, nullable=False),  # micro-credits reserved and held: the most it may cost
    Column("captured", BigInteger),  # micro-credits charged at its end
    Column("released", BigInteger),  # micro-credits given back at its end
    Column("failure_code", Text),  # docs/errors.md, "Failed jobs"
    Column("failure_detail", Text),  # for the owner to read
    Column("notes", JSONB),  # warnings that came up while it ran: a list of texts
    Column("fallbacks", SmallInteger, nullable=False, server_default=text("0")),  # models still to fall back to
    Column("keep_s", Integer),  # images are kept so long after the end; NULL: by the general rule
    Column("per_call", SmallInteger, nullable=False, server_default=text("1")),  # images that one call makes at most
    # Whether a refused prompt may be adjusted once (jobs.states.SafePrompt); NULL: not asked for.
    Column("safe_prompt", Text),
    Column("prompt_adjusted_at", TIME),  # calls before then were made with the first wording
    Column("cached_from", Text),  # the earlier job of its account whose images answered it; NULL: it was made
    # Whether ``model`` is called with the account's own key of its provider (own_keys), at the price of that.
    Column("own_key", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("started_at", TIME),  # its first claim
    Column("finished_at", TIME),  # its end
    CheckConstraint(
        "status IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')", name="status_known"
    ),
    CheckConstraint("money IN ('queued', 'held', 'settled')", name="money_known"),
    # The price of a live job is reserved or held (only reserved before its first claim); an ended job holds nothing and
    # has its time of end.
    CheckConstraint("(status IN ('succeeded', 'failed', 'cancelled')) = (money = 'settled')", name="money_fits_status"),
    CheckConstraint("money <> 'queued' OR status = 'queued'", name="held_before_running"),
    CheckConstraint(
        "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="end_has_time"
    ),
    CheckConstraint("(status = 'running') = (owner IS NOT NULL)", name="running_has_owner"),
    CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="failure_has_code"),
    CheckConstraint("safe_prompt IN ('wanted', 'adjusting', 'adjusted')", name="safe_prompt_known"),
    CheckConstraint("n BETWEEN 1 AND 10", name="n_in_range"),
    CheckConstraint("unit_price >= 0 AND quoted >= 0", name="price_not_negative"),
    CheckConstraint("captured + released <= quoted", name="settlement_within_quote"),
    CheckConstraint("captured >= 0 AND released >= 0", name="settlement_not_negative"),
    Index("jobs_account_newest", "account_id", "id"),
    Index("jobs_key_newest", "key_id", "id", postgresql_where=text("key_id IS NOT NULL")),
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
    # What is published at a provider, and of it what is an account's.
    Index(
        "jobs_published_turns",
        "provider",
        "account_id",
        postgresql_where=text("status = 'queued' AND published_at IS NOT NULL"),
    ),
    Index("jobs_queue_order", "provider", "id", postgresql_where=text("status = 'queued'")),
    Index(
        "jobs_own_queued",
        "account_id",
        "provider",
        postgresql_where=text("status = 'queued' AND own_key"),
    ),
    Index(
        "jobs_republish",
        "published_at",
        postgresql_where=text("status = 'queued' AND published_at IS NOT NULL"),
    ),
    Index("jobs_waiting_due", "provider", "due_at", postgresql_where=text("status = 'waiting'")),
    # Accounts take turns, so that a thousand images in progress of one do not delay the polling of another's.
    Index("jobs_waiting_turns", "provider", "account_id", "due_at", postgresql_where=text("status = 'waiting'")),
    Index("jobs_running", "owner", postgresql_where=text("status = 'running'")),
    # The newest service times of a model, for the estimate of waits.
    Index("jobs_measured", "provider", "model", "finished_at", postgresql_where=text("status = 'succeeded'")),
    Index(
        "jobs_deadline",
        text("coalesce(deadline_at, start_deadline_at)"),
        postgresql_where=text("status IN ('queued', 'waiting')"),
    ),
    Index(
        "jobs_cancel_after",
        "cancel_after_at",
        postgresql_where=text("cancel_after_at IS NOT NULL AND status IN ('queued', 'running', 'waiting')"),
    ),
    # What is held of an account's money, for its owner to see.
    Index("jobs_held", "account_id", postgresql_where=text("money = 'held'")),
    # Ended jobs that no capture tells of, by the day of their usage.
    Index("jobs_uncharged", "finished_at", postgresql_where=text("captured = 0")),
    Index("jobs_short_lives", "finished_at", postgresql_where=text("keep_s IS NOT NULL")),
    # The newest jobs of all accounts, for operators who search.
    Index("jobs_provider_newest", "provider", "id"),
    Index("jobs_failed", "failure_code", "id", postgresql_where=text("status = 'failed'")),
    Index("jobs_failed_newest", "id", postgresql_where=text("status = 'failed'")),
    Index("jobs_cancelled_newest", "id", postgresql_where=text("status = 'cancelled'")),
    postgresql_with={"fillfactor": 70},
)

orders = Table(
    "orders",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    # jobs.documents.StoredRequest: what is asked of the model.
    Column("request", JSONB, nullable=False),
    # A list of jobs.documents.StoredFallback, in the order in which they are tried.
    Column("fallbacks", JSONB),
    Column("warnings", JSONB, nullable=False, server_default=text("'[]'")),  # of the submit: a list of texts
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),  # jobs.documents.StoredMetadata
    Column("price_version", Text, nullable=False, server_default=text("''")),  # the catalogue that made the price
    Column("request_id", Text, nullable=False, server_default=text("''")),  # X-Request-Id of the submit
    Column("client", JSONB),  # what the dialect of the order keeps with it (app/dialects); NULL: nothing
    Column("webhook", JSONB),  # jobs.documents.StoredWebhook, of an order that names a URL of its own
    Column("unit_cost", BigInteger),  # micro-USD that one image by the first model costs us, as far as we know
    Column("parent_id", Text),  # the job that this one repeats
    Column("traceparent", Text),  # the span of its submit, as W3C writes it; NULL: it is not traced
    # What equal orders share (jobs/submission/result_cache.py); NULL: its job answers no other order.
    Column("order_sha256", LargeBinary),
    Index("orders_request_id", "request_id", postgresql_where=text("request_id <> ''")),
    # The function is made by migration 0009: SHA-256 of the prompt's UTF-8, in hex.
    Index("orders_prompt", text("prompt_sha256(request)")),
    Index("orders_parent", "parent_id", "job_id", postgresql_where=text("parent_id IS NOT NULL")),
    Index("orders_equal", "order_sha256", "job_id", postgresql_where=text("order_sha256 IS NOT NULL")),
)

# What was charged for the orders of a key, or an account, until a moment (jobs/submission/spending.py).
spending_memos = Table(
    "spending_memos",
    metadata,
    Column("id", Text, primary_key=True),  # of the key or the account
    Column("upto", TIME, nullable=False),
    Column("in_day", BigInteger, nullable=False),  # micro-credits, of the day (UTC) of that moment
    Column("in_month", BigInteger, nullable=False),  # of its month
)

# What is left of the images of a minute (jobs/submission/load.py), where a limit of them was met.
image_buckets = Table(
    "image_buckets",
    metadata,
    Column("id", Text, primary_key=True),  # of the key or the account, or ``installation``
    Column("images", Float, nullable=False),  # at that moment; it refills evenly
    Column("at", TIME, nullable=False),
    postgresql_with={"fillfactor": 50},
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("key", Text, primary_key=True),  # as the caller sent it
    Column("fingerprint", LargeBinary, nullable=False),  # digest of the order, to refuse the key with another one
    Column("job_id", Text, nullable=False),  # the job it made
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Index("idempotency_keys_age", "created_at"),
)

# Jobs whose orders came from SDKs that count their retries: by which attempt, and whether it was answered.
sdk_attempts = Table(
    "sdk_attempts",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),  # digest of who asks from where, and of the request
    Column("retry_count", SmallInteger, nullable=False),  # of the latest attempt; 0: the first
    Column("answered", Boolean, nullable=False, server_default=text("false")),  # its answer went out completely
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Index("sdk_attempts_open", "fingerprint", "retry_count", postgresql_where=text("NOT answered")),
    Index("sdk_attempts_age", "created_at"),
)

# Reference images that an order came with.
inputs = Table(
    "inputs",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("role", Text, primary_key=True),
    Column("position", SmallInteger, primary_key=True),  # among those of its role, from 0
    Column("key", Text, nullable=False),  # of its blob in the store
    Column("mime", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),  # lower-case hex of the stored bytes
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("deleted_at", TIME),  # a tombstone from then on: the blob is deleted, or listed for it
    CheckConstraint("role IN ('image', 'mask', 'face')", name="role_known"),
    Index("inputs_kept", "created_at", "job_id", postgresql_where=text("deleted_at IS NULL")),
)

# Images that callers keep here to order with. The same bytes are one row in an account.
uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),  # upl_...
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("key", Text, nullable=False),  # of its blob in the store
    Column("mime", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),  # lower-case hex of the stored bytes
    Column("sent_bytes", Integer, nullable=False),  # size of what came, before it was encoded again
    Column("sent_sha256", Text, nullable=False),  # lower-case hex of the same
    Column("file_name", Text, nullable=False),  # as the caller gave it, cut; empty: none
    Column("source", Text, nullable=False),  # jobs.reads.uploads.Source: by which route it came first
    Column("purpose", Text),  # as OpenAI's clients say it
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),  # as Replicate's clients say it
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("expires_at", TIME),  # NULL: never
    Column("last_used_at", TIME),  # by an order
    CheckConstraint("source IN ('file', 'url', 'openai', 'replicate', 'fal')", name="source_known"),
    Index("uploads_account_content", "account_id", "sent_sha256", unique=True),
    Index("uploads_account_newest", "account_id", "id"),
    Index("uploads_expiry", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
)

# Further ids of uploads: those that links to upload to were made for, before it was known what comes.
upload_names = Table(
    "upload_names",
    metadata,
    Column("id", Text, primary_key=True),  # upl_...
    Column("upload_id", Text, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Index("upload_names_upload", "upload_id"),
)

# One paid call to an upstream. Its row is committed before the request leaves.
upstream_calls = Table(
    "upstream_calls",
    metadata,
    Column("id", Text, primary_key=True),  # call_...
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("slot", SmallInteger, nullable=False),  # the first image of the job that it makes, from 0
    Column("try", SmallInteger, nullable=False),  # of that slot, from 1
    Column("pictures", SmallInteger, nullable=False),  # images it makes
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("credential_id", Text, nullable=False),  # the account at the upstream
    Column("base_url", Text, nullable=False),  # where it was sent, and where it is polled
    Column("dedupe_key", Text, nullable=False, unique=True),  # by which the upstream recognises a repeat
    Column("outcome", Text),  # jobs.states.Outcome; NULL while unanswered
    Column("intended_at", TIME, nullable=False, server_default=NOW),  # written down, before it was sent
    Column("answered_at", TIME),  # the first outcome
    Column("closed_at", TIME),  # the last outcome: nothing more is to come
    Column("give_up_at", TIME, nullable=False),  # after that it is no longer polled
    Column("missing_since", TIME),  # an uncertain or accepted call that the upstream does not know
    Column("cancel_asked_at", TIME),  # when its upstream was asked to stop
    Column("upstream_id", Text),  # the upstream's own id for it
    Column("poll_url", Text),  # where to ask for its progress, if the upstream gave an address
    Column("result", JSONB),  # a list of jobs.call.ResultLink, from its finish until its images are kept
    Column("pictures_kept", SmallInteger, nullable=False, server_default=text("0")),  # images in our store
    Column("error_code", Text),  # why it made fewer images than asked
    Column("error_detail", Text),  # the upstream's words, never shown to callers
    Column("retryable", Boolean),  # whether the same call may succeed another time
    Column("retry_after_s", Float),  # not before, as the upstream asked
    Column("resends", SmallInteger, nullable=False, server_default=text("0")),  # sent again under the same dedupe_key
    Column("written_off", Boolean, nullable=False, server_default=text("false")),  # perhaps billed, and nothing kept
    Column("unit_price", BigInteger),  # micro-credits, of one image by this call's model; NULL: the job's
    Column("searches", SmallInteger, nullable=False, server_default=text("0")),  # for an answer that was lost
    Column("expected_cost", BigInteger),  # micro-USD, by the catalogue
    Column("reported_cost", BigInteger),  # micro-USD, by the upstream
    Column("usage", JSONB),  # providers.base.Cost.usage: counts as the upstream names them
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
    # The search for a lost answer asks whose an upstream's id is, and which calls have none yet.
    Index("upstream_calls_upstream_id", "upstream_id"),
    Index(
        "upstream_calls_without_id",
        "credential_id",
        "intended_at",
        postgresql_where=text("upstream_id IS NULL"),
    ),
)

# The upstream's own answer by which a call has its outcome, for the owner of its job to read. Off the calls' rows,
# which are written several times.
call_answers = Table(
    "call_answers",
    metadata,
    Column("call_id", Text, ForeignKey("upstream_calls.id", ondelete="CASCADE"), primary_key=True),
    Column("answer", JSONB, nullable=False),  # jobs.documents.StoredAnswer, at most 64 kB
    Column("answered_at", TIME, nullable=False, server_default=NOW),
    Index("call_answers_kept", "answered_at"),
)

# Images that were made and kept.
images = Table(
    "images",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("index", SmallInteger, primary_key=True),  # its place among the job's images, from 0
    Column("call_id", Text, nullable=False),  # the call that made it; empty: a copy of an earlier job's
    Column("key", Text, nullable=False),  # of its blob in the store
    Column("mime", Text, nullable=False),
    Column("width_px", Integer),  # NULL: not an image but a 3D file or a text
    Column("height_px", Integer),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),  # lower-case hex of the stored bytes
    Column("seed", BigInteger),  # as the upstream reports it
    Column("revised_prompt", Text),  # what the upstream made of the prompt
    Column("text", Text),  # the answer of a language model
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("deleted_at", TIME),  # a tombstone from then on: the blob is deleted, or listed for it
    Index("images_kept", "created_at", "job_id", postgresql_where=text("deleted_at IS NULL")),
)

# Blobs to delete: their rows are tombstones (or never were), their bytes may still be there. Nearly always empty.
blobs_to_delete = Table(
    "doomed_blobs",
    metadata,
    Column("key", Text, primary_key=True),
    Column("doomed_at", TIME, nullable=False, server_default=NOW),  # listed
    Column("due_at", TIME, nullable=False, server_default=NOW),  # put off when the store could not delete it
    Index("doomed_blobs_due", "due_at"),
)

# The timeline of a job.
job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Text, nullable=False),
    # queued, started, waiting, image, retry, failover, lapsed, collecting, pictures_deleted, or the status it ended in
    Column("type", Text, nullable=False),
    Column("at", TIME, nullable=False, server_default=NOW),
    # Facts of the event, flat, such as worker, attempt, provider, code, captured_microcredits. Each type has its own:
    # they are named by the statement that writes it.
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    Index("job_events_job", "job_id", "id"),
)

# Workers that are alive, or were lately.
workers = Table(
    "workers",
    metadata,
    Column("boot_id", Text, primary_key=True),  # new with every start of a worker
    Column("host", Text, nullable=False),  # this boot of this machine, and its PID namespace
    Column("pid", Integer, nullable=False),
    Column("started_at", TIME, nullable=False, server_default=NOW),
    Column("heartbeat_at", TIME, nullable=False, server_default=NOW),
)

# Accounts at upstreams: the operator's, as workers announce them, whose keys are only in the environment, and those of
# ``own_keys``.
credentials = Table(
    "credentials",
    metadata,
    Column("id", Text, primary_key=True),  # provider/name
    Column("provider", Text, nullable=False),
    # Written and read by workers of the release before only; goes with the next release.
    Column("active", Integer, nullable=False, server_default=text("0")),
    Column("max_active", Integer),  # calls that may be open at a time; NULL: no limit
    Column("max_per_minute", Integer),  # submits a minute; NULL: no limit
    # Written and read by workers of the release before only; goes with the next release.
    Column("submits", JSONB, nullable=False, server_default=text("'{}'")),
    Column("not_before", TIME),  # the upstream asked to come back later
    Column("paused_at", TIME),  # by an operator
    Column("pause_reason", Text),  # as the operator gave it
    Column("account_id", Text),  # whose own key it is; NULL: the operator's
    Index("credentials_house", "provider", postgresql_where=text("account_id IS NULL")),
    postgresql_with={"fillfactor": 50},
)

# Accounts' own keys of providers. The row of a deleted key goes when nothing needs it any more, its key when no call
# that was made with it is open.
own_keys = Table(
    "own_keys",
    metadata,
    Column("credential_id", Text, primary_key=True),  # provider/own_...: a new one for each key
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("sealed", LargeBinary),  # the key, encrypted (core/sealing.py); NULL: a deleted one that is gone
    Column("last_four", Text, nullable=False),  # characters of the key, to tell it by
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("checked_at", TIME),  # when the upstream took it, where that was asked
    Column("last_used_at", TIME),  # at most a minute old for a key that is in use
    Column("deleted_at", TIME),  # deleted or replaced: no call begins with it any more
    CheckConstraint("deleted_at IS NOT NULL OR sealed IS NOT NULL", name="live_has_key"),
    Index("own_keys_live", "account_id", "provider", unique=True, postgresql_where=text("deleted_at IS NULL")),
    Index("own_keys_closing", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
)

# One row for each call that may be open at a credential with ``max_active``. Numbers above it belong to calls from
# before the limit was lowered or set; they are never taken again.
permits = Table(
    "permits",
    metadata,
    Column("credential_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1
    Column("call_id", Text),  # the call that has it; NULL: free
    Column("taken_at", TIME),
    Index("permits_call", "call_id", unique=True, postgresql_where=text("call_id IS NOT NULL")),
    # call_id is always NULL here: sorted by it, a statement can use no other index (see permits.TAKE).
    Index("permits_free", "credential_id", "call_id", "number", postgresql_where=text("call_id IS NULL")),
    postgresql_with={"fillfactor": 50},
)

# One row for each submit a minute at a credential with ``max_per_minute``; used again a minute and 2 s later.
submit_tokens = Table(
    "submit_tokens",
    metadata,
    Column("credential_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("free_at", TIME, nullable=False, server_default=text("'-infinity'")),  # when it can be taken again
    Index("submit_tokens_free", "credential_id", "free_at"),
    postgresql_with={"fillfactor": 50},
)

# What holds for all credentials of a provider: an operator's pause, and the circuit breaker.
providers = Table(
    "providers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused_at", TIME),  # by an operator
    Column("pause_reason", Text),  # as the operator gave it
    Column("failures", Integer, nullable=False, server_default=text("0")),  # counted in a row, while closed
    Column("failing_since", TIME),  # the first of them
    # Written and read by workers of the release before only; goes with the next release.
    Column("failing_job", Text),
    # The jobs whose failures were counted, newest last: a job counts once (jobs/dispatch/circuit.py).
    Column("failing_jobs", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("trips", Integer, nullable=False, server_default=text("0")),  # openings in a row; 0 while closed
    Column("opened_at", TIME),  # the latest opening
    Column("open_until", TIME),  # NULL while closed; past: half-open, one probe may go
    Column("probe_call_id", Text),  # the call whose outcome closes or opens it
    CheckConstraint("(trips > 0) = (open_until IS NOT NULL)", name="open_has_end"),
    postgresql_with={"fillfactor": 50},
)

# How far each account was served at a provider whose permits are few (jobs/dispatch/turns.py), in virtual time. The row
# without an account is the provider's own.
dispatch_turns = Table(
    "dispatch_turns",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("account_id", Text, primary_key=True),
    Column("passed", Float, nullable=False),
    Column("at", TIME, nullable=False, server_default=NOW),  # its last turn; an account's row is deleted a day after
)

# Spans of time whose usage is added up in usage_sums: whole hours, and whole days made of them. They do not overlap.
# What lies in none of them is read from the ledger itself.
usage_steps = Table(
    "usage_steps",
    metadata,
    Column("from_at", TIME, primary_key=True),
    Column("to_at", TIME, nullable=False),  # the first moment after it
    Column("rolled_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("from_at < to_at", name="step_has_length"),
)

# The sums of usage_facts() over each step. An empty text stands for what is not known.
usage_sums = Table(
    "usage_sums",
    metadata,
    Column("from_at", TIME, primary_key=True),  # of its step
    Column("account_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),  # how the jobs ended: jobs.states.EndStatus, or cached
    Column("jobs", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),  # that were sold
    Column("captured", BigInteger, nullable=False),  # micro-credits
    Column("released", BigInteger, nullable=False),  # micro-credits
    Column("calls", BigInteger, nullable=False),  # that may have been billed
    Column("reported_cost", BigInteger, nullable=False),  # micro-USD, of calls whose upstream said it
    Column("computed_cost", BigInteger, nullable=False),  # micro-USD, of the others, by the catalogue
    Column("uncosted_calls", BigInteger, nullable=False),  # calls whose cost no one knows
)

# Files of lines: what a batch is ordered by, and what it made. Images that callers keep here are ``uploads``.
files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),  # file_...
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("kind", Text, nullable=False),  # jobs.reads.files.Kind
    Column("batch_id", Text),  # of an output: the batch whose results it is; they are written when it is read
    Column("file_name", Text, nullable=False),  # as the caller gave it, cut
    Column("size_bytes", BigInteger, nullable=False),  # of an output: about
    Column("sha256", Text, nullable=False),  # lower-case hex of the lines; of an output: empty
    Column("lines", Integer, nullable=False),  # that are not blank
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("expires_at", TIME),  # NULL: never
    CheckConstraint("kind IN ('input', 'output', 'errors')", name="kind_known"),
    Index("files_account_newest", "account_id", "id"),
    Index("files_expiry", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
)

# The lines of a file, some hundred kilobytes to a row, each row from the beginning of a line to the end of one.
file_chunks = Table(
    "file_chunks",
    metadata,
    Column("file_id", Text, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("first_line", Integer, primary_key=True),  # from 0, blank lines not counted
    Column("lines", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# Many orders at once. A batch goes on by its row alone: any worker may take it up where another was killed.
batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),  # batch_...
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("key_id", Text, nullable=False),  # accounts.keys.Caller.key_id of its caller
    Column("dialect", Text, nullable=False),  # in whose words its lines are: native, openai
    Column("endpoint", Text),  # as OpenAI's clients say it
    Column("completion_window", Text, nullable=False),  # as OpenAI's clients say it
    Column("input_file_id", Text, nullable=False),
    Column("status", Text, nullable=False),  # jobs.reads.batches.Status
    Column("stop_code", Text),  # why it is being stopped: batch_cancelled, batch_expired
    Column("next_line", Integer, nullable=False, server_default=text("0")),  # lines before it are rows of batch_lines
    Column("total", Integer, nullable=False),  # lines in all
    # Lines whose outcome is written down, by what it is.
    Column("succeeded", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("cancelled", Integer, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("errors", JSONB, nullable=False, server_default=text("'[]'")),  # a list of jobs.documents.BatchFault
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("idempotency_key", Text),
    Column("fingerprint", LargeBinary),  # digest of the request with that key
    Column("request_id", Text, nullable=False, server_default=text("''")),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("in_progress_at", TIME),
    Column("finalizing_at", TIME),
    Column("cancelling_at", TIME),
    Column("ended_at", TIME),  # NULL: it goes on
    Column("expires_at", TIME, nullable=False),  # what has not ended by then is cancelled
    Column("due_at", TIME, nullable=False, server_default=NOW),  # the next look; while one lasts, the end of its lease
    CheckConstraint(
        "status IN ('validating', 'in_progress', 'finalizing', 'completed', 'failed', 'cancelling', 'cancelled',"
        " 'expired')",
        name="status_known",
    ),
    CheckConstraint("dialect IN ('native', 'openai')", name="dialect_known"),
    CheckConstraint(
        "(status IN ('completed', 'failed', 'cancelled', 'expired')) = (ended_at IS NOT NULL)", name="end_has_time"
    ),
    Index("batches_account_newest", "account_id", "id"),
    Index(
        "batches_key",
        "account_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index("batches_due", "due_at", postgresql_where=text("ended_at IS NULL")),
    Index("batches_input", "input_file_id"),
)

# One line of a batch that was submitted or refused. Its primary key is what makes a job of each line once.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True),  # from 0
    Column("custom_id", Text, nullable=False),  # the caller's own name for it; empty: none
    Column("job_id", Text),  # NULL: refused
    Column("outcome", Text),  # NULL while its job is live
    Column("error", JSONB),  # jobs.documents.StoredRefusal, of a line without a job
    CheckConstraint("outcome IN ('succeeded', 'failed', 'cancelled', 'refused')", name="outcome_known"),
    CheckConstraint("(job_id IS NULL) = (error IS NOT NULL)", name="job_or_error"),
    Index("batch_lines_live", "batch_id", "job_id", postgresql_where=text("outcome IS NULL")),
)

# Orders and texts that a screen has refused: nothing else is kept of them.
screening_refusals = Table(
    "screening_refusals",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", TIME, nullable=False, server_default=NOW),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("key_id", Text),  # as of jobs
    Column("screen", Text, nullable=False),  # words, hook, moderation
    Column("category", Text, nullable=False),
    Column("prompt_sha256", Text),  # in hex, of the prompt as it was sent; NULL: there was none
    Index("screening_refusals_age", "at"),
    Index("screening_refusals_account", "account_id", "at"),
)
