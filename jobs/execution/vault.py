"""Accounts' own keys in a worker: opened when a call needs them, and kept in memory for a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from core.db import Database
from core.sealing import SealBrokenError, Sealer
from jobs.dispatch import own_keys
from providers.base import Provider
from providers.registry import UnknownCredentialError

log = structlog.get_logger(__name__)

TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class _Opened:
    provider: Provider
    until: float


@dataclass
class Vault:
    """Finds the provider of an own key. ``build(provider, key, label)`` makes one, whose repr must not have the key.

    Keys are read again after ``TTL_S``. One that was deleted is found as long as calls made with it are open.
    """

    database: Database
    sealer: Sealer
    build: Callable[[str, str, str], Provider]
    now: Callable[[], float] = time.monotonic
    _opened: dict[str, _Opened] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def provider_of(self, credential_id: str) -> Provider:
        """Return the provider with this key. Raises UnknownCredentialError, DatabaseAwayError."""
        now = self.now()
        with self._lock:
            for name in [name for name, each in self._opened.items() if each.until <= now]:
                del self._opened[name]
            if found := self._opened.get(credential_id):
                return found.provider
        provider = self._open(credential_id)
        with self._lock:
            self._opened[credential_id] = _Opened(provider, now + TTL_S)
        return provider

    def _open(self, credential_id: str) -> Provider:
        with self.database.hot() as hot:
            row = own_keys.sealed(hot, credential_id)
            if row is None:
                raise UnknownCredentialError(credential_id)
            own_keys.note_used(hot, credential_id)
        try:
            key = self.sealer.open(bytes(row.sealed), bound_to=own_keys.bound_to(credential_id, row.account_id))
            return self.build(row.provider, key, credential_id.partition("/")[2])
        except SealBrokenError as error:
            log.error("own_key_not_opened", credential=credential_id, reason=str(error))  # noqa: TRY400 - no traceback
        except (KeyError, ValueError) as error:
            log.error("own_key_not_usable", credential=credential_id, reason=type(error).__name__)  # noqa: TRY400
        raise UnknownCredentialError(credential_id)
