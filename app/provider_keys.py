"""Accounts' own keys of providers: storing, checking and deleting them, each deed with its entry in the trail.

A key is sealed before it reaches the database and is shown to no one again; what is told of it are its last characters.
The deeds run in a transaction, whose commit is the deed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import Connection

from accounts import trail
from accounts.trail import Actor
from core.errors import ServiceError
from core.sealing import SealBrokenError, Sealer
from core.wire import rfc3339
from jobs.dispatch import limits as credential_limits
from jobs.dispatch import own_keys
from jobs.dispatch.limits import CredentialLimits
from jobs.dispatch.own_keys import OwnKey, OwnKeyNotFoundError
from jobs.errors import FaultsError, FieldFault
from providers.catalog.catalog import Catalog

MIN_KEY_CHARS = 6
MAX_KEY_CHARS = 512
# Of a shorter key, four characters would be too much of it.
LAST_FOUR_FROM_CHARS = 16
# Nothing that JSON, a URL or a header would write in another way: a key is found wherever an upstream echoes it.
KEY_FORM = re.compile(rf"[A-Za-z0-9._~+/=:|@-]{{{MIN_KEY_CHARS},{MAX_KEY_CHARS}}}")
# Each unit of a limit is a row in the database, for each account.
MOST_LIMIT = 1000
RESEAL_PAGE = 200


class ProviderKeysOffError(ServiceError):
    """The operator has set no secret to seal keys with."""

    code = "provider_keys_off"


class ProviderKeyRefusedError(ServiceError):
    """The upstream does not take the key."""

    code = "provider_key_refused"


class BadProviderKeyError(FaultsError):
    """A key, or where it is to be used, is not possible; every fault is named, and the key is quoted in none."""

    code = "invalid_request"


class UnknownProviderError(ServiceError):
    """The catalogue has no provider of this name."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("there is no provider of this name")


@dataclass(frozen=True, slots=True)
class Resealed:
    """``sealed``: keys that another secret had sealed; ``broken``: ids of those that none of the secrets here opens."""

    sealed: int
    broken: tuple[str, ...]


def needed(sealer: Sealer | None) -> Sealer:
    """What seals keys here. Raises ProviderKeysOffError."""
    if sealer is None:
        raise ProviderKeysOffError
    return sealer


def check(catalog: Catalog, configured: frozenset[str], provider: str, key: str, *, ask: bool = False) -> str:
    """Judge a key before it is stored or sent anywhere; returns it trimmed. ``ask``: the upstream is to be asked.

    Raises UnknownProviderError, BadProviderKeyError.
    """
    spec = catalog.providers.get(provider)
    if spec is None:
        raise UnknownProviderError
    faults = []
    if spec.own_keys is None:
        faults.append(FieldFault("provider", "not_supported", f"{spec.title} takes no keys of your own here"))
    elif provider not in configured:
        faults.append(FieldFault("provider", "provider_not_configured", f"{spec.title} is not configured here"))
    key = key.strip()
    if not KEY_FORM.fullmatch(key):
        words = f"has {MIN_KEY_CHARS} to {MAX_KEY_CHARS} letters, digits and ._~+/=:|@-"
        faults.append(FieldFault("key", "not_allowed", words))
    if ask and spec.own_keys is not None and spec.own_keys.check is None:
        faults.append(FieldFault("check", "not_supported", f"{spec.title} has nothing to ask that buys nothing"))
    if faults:
        raise BadProviderKeyError(faults)
    return key


def store(
    connection: Connection,
    actor: Actor,
    account_id: str,
    provider: str,
    key: str,
    *,
    sealer: Sealer,
    changes: Mapping[str, int | None] = MappingProxyType({}),
    checked: bool = False,
) -> tuple[OwnKey, bool]:
    """Store a key that :func:`check` has passed, in place of the one before; and whether there was one.

    ``changes``: as of :func:`change_limits`. Calls under way go on with the key that they were made with; queued jobs
    take the new one.
    """
    own_keys.lock(connection, account_id, provider)
    before = _before(connection, account_id, provider)
    if before is not None:
        own_keys.delete(connection, account_id, provider)
    credential_id = own_keys.new_credential_id(provider)
    own_keys.insert(
        connection,
        credential_id,
        account_id,
        provider,
        sealed=sealer.seal(key, bound_to=own_keys.bound_to(credential_id, account_id)),
        last_four=key[-4:] if len(key) >= LAST_FOUR_FROM_CHARS else "",
        checked=checked,
        limit=_limit(before, changes),
    )
    found = own_keys.find(connection, account_id, provider)
    _record(connection, actor, "replace" if before else "store", found, before=before, after=found)
    return found, before is not None


def change_limits(
    connection: Connection, actor: Actor, account_id: str, provider: str, changes: Mapping[str, int | None]
) -> OwnKey:
    """Set ``max_active`` and ``max_per_minute``; what is left out stays. Raises OwnKeyNotFoundError."""
    own_keys.lock(connection, account_id, provider)
    before = own_keys.find(connection, account_id, provider)
    credential_limits.announce(connection, before.credential_id, provider, _limit(before, changes))
    after = own_keys.find(connection, account_id, provider)
    if after != before:
        _record(connection, actor, "change", after, before=before, after=after)
    return after


def delete(connection: Connection, actor: Actor, account_id: str, provider: str) -> None:
    """Let nothing begin with a key any more; it is forgotten once no call made with it is open.

    Raises OwnKeyNotFoundError.
    """
    own_keys.lock(connection, account_id, provider)
    before = own_keys.find(connection, account_id, provider)
    own_keys.delete(connection, account_id, provider)
    _record(connection, actor, "delete", before, before=before, after=None)


def set_pause(
    connection: Connection, actor: Actor, account_id: str, provider: str, *, paused: bool, reason: str = ""
) -> OwnKey:
    """Pause a key, or lift its pause whoever has set it. Raises OwnKeyNotFoundError."""
    before = own_keys.find(connection, account_id, provider)
    if paused:
        own_keys.pause(connection, before.credential_id, reason or "paused by hand")
    else:
        own_keys.resume(connection, before.credential_id)
    after = own_keys.find(connection, account_id, provider)
    if after != before:
        _record(connection, actor, "pause" if paused else "resume", after, before=before, after=after)
    return after


def reseal(connection: Connection, actor: Actor, sealer: Sealer) -> Resealed:
    """Seal every key by the newest secret, so that the ones before can be taken away."""
    broken: list[str] = []

    def again(credential_id: str, account_id: str, sealed: bytes) -> bytes | None:
        if sealer.is_newest(sealed):
            return None
        bound_to = own_keys.bound_to(credential_id, account_id)
        try:
            return sealer.seal(sealer.open(sealed, bound_to=bound_to), bound_to=bound_to)
        except SealBrokenError:
            broken.append(credential_id)
            return None

    done, after = 0, ""
    while True:
        changed, last = own_keys.reseal(connection, again, after=after, page=RESEAL_PAGE)
        done += changed
        if last is None:
            break
        after = last
    trail.record(
        connection, actor, "provider_keys.rotate", "provider_keys", after={"sealed": done, "broken": sorted(broken)}
    )
    return Resealed(done, tuple(broken))


def shown(found: OwnKey) -> dict[str, Any]:
    """app.shapes.schemas.provider_keys.ProviderKeyOut."""
    return {
        "id": found.credential_id.partition("/")[2],
        "object": "provider_key",
        "account_id": found.account_id,
        "provider": found.provider,
        "last_four": found.last_four,
        "created_at": rfc3339(found.created_at),
        "checked_at": rfc3339(found.checked_at),
        "last_used_at": rfc3339(found.last_used_at),
        "limits": {"max_active": found.max_active, "max_per_minute": found.max_per_minute},
        "paused_at": rfc3339(found.paused_at),
        "pause_reason": found.pause_reason,
    }


def _limit(before: OwnKey | None, changes: Mapping[str, int | None]) -> CredentialLimits:
    return CredentialLimits(
        changes.get("max_active", before.max_active if before else None),
        changes.get("max_per_minute", before.max_per_minute if before else None),
    )


def _before(connection: Connection, account_id: str, provider: str) -> OwnKey | None:
    try:
        return own_keys.find(connection, account_id, provider)
    except OwnKeyNotFoundError:
        return None


def _record(
    connection: Connection,
    actor: Actor,
    verb: Literal["store", "replace", "change", "delete", "pause", "resume"],
    about: OwnKey,
    *,
    before: OwnKey | None,
    after: OwnKey | None,
) -> None:
    trail.record(
        connection,
        actor,
        f"provider_key.{verb}",
        about.credential_id,
        account_id=about.account_id,
        before=_facts(before),
        after=_facts(after),
    )


def _facts(found: OwnKey | None) -> dict[str, Any] | None:
    """A key as the trail shows it. Its use is no deed, and its secret is nowhere in it."""
    if found is None:
        return None
    told = shown(found)
    return {name: told[name] for name in ("id", "provider", "last_four", "limits", "paused_at", "pause_reason")}
