"""Secrets that sign callbacks: ``whsec_`` and the base64 of 32 random bytes, of an endpoint or of an account.

An account's own secret signs what goes to the URL of an order. It is made at first use.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

SECRET_BYTES = 32
# How long an old secret signs next to the new one, unless the rotation says otherwise; at most as long as that.
OVERLAP_S = 24 * 3600
MAX_OVERLAP_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as it is now; ``previous_until``: until when the one before signs, too."""

    value: str = field(repr=False)
    previous_until: datetime | None = None


def new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"


def signing(secret: str, previous: str | None, previous_until: datetime | None, now: datetime) -> Sequence[str]:
    """Return the secrets that sign at ``now``, the newest first."""
    if previous is not None and previous_until is not None and now < previous_until:
        return [secret, previous]
    return [secret]


_MAKE = text("""
INSERT INTO webhook_account_secrets (account_id, secret) VALUES (:account_id, :secret)
ON CONFLICT (account_id) DO NOTHING
""")
_FIND = text("""
SELECT secret, previous_secret, previous_until, clock_timestamp() AS now FROM webhook_account_secrets
WHERE account_id = :account_id
""")
_ROTATE = text("""
INSERT INTO webhook_account_secrets AS s (account_id, secret) VALUES (:account_id, :secret)
ON CONFLICT (account_id) DO UPDATE SET previous_secret = s.secret, secret = :secret,
    previous_until = clock_timestamp() + make_interval(secs => :overlap_s)
RETURNING secret, previous_until
""")


def account_secret(connection: Connection, account_id: str) -> Secret:
    """Return the account's own secret, made at first use. Raises IntegrityError for an unknown account."""
    row = connection.execute(_FIND, {"account_id": account_id}).one_or_none()
    if row is None:
        connection.execute(_MAKE, {"account_id": account_id, "secret": new_secret()})
        row = connection.execute(_FIND, {"account_id": account_id}).one()
    overlaps = row.previous_until is not None and row.now < row.previous_until
    return Secret(row.secret, row.previous_until if overlaps else None)


def account_signing(connection: Connection, account_id: str) -> Sequence[str]:
    """Return the secrets that sign what goes to the URL of an account's order, the newest first."""
    account_secret(connection, account_id)
    row = connection.execute(_FIND, {"account_id": account_id}).one()
    return signing(row.secret, row.previous_secret, row.previous_until, row.now)


def rotate_account_secret(connection: Connection, account_id: str, *, overlap_s: int = OVERLAP_S) -> Secret:
    """Replace the account's own secret; the old one signs as well for ``overlap_s`` seconds."""
    row = connection.execute(
        _ROTATE, {"account_id": account_id, "secret": new_secret(), "overlap_s": float(overlap_s)}
    ).one()
    return Secret(row.secret, row.previous_until)
