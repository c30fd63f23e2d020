"""The keys of signed links: the same for every web process and every worker, on every machine.

The operator gives them (DARKROOM_SIGNING_KEYS), or the database keeps them: made at first use, or taken over from the
file ``signing.keys`` that earlier versions made. Written as ``id:hex``, the newest first, one a line or with commas.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from core import key_values
from core.db import Database
from core.settings import SettingsError

NAME = "signing_keys"
KEY_FILE = "signing.keys"
MIN_KEY_BYTES = 16


class SigningKeys(Mapping[str, bytes]):
    """Keys by id, the one to sign with first. Without ``given`` they are read from the database, at first use.

    Then each method may raise DatabaseAwayError. Raises SettingsError for a ``given`` that holds no key, and ValueError
    for a stored text or a file that does not.
    """

    def __init__(self, given: str | None, database: Database, folder: Path) -> None:
        self._database = database
        self._file = folder / KEY_FILE
        self._lock = threading.Lock()
        try:
            self._keys = None if given is None else parsed(given, "DARKROOM_SIGNING_KEYS")
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def __getitem__(self, kid: str) -> bytes:
        return self._loaded()[kid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> Mapping[str, bytes]:
        if self._keys is None:
            with self._lock:
                if self._keys is None:
                    self._keys = parsed(self._stored(), f"the database's {NAME}")
        return self._keys

    def _stored(self) -> str:
        with self._database.autocommit() as connection:
            known = key_values.find(connection, NAME)
            return known.value if known else key_values.put_if_absent(connection, NAME, self._first())

    def _first(self) -> str:
        """The keys of the file, so that links made before stay good, or a new one."""
        if not self._file.exists():
            return f"{secrets.token_hex(4)}:{secrets.token_hex(32)}"
        text = self._file.read_text().strip()
        parsed(text, str(self._file))
        return text


def parsed(text: str, source: str) -> dict[str, bytes]:
    """The keys in a text. Raises ValueError, which names the source and quotes no key."""
    found: dict[str, bytes] = {}
    for entry in re.split(r"[\s,]+", text.strip()):
        kid, _, key = entry.partition(":")
        if not re.fullmatch(r"[0-9A-Za-z_-]{1,32}", kid) or not re.fullmatch(r"([0-9a-fA-F]{2})+", key):
            raise ValueError(f"{source} holds no signing keys: id:hex, the newest first")
        found[kid] = bytes.fromhex(key)
    if any(len(key) < MIN_KEY_BYTES for key in found.values()):
        raise ValueError(f"{source}: a signing key has at least {MIN_KEY_BYTES} bytes")
    return found
