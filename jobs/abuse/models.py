"""The tables of rules on abuse."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, DateTime, ForeignKey, Index, Integer, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB

from core.tables import metadata

NOW = func.clock_timestamp()
TIME = DateTime(timezone=True)

# What holds for one account in place of a rule of the installation.
abuse_overrides = Table(
    "abuse_overrides",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("rule", Text, primary_key=True),  # by its name; one that the installation has no more changes nothing
    Column("changes", JSONB, nullable=False),  # members of jobs.abuse.rules.Rule
    Column("updated_at", TIME, nullable=False, server_default=NOW),
)

# What tripped. A rule trips once a window for its subject.
abuse_events = Table(
    "abuse_events",
    metadata,
    Column("id", Text, primary_key=True),  # abuse_...
    Column("at", TIME, nullable=False, server_default=NOW),
    Column("rule", Text, nullable=False),
    Column("kind", Text, nullable=False),  # jobs.abuse.rules.Kind
    Column("action", Text, nullable=False),  # jobs.abuse.rules.Action
    Column("account_id", Text),  # NULL: of an address
    Column("key_id", Text),  # NULL: of the account as a whole, or of an address
    Column("address", Text),
    Column("subject", Text, nullable=False),  # whose figure it is: account, account and key, or address
    Column("window_at", TIME, nullable=False),  # the start of the window that it is counted to
    Column("figures", JSONB, nullable=False),  # jobs.abuse.judging.Figures
    Column("paused_keys", JSONB, nullable=False, server_default=text("'[]'")),  # a list of ids
    Column("spared_keys", JSONB, nullable=False, server_default=text("'{}'")),  # why, by id
    Column("acknowledged_at", TIME),
    Column("acknowledged_by", Text),  # the actor's name
    Column("note", Text, nullable=False, server_default=text("''")),  # of who acknowledged it
    CheckConstraint("action IN ('log', 'notify', 'pause_key')", name="action_known"),
    CheckConstraint("(acknowledged_at IS NULL) = (acknowledged_by IS NULL)", name="acknowledged_by_someone"),
    Index("abuse_events_once", "rule", "subject", "window_at", unique=True),
    Index("abuse_events_account", "account_id", "id", postgresql_where=text("account_id IS NOT NULL")),
    Index("abuse_events_open", "id", postgresql_where=text("acknowledged_at IS NULL")),
    Index("abuse_events_at", "at"),
)

# What web processes count, a minute and subject a row: wrong keys by the id of a key and by address, and requests of
# keys that send many.
abuse_tallies = Table(
    "abuse_tallies",
    metadata,
    Column("kind", Text, primary_key=True),  # jobs.abuse.tallies.TallyKind
    Column("minute", TIME, primary_key=True),
    Column("subject", Text, primary_key=True),  # the id of a key, or an address
    Column("tally", Integer, nullable=False),
    CheckConstraint("kind IN ('wrong_key', 'wrong_address', 'requests')", name="kind_known"),
)
