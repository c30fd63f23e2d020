"""Secrets that are kept in the database: encrypted by AES-256-GCM, with keys that only the environment has.

What is sealed is bound to a text, such as whose it is: moved to another row it opens no more. Several keys are the
newest first: it seals, and all of them open, so that one can be replaced (``Sealer.is_newest`` tells what is left).
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from base64 import b64decode
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_FORM = b"\x01"
_ID_BYTES = 8
_NONCE_BYTES = 12
_HEAD_BYTES = len(_FORM) + _ID_BYTES


class SealBrokenError(Exception):
    """It was sealed by a key that is not here, or for another text, or it was changed. Holds nothing of it."""


class Sealer:
    """Seals and opens. Raises ValueError without a key, or for one that has not ``KEY_BYTES``."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"sealing takes keys of {KEY_BYTES} bytes")
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}
        self._newest = _id_of(keys[0])

    def __repr__(self) -> str:
        return f"Sealer({len(self._ciphers)} keys)"

    def seal(self, plain: str, *, bound_to: str) -> bytes:
        """The text, encrypted by the newest key."""
        nonce = os.urandom(_NONCE_BYTES)
        encrypted = self._ciphers[self._newest].encrypt(nonce, plain.encode(), bound_to.encode())
        return _FORM + self._newest + nonce + encrypted

    def open(self, sealed: bytes, *, bound_to: str) -> str:
        """The text that was sealed for ``bound_to``. Raises SealBrokenError."""
        cipher = self._ciphers.get(sealed[len(_FORM) : _HEAD_BYTES]) if sealed.startswith(_FORM) else None
        if cipher is None:
            raise SealBrokenError("no key that is set here has sealed it")
        nonce, encrypted = sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES], sealed[_HEAD_BYTES + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, encrypted, bound_to.encode()).decode()
        except (InvalidTag, ValueError):
            raise SealBrokenError("it was sealed for something else, or was changed") from None

    def is_newest(self, sealed: bytes) -> bool:
        """Whether the newest key has sealed it."""
        return sealed[:_HEAD_BYTES] == _FORM + self._newest


def _id_of(key: bytes) -> bytes:
    """By which a key is found; it tells nothing of the key."""
    return hashlib.sha256(b"darkroom sealing key" + key).digest()[:_ID_BYTES]


def parsed(text: str, source: str) -> list[bytes]:
    """Keys written in base64, divided by commas or white space. Raises ValueError, which names the source and quotes
    no key."""
    found = []
    for entry in filter(None, re.split(r"[\s,]+", text.strip())):
        try:
            key = b64decode(entry.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"{source}: a key is {KEY_BYTES} bytes in base64, as `openssl rand -base64 32` makes")
        found.append(key)
    if not found:
        raise ValueError(f"{source} holds no key")
    return found


def sealer_of(text: str | None, source: str) -> Sealer | None:
    """What keys that are set in the environment seal and open; None without any. Raises ValueError as parsed."""
    return None if text is None else Sealer(parsed(text, source))
