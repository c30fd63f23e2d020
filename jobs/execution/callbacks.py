"""Callback URLs at which an upstream may report that a call is done.

A report is only a hint (``jobs.lifecycle.reported``): the upstream is then asked for the call's state. Each call
has its own URL with an unforgeable token. The key of the tokens is in the database, so every worker can make a
token and every web process can check it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import cached_property

from core import key_values
from core.db import Database

PATH = "/hooks"
_KEY_NAME = "callback_key"


class Callbacks:
    """Makes and checks callback URLs. ``public_url`` None: callbacks are off, and jobs are only polled."""

    def __init__(self, database: Database, public_url: str | None) -> None:
        self._database = database
        self._base = (public_url or "").rstrip("/")

    def __repr__(self) -> str:
        return f"Callbacks({self._base or 'off'})"

    def url(self, provider: str, call_id: str) -> str | None:
        """Return the URL at which a provider may report on a call, or None if off. Raises DatabaseAwayError."""
        if not self._base:
            return None
        return f"{self._base}{PATH}/{provider}/{call_id}/{self._token(provider, call_id)}"

    def knows(self, provider: str, call_id: str, token: str) -> bool:
        """Return whether the token is the call's, compared in constant time. Raises DatabaseAwayError."""
        if not self._base:
            return False
        return hmac.compare_digest(self._token(provider, call_id).encode(), token.encode("utf-8", "replace"))

    def _token(self, provider: str, call_id: str) -> str:
        message = f"{provider}\n{call_id}".encode("utf-8", "replace")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:40]

    @cached_property
    def _key(self) -> bytes:
        with self._database.transaction() as connection:
            return bytes.fromhex(key_values.put_if_absent(connection, _KEY_NAME, secrets.token_hex(32)))
