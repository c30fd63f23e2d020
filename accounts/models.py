"""Accounts, their API keys, and the trail of what administrators did."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from core.tables import metadata

NOW = func.clock_timestamp()

accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # The account's share of a provider's queue, relative to other accounts.
    Column("weight", SmallInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    # Set: every key of the account is refused.
    Column("disabled_at", DateTime(timezone=True)),
    # Under which an issuer of tokens knows the account (docs/decisions/0080-tokens.md).
    Column("external_id", Text, unique=True),
    # Micro-credits that its orders of one day, and of one month (UTC), may cost; NULL: no limit but the balance.
    Column("spend_day_limit", BigInteger),
    Column("spend_month_limit", BigInteger),
    # Of all its keys and tokens together; NULL: the installation's limit of requests, and no limit of the others.
    Column("requests_per_minute", Integer),
    Column("max_in_flight", Integer),  # jobs that have been accepted and have not ended
    Column("images_per_minute", Integer),
    CheckConstraint("spend_day_limit >= 0 AND spend_month_limit >= 0", name="limits_not_negative"),
    CheckConstraint(
        "requests_per_minute > 0 AND max_in_flight > 0 AND images_per_minute > 0", name="load_limits_positive"
    ),
    CheckConstraint("weight BETWEEN 1 AND 100", name="weight_in_range"),
    CheckConstraint("length(name) BETWEEN 1 AND 100", name="name_length"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False, server_default=text("''")),
    # Of the secret part of the token, which itself is stored nowhere.
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    # At most a minute old, for a key that is in use.
    Column("last_used_at", DateTime(timezone=True)),
    # The models (by id) and the providers that its orders may use; NULL: all.
    Column("models", ARRAY(Text)),
    Column("providers", ARRAY(Text)),
    # As those of accounts, for the orders placed with this key.
    Column("spend_day_limit", BigInteger),
    Column("spend_month_limit", BigInteger),
    # Next to those of its account; NULL: none of its own.
    Column("requests_per_minute", Integer),
    Column("max_in_flight", Integer),
    Column("images_per_minute", Integer),
    # The digest before the latest rotation, which opens as well until then.
    Column("previous_sha256", LargeBinary),
    Column("previous_until", DateTime(timezone=True)),
    # Since then its requests are refused, until an operator lets it on; set by an operator or a rule.
    Column("paused_at", DateTime(timezone=True)),
    Column("pause_reason", Text),
    CheckConstraint("spend_day_limit >= 0 AND spend_month_limit >= 0", name="limits_not_negative"),
    CheckConstraint(
        "requests_per_minute > 0 AND max_in_flight > 0 AND images_per_minute > 0", name="load_limits_positive"
    ),
    CheckConstraint("(previous_sha256 IS NULL) = (previous_until IS NULL)", name="previous_has_end"),
    CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="pause_has_reason"),
    Index("api_keys_account", "account_id"),
)

# What administrators did, written in the transaction of the deed (accounts/trail.py).
admin_actions = Table(
    "admin_actions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("actor", Text, nullable=False),  # the name of the account, or the user of the command line
    Column("actor_account_id", Text),  # NULL: by a command next to the database
    Column("actor_key_id", Text),
    Column("address", Text, nullable=False, server_default=text("''")),
    Column("request_id", Text, nullable=False, server_default=text("''")),
    Column("action", Text, nullable=False),  # such as key.create
    Column("target", Text, nullable=False),  # the id of what it was done to
    Column("account_id", Text),  # the account that it concerns
    Column("before", JSONB),
    Column("after", JSONB),
    Index("admin_actions_at", "at"),
    Index("admin_actions_account", "account_id", "id", postgresql_where=text("account_id IS NOT NULL")),
)
