"""What administrators do with accounts, keys and credits: each deed and its entry in the trail, in one transaction.

The routes (``app/api/admin_*.py``) and the commands next to the database (``app/cli/operator``) share these. Every
function must run in a transaction, whose commit is the deed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from accounts import accounts, key_changes, keys, pauses, trail
from accounts.accounts import Account
from accounts.keys import KeyInfo
from accounts.trail import Actor
from core.errors import ServiceError
from core.wire import rfc3339
from jobs.dispatch import health
from jobs.errors import FaultsError, FieldFault, IdempotencyMismatchError
from providers.catalog.catalog import Catalog, UnknownModelError
from quota import grants
from quota.grants import Grant


class InvalidKeyError(FaultsError):
    """What a key should be is not possible; every fault is named."""

    code = "invalid_request"


class OwnAccountError(ServiceError):
    """Administrators do not lock themselves out: no key can be made from outside again."""

    code = "own_account"


class PreconditionFailedError(ServiceError):
    """It is no longer what the caller has read: someone has changed it meanwhile."""

    code = "precondition_failed"


def tag(row: Account | KeyInfo) -> str:
    """The entity tag of what administrators can change of an account or a key. Its balance and its last use are not
    among it: they change by themselves."""
    text = json.dumps(_facts(row), sort_keys=True, ensure_ascii=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


# Whether a row with this tag is the one that the caller means to change.
Meant = Callable[[str], bool]


def any_version(_tag: str) -> bool:
    return True


def _check(meant: Meant, before: Account | KeyInfo) -> None:
    """Raises PreconditionFailedError, and with it the transaction is undone."""
    if not meant(tag(before)):
        raise PreconditionFailedError("it was changed after you read it: read it again, then change it")


# ---------------------------------------------------------------- accounts


def create_account(
    connection: Connection,
    actor: Actor,
    name: str,
    *,
    weight: int = 1,
    external_id: str | None = None,
    limits: Mapping[str, int | None] | None = None,
) -> Account:
    """Make an account; ``limits`` by the names of its columns. Raises AccountExistsError."""
    made = accounts.create_account(connection, name, weight=weight, external_id=external_id)
    if limits:
        _, made = accounts.change_account(connection, made.id, limits)
    trail.record(connection, actor, "account.create", made.id, account_id=made.id, after=_facts(made))
    return made


def change_account(
    connection: Connection,
    actor: Actor,
    name_or_id: str,
    changes: Mapping[str, Any],
    *,
    disabled: bool | None = None,
    meant: Meant = any_version,
) -> Account:
    """Set columns of accounts.accounts.CHANGEABLE, stop its keys, or let them open again.

    Raises AccountNotFoundError, AccountExistsError, OwnAccountError, PreconditionFailedError.
    """
    account_id = accounts.find_account(connection, name_or_id).id
    if disabled and account_id == actor.account_id:
        raise OwnAccountError
    before, after = accounts.change_account(connection, account_id, changes, disabled=disabled)
    _check(meant, before)
    was, now = changed(_facts(before), _facts(after))
    if now:
        trail.record(connection, actor, "account.change", account_id, account_id=account_id, before=was, after=now)
    return after


# ---------------------------------------------------------------- keys


def allowed_by(
    catalog: Catalog, models: Sequence[str] | None, providers: Sequence[str] | None
) -> dict[str, list[str] | None]:
    """Lists of models and providers by the ids that orders are compared with. Raises InvalidKeyError for names that
    the catalogue does not have."""
    faults: list[FieldFault] = []
    found: list[str] = []
    for position, name in enumerate(models or ()):
        try:
            found.append(catalog.resolve(name).model.id)
        except UnknownModelError as error:
            faults.append(FieldFault(f"models[{position}]", "unknown_model", str(error)))
    for position, name in enumerate(providers or ()):
        if name not in catalog.providers:
            known = ", ".join(sorted(catalog.providers))
            faults.append(FieldFault(f"providers[{position}]", "unknown_provider", f"is none of {known}"))
    if faults:
        raise InvalidKeyError(faults)
    return {
        "models": None if models is None else sorted(set(found)),
        "providers": None if providers is None else sorted(set(providers)),
    }


def create_key(connection: Connection, actor: Actor, account: str, **fields: Any) -> tuple[KeyInfo, str]:
    """Make a key for an account (name or id) with the fields of accounts.keys.create_key; the key and its token, which
    is kept nowhere. Raises AccountNotFoundError, InvalidKeyError for a time that is past."""
    owner = accounts.find_account(connection, account)
    _check_expiry(connection, fields.get("expires_at"))
    made = keys.create_key(connection, owner.id, **fields)
    found = key_changes.find_key(connection, made.id)
    trail.record(connection, actor, "key.create", made.id, account_id=owner.id, after=_facts(found))
    return found, made.token


def change_key(
    connection: Connection, actor: Actor, key_id: str, changes: Mapping[str, Any], *, meant: Meant = any_version
) -> KeyInfo:
    """Set columns of accounts.key_changes.CHANGEABLE. Raises KeyNotFoundError, KeyEndedError, InvalidKeyError,
    PreconditionFailedError."""
    _check_expiry(connection, changes.get("expires_at"))
    before, after = key_changes.change_key(connection, key_id, changes)
    _check(meant, before)
    was, now = changed(_facts(before), _facts(after))
    if now:
        trail.record(connection, actor, "key.change", key_id, account_id=after.account_id, before=was, after=now)
    return after


def revoke_key(connection: Connection, actor: Actor, key_id: str, *, meant: Meant = any_version) -> KeyInfo:
    """Revoke a key; revoking again changes nothing. Raises KeyNotFoundError, PreconditionFailedError."""
    before = key_changes.find_key(connection, key_id, lock=True)
    _check(meant, before)
    if not keys.revoke_key(connection, key_id):
        return before
    after = key_changes.find_key(connection, key_id)
    was, now = changed(_facts(before), _facts(after))
    trail.record(connection, actor, "key.revoke", key_id, account_id=after.account_id, before=was, after=now)
    return after


def pause_key(connection: Connection, actor: Actor, key_id: str, reason: str) -> KeyInfo:
    """Pause a key until it is let on; pausing again changes nothing. Raises KeyNotFoundError, KeyEndedError,
    LastAdminKeyError."""
    before, after = pauses.pause_key(connection, key_id, reason)
    return _told(connection, actor, "key.pause", before, after)


def resume_key(connection: Connection, actor: Actor, key_id: str) -> KeyInfo:
    """Let a paused key on; of another one nothing changes. Raises KeyNotFoundError."""
    before, after = pauses.resume_key(connection, key_id)
    return _told(connection, actor, "key.resume", before, after)


def _told(connection: Connection, actor: Actor, action: str, before: KeyInfo, after: KeyInfo) -> KeyInfo:
    was, now = changed(_facts(before), _facts(after))
    if now:
        trail.record(connection, actor, action, after.id, account_id=after.account_id, before=was, after=now)
    return after


def rotate_key(
    connection: Connection, actor: Actor, key_id: str, *, overlap_s: int, meant: Meant = any_version
) -> tuple[KeyInfo, str]:
    """Give a key another secret; the one before opens for ``overlap_s`` seconds more. Raises KeyNotFoundError,
    KeyEndedError, PreconditionFailedError."""
    before, after, made = key_changes.rotate_key(connection, key_id, overlap_s=overlap_s)
    _check(meant, before)
    was, now = changed(_facts(before), _facts(after))
    trail.record(connection, actor, "key.rotate", key_id, account_id=after.account_id, before=was, after=now)
    return after, made.token


def _check_expiry(connection: Connection, expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= database_now(connection):
        raise InvalidKeyError([FieldFault("expires_at", "out_of_range", "is past")])


def database_now(connection: Connection) -> datetime:
    """The time by which keys are checked."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


# ---------------------------------------------------------------- credits


def grant(
    connection: Connection,
    actor: Actor,
    account: str,
    amount_microcredits: int,
    *,
    note: str = "",
    request_key: str | None = None,
) -> tuple[Grant, bool]:
    """Give credits to an account (name or id), or take some back; and whether an earlier request with this key did.

    Raises AccountNotFoundError, NotEnoughToTakeError, IdempotencyMismatchError for a key that stands for another
    grant, and IntegrityError where the same request is under way: try again.
    """
    owner = accounts.find_account(connection, account)
    if request_key is not None and (earlier := grants.find_request(connection, request_key)):
        if (earlier.account_id, earlier.amount_microcredits, earlier.note) != (owner.id, amount_microcredits, note):
            raise IdempotencyMismatchError("this Idempotency-Key was used with another grant")
        return earlier, True
    made = grants.issue(connection, owner.id, amount_microcredits, note=note, request_key=request_key)
    after = {"amount_microcredits": amount_microcredits, "note": note}
    trail.record(connection, actor, "credits.grant", str(made.id), account_id=owner.id, after=after)
    return made, False


# ---------------------------------------------------------------- providers


def pause(connection: Connection, actor: Actor, target: str, reason: str) -> None:
    """Pause a provider or one of its credentials. Raises CredentialNotFoundError."""
    health.pause(connection, target, reason)
    trail.record(connection, actor, "provider.pause", target, after={"reason": reason})


def resume(connection: Connection, actor: Actor, target: str) -> None:
    """Lift exactly that pause. Raises CredentialNotFoundError."""
    health.resume(connection, target)
    trail.record(connection, actor, "provider.resume", target)


# ---------------------------------------------------------------- what the trail says


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members that differ, as they were and as they are."""
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in names}, {name: after[name] for name in names}


# Use of a key is no deed of an administrator.
_NOT_TOLD = ("last_used_at",)


def _facts(row: Account | KeyInfo) -> dict[str, Any]:
    """A row as JSON. Neither an account nor a KeyInfo has a secret."""
    facts = {name: value for name, value in asdict(row).items() if name not in _NOT_TOLD}
    return {
        name: rfc3339(value) if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value
        for name, value in facts.items()
    }
