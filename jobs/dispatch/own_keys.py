"""Accounts' own keys of providers: their rows, and the credential that each of them is.

A key is a row of ``own_keys`` and one of ``credentials``, with limits, permits and a pause of its own: no call of the
operator's takes its permits, and none of its calls takes theirs. A job says only that it goes by its account's key
(``jobs.own_key``); which one that is, is decided with each claim. Replacing a key makes a new credential, so that calls
under way are followed with the key that they were made with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from core.db import Hot, Statement
from core.errors import ServiceError
from core.ids import new_id
from jobs.dispatch import limits
from jobs.dispatch.limits import CredentialLimits
from jobs.states import Outcome

_LABEL = "own"
# What a key is paused for, because each further call would fail in the same way until its owner has acted.
PAUSING_CODES = frozenset({"upstream_bad_credentials", "upstream_out_of_credit"})


class OwnKeyNotFoundError(ServiceError):
    """The account has no key of this provider."""

    code = "provider_key_not_found"

    def __init__(self) -> None:
        super().__init__("this account has stored no key of this provider")


class OwnKeyPausedError(ServiceError):
    """The account's own key is paused, so an order by it would only wait."""

    code = "provider_key_paused"

    def __init__(self, provider: str, reason: str | None) -> None:
        super().__init__(
            f"your own key of {provider} is paused ({reason or 'no reason was given'}): replace, resume or delete it",
            provider=provider,
        )


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key without its secret. ``last_four``: characters of it. ``checked_at``: when its upstream took it."""

    credential_id: str
    account_id: str
    provider: str
    last_four: str
    created_at: datetime
    checked_at: datetime | None
    last_used_at: datetime | None
    max_active: int | None
    max_per_minute: int | None
    paused_at: datetime | None
    pause_reason: str | None


def is_own(credential_id: str) -> bool:
    """Return whether a credential is an account's own key; the operator's have other labels."""
    return credential_id.partition("/")[2].startswith(f"{_LABEL}_")


def new_credential_id(provider: str) -> str:
    """Return the id of the credential that a new key will be."""
    return f"{provider}/{new_id(_LABEL)}"


def bound_to(credential_id: str, account_id: str) -> str:
    """Return what a key is sealed for: in the row of another account or provider it opens no more."""
    return f"own key {credential_id} of {account_id}"


# ---------------------------------------------------------------- for owners and operators

_COLUMNS = """k.credential_id, k.account_id, k.provider, k.last_four, k.created_at, k.checked_at, k.last_used_at,
    c.max_active, c.max_per_minute, c.paused_at, c.pause_reason"""
_FROM = "FROM own_keys AS k JOIN credentials AS c ON c.id = k.credential_id"

# Two writers of one account and provider come one after the other.
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('own key ' || CAST(:name AS text), 0))")


def lock(connection: Connection, account_id: str, provider: str) -> None:
    """Make other writers of this key wait until the end of the transaction."""
    connection.execute(_ONE_AT_A_TIME, {"name": f"{account_id} {provider}"})


def keys(connection: Connection, account_id: str | None = None) -> list[OwnKey]:
    """Return the live keys, of one account or of all, by account and provider."""
    rows = connection.execute(
        text(
            f"SELECT {_COLUMNS} {_FROM} WHERE k.deleted_at IS NULL"
            " AND (CAST(:account_id AS text) IS NULL OR k.account_id = :account_id) ORDER BY k.account_id, k.provider"
        ),
        {"account_id": account_id},
    )
    return [OwnKey(**row._mapping) for row in rows]


def find(connection: Connection, account_id: str, provider: str) -> OwnKey:
    """Return an account's live key of a provider. Raises OwnKeyNotFoundError."""
    found = [each for each in keys(connection, account_id) if each.provider == provider]
    if not found:
        raise OwnKeyNotFoundError
    return found[0]


_INSERT = text("""
INSERT INTO own_keys (credential_id, account_id, provider, sealed, last_four, checked_at)
VALUES (:credential_id, :account_id, :provider, :sealed, :last_four,
    CASE WHEN CAST(:checked AS boolean) THEN clock_timestamp() END)
""")


def insert(
    connection: Connection,
    credential_id: str,
    account_id: str,
    provider: str,
    *,
    sealed: bytes,
    last_four: str,
    checked: bool,
    limit: CredentialLimits,
) -> None:
    """Write a key and its credential, once the one before is deleted. Must run in a transaction, under :func:`lock`."""
    limits.announce(connection, credential_id, provider, limit)
    connection.execute(
        text("UPDATE credentials SET account_id = :account_id WHERE id = :id"),
        {"account_id": account_id, "id": credential_id},
    )
    connection.execute(
        _INSERT,
        {
            "credential_id": credential_id,
            "account_id": account_id,
            "provider": provider,
            "sealed": sealed,
            "last_four": last_four,
            "checked": checked,
        },
    )


_DELETE = text("""
UPDATE own_keys SET deleted_at = clock_timestamp()
WHERE account_id = :account_id AND provider = :provider AND deleted_at IS NULL
RETURNING credential_id
""")


def delete(connection: Connection, account_id: str, provider: str) -> None:
    """Let no call begin with the key any more, and forget it as soon as no call made with it is open.

    Raises OwnKeyNotFoundError.
    """
    row = connection.execute(_DELETE, {"account_id": account_id, "provider": provider}).one_or_none()
    if row is None:
        raise OwnKeyNotFoundError
    wipe(connection, row.credential_id)


# A call of the snapshot before may be about to be recorded: the claim that makes it reads the key's row without a lock.
_WIPE = text("""
UPDATE own_keys AS k SET sealed = NULL
WHERE k.credential_id = :credential_id AND k.deleted_at IS NOT NULL AND k.sealed IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM upstream_calls AS u
        WHERE u.credential_id = k.credential_id AND (u.outcome IS NULL OR u.outcome IN ('accepted', 'uncertain'))
    )
""")


def wipe(connection: Connection, credential_id: str) -> bool:
    """Forget a deleted key unless calls made with it are open. Returns whether it was forgotten now."""
    return bool(connection.execute(_WIPE, {"credential_id": credential_id}).rowcount)


_PAUSE = text("""
UPDATE credentials SET paused_at = clock_timestamp(), pause_reason = :reason
WHERE id = :id AND paused_at IS NULL AND account_id IS NOT NULL
""")


def pause(connection: Connection, credential_id: str, reason: str) -> bool:
    """Send nothing more with an own key. Returns whether it was not paused before."""
    return bool(connection.execute(_PAUSE, {"id": credential_id, "reason": reason}).rowcount)


def resume(connection: Connection, credential_id: str) -> None:
    """Lift the pause of an own key."""
    connection.execute(
        text("UPDATE credentials SET paused_at = NULL, pause_reason = NULL WHERE id = :id AND account_id IS NOT NULL"),
        {"id": credential_id},
    )


def pauses(outcome: Outcome, code: str | None) -> bool:
    """Return whether the outcome of a call shows that its key buys nothing more."""
    return outcome is Outcome.MISCONFIGURED and code in PAUSING_CODES


# ---------------------------------------------------------------- for submits and workers

CURRENT = Statement("""
SELECT k.credential_id FROM own_keys AS k
WHERE k.account_id = :account_id AND k.provider = :provider AND k.deleted_at IS NULL
""")


def current(connection: Hot | Connection, account_id: str, provider: str) -> str | None:
    """Return the credential that calls of an account begin with at a provider; None: it has no key there."""
    found: str | None = Hot.of(connection).scalar(CURRENT, {"account_id": account_id, "provider": provider})
    return found


USABLE = Statement("""
SELECT k.provider, c.paused_at IS NOT NULL AS paused, c.pause_reason
FROM own_keys AS k JOIN credentials AS c ON c.id = k.credential_id
WHERE k.account_id = :account_id AND k.deleted_at IS NULL
""")
ANY = Statement("SELECT EXISTS (SELECT 1 FROM own_keys WHERE deleted_at IS NULL)")


def providers_of(hot: Hot, account_id: str) -> dict[str, tuple[bool, str | None]]:
    """Return the providers that an account has keys of, with whether and why each is paused."""
    return {row.provider: (row.paused, row.pause_reason) for row in hot.all(USABLE, {"account_id": account_id})}


def any_stored(hot: Hot) -> bool:
    """Return whether any account has a key."""
    return bool(hot.scalar(ANY, {}))


SEALED = Statement("SELECT account_id, provider, sealed FROM own_keys WHERE credential_id = :credential_id")
NOTE_USED = Statement("UPDATE own_keys SET last_used_at = clock_timestamp() WHERE credential_id = :credential_id")


def sealed(hot: Hot, credential_id: str) -> Any:
    """Return (account_id, provider, sealed) of a key, deleted or not; None if there is none or it is forgotten."""
    row = hot.one_or_none(SEALED, {"credential_id": credential_id})
    return row if row is not None and row.sealed is not None else None


def note_used(hot: Hot, credential_id: str) -> None:
    """Note that a key is in use."""
    hot.run(NOTE_USED, {"credential_id": credential_id})


def owners(connection: Connection, pairs: Collection[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Return those of the pairs of account and provider that have a key."""
    if not pairs:
        return frozenset()
    rows = connection.execute(
        text("""
        SELECT k.account_id, k.provider FROM own_keys AS k
        JOIN unnest(CAST(:accounts AS text[]), CAST(:providers AS text[])) AS p (account_id, provider)
            ON k.account_id = p.account_id AND k.provider = p.provider
        WHERE k.deleted_at IS NULL
        """),
        {"accounts": [account for account, _ in pairs], "providers": [provider for _, provider in pairs]},
    )
    return frozenset((row.account_id, row.provider) for row in rows)


# ---------------------------------------------------------------- another secret

_SEALED_PAGE = text("""
SELECT credential_id, account_id, sealed FROM own_keys
WHERE sealed IS NOT NULL AND credential_id > :after ORDER BY credential_id LIMIT :page FOR UPDATE
""")
_RESEAL = text("UPDATE own_keys SET sealed = :sealed WHERE credential_id = :credential_id")


def reseal(
    connection: Connection, again: Callable[[str, str, bytes], bytes | None], *, after: str, page: int
) -> tuple[int, str | None]:
    """Seal a page of keys again: ``again(credential_id, account_id, sealed)`` says how; None leaves one as it is.

    Returns how many, and after which id the next page begins; None: this was the last. Must run in a transaction.
    """
    rows = connection.execute(_SEALED_PAGE, {"after": after, "page": page}).all()
    changed = 0
    for row in rows:
        if (new := again(row.credential_id, row.account_id, bytes(row.sealed))) is not None:
            connection.execute(_RESEAL, {"credential_id": row.credential_id, "sealed": new})
            changed += 1
    return changed, rows[-1].credential_id if len(rows) == page else None
