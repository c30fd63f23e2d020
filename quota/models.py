"""Credits: one balance row per account and an append-only list of transfers.

A transfer moves an amount from one place to another, so all transfers sum to zero by their shape.
The places of the house (``house:issued``, ``house:revenue``) have no row: they are sums over transfers.
All amounts are whole micro-credits.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Table,
    Text,
    func,
    text,
)

from core.tables import metadata

NOW = func.clock_timestamp()

balances = Table(
    "balances",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("spendable", BigInteger, nullable=False, server_default=text("0")),  # what may still be ordered
    Column("reserved", BigInteger, nullable=False, server_default=text("0")),  # what live jobs may cost until they end
    # The next three are for processes of the release before, which run next to this one during an upgrade: a trigger
    # of migration 0005 keeps available - queued = spendable and queued + held = reserved. No code here may use them.
    Column("available", BigInteger, nullable=False, server_default=text("0")),
    Column("queued", BigInteger, nullable=False, server_default=text("0")),
    Column("held", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("spendable >= 0", name="spendable_not_negative"),
    CheckConstraint("reserved >= 0", name="reserved_not_negative"),
    postgresql_with={"fillfactor": 70},
)

transfers = Table(
    "transfers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # No foreign key, which would lock the account's row for every hold: the job or the balance has one.
    Column("account_id", Text, nullable=False),
    Column("job_id", Text),  # NULL: a grant or an adjustment
    Column("kind", Text, nullable=False),  # grant, hold, capture, release, adjust
    Column("source", Text, nullable=False),  # the place it moves from, such as acct:available
    Column("target", Text, nullable=False),  # the place it moves to
    Column("amount", BigInteger, nullable=False),
    Column("note", Text, nullable=False, server_default=text("''")),  # an operator's or a repair's words
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("request_key", Text),  # the Idempotency-Key of the request that made it, behind the caller's account
    CheckConstraint("amount >= 0", name="amount_not_negative"),
    CheckConstraint("kind IN ('grant', 'hold', 'capture', 'release', 'adjust')", name="kind_known"),
    CheckConstraint(
        "(kind, source, target) IN ("
        "('grant', 'house:issued', 'acct:available'), ('hold', 'acct:available', 'acct:held'),"
        "('capture', 'acct:held', 'house:revenue'), ('release', 'acct:held', 'acct:available'),"
        "('adjust', 'house:issued', 'acct:available'), ('adjust', 'acct:available', 'house:issued'))",
        name="places_fit_the_kind",
    ),
    CheckConstraint("(kind IN ('hold', 'capture', 'release')) = (job_id IS NOT NULL)", name="job_fits_the_kind"),
    Index("transfers_once_per_job", "job_id", "kind", unique=True, postgresql_where=text("job_id IS NOT NULL")),
    Index("transfers_account", "account_id", "id"),
    # Usage by the time at which a job was settled.
    Index("transfers_settled", "created_at", postgresql_where=text("kind IN ('capture', 'release')")),
    Index("transfers_grants", "id", postgresql_where=text("job_id IS NULL")),
    Index("transfers_once_per_request", "request_key", unique=True, postgresql_where=text("request_key IS NOT NULL")),
)
