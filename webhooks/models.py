"""The tables of callbacks: endpoints and their secrets, accounts' own secrets, and the outbox, which is the log."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.tables import metadata

NOW = func.clock_timestamp()
TIME = DateTime(timezone=True)

# In the form of core/ids.py: 52 bits of the database's microseconds and 52 random ones, as hex digits.
NEW_MESSAGE_ID = (
    "('msg_' || upper(lpad(to_hex(CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)), 13, '0')"
    " || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 1, 13)))"
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Text, primary_key=True),  # whe_...
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("events", JSONB, nullable=False),  # a list of webhooks.forms.EVENTS
    Column("secret", Text, nullable=False),  # whsec_...: what signs must be known, so it is not hashed
    Column("previous_secret", Text),  # signs as well until previous_until, for receivers that do not know the new one
    Column("previous_until", TIME),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
    Column("disabled_at", TIME),  # nothing is written for it and nothing sent to it
    Column("disabled_reason", Text),  # webhooks.endpoints.Reason
    Column("failing_since", TIME),  # its first failed attempt since the last one that succeeded
    Column("not_before", TIME),  # it asked for time
    CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled_has_reason"),
    Index("webhook_endpoints_account", "account_id", "id"),
)

webhook_account_secrets = Table(
    "webhook_account_secrets",
    metadata,
    # It signs what goes to the URL of an order, which belongs to no endpoint.
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("secret", Text, nullable=False),
    Column("previous_secret", Text),
    Column("previous_until", TIME),
    Column("created_at", TIME, nullable=False, server_default=NOW),
)

webhook_messages = Table(
    "webhook_messages",
    metadata,
    Column("id", Text, primary_key=True, server_default=text(NEW_MESSAGE_ID)),  # the header webhook-id
    Column("account_id", Text, nullable=False),
    Column("job_id", Text),  # NULL: a test of the endpoint
    Column("event", Text, nullable=False),  # webhooks.forms.EVENTS, or webhooks.forms.TEST
    Column("at", TIME, nullable=False, server_default=NOW),  # of the event
    Column("endpoint_id", Text),  # NULL: the URL is the order's own
    Column("target", Text, nullable=False),  # whose capacity it takes: the endpoint's id, or account and origin
    Column("form", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'pending'")),  # webhooks.messages.State
    Column("due_at", TIME, nullable=False, server_default=NOW),  # while an attempt is made, the end of its lease
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),  # that have ended, of this series
    Column("status", SmallInteger),  # of the last answer
    Column("error", Text),  # of the last attempt: docs/webhooks.md, "Deliveries"
    Column("duration_ms", Integer),
    Column("log", JSONB, nullable=False, server_default=text("'[]'")),  # a list of webhooks.messages.Attempt
    Column("ended_at", TIME),
    CheckConstraint("state IN ('pending', 'delivered', 'failed', 'dropped')", name="state_known"),
    CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="end_has_time"),
    Index("webhook_messages_due", "due_at", postgresql_where=text("state = 'pending'")),
    Index("webhook_messages_job", "job_id", "id", postgresql_where=text("job_id IS NOT NULL")),
    Index("webhook_messages_account", "account_id", "id"),
    Index("webhook_messages_ended", "ended_at", postgresql_where=text("state <> 'pending'")),
)
