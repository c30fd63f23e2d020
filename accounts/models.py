"""Accounts and their API keys."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

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
    Index("api_keys_account", "account_id"),
)
