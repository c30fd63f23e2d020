"""The public keys of the issuer of tokens, from the one URL that the operator configured (a JWK Set, RFC 7517).

A token names its key by ``kid``. A name that is not known may be that of a new key, so the set is fetched again: at
most once in ``refetch_s`` seconds, by one request for all that wait. Keys are kept while the URL is down. Links that a
token carries (``jku``, ``x5u``) are never followed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from core.errors import UnavailableError

log = structlog.get_logger(__name__)

# By algorithm: the type of key that goes with it. None of them can be used with a secret.
KEY_TYPES: Mapping[str, str] = {"RS256": "RSA", "ES256": "EC"}
MAX_KEYS = 100
MIN_RSA_BITS = 2048
REFETCH_S = 10.0
MAX_AGE_S = 600.0


class KeysAwayError(UnavailableError):
    """No key set was ever fetched, so that no token can be checked yet."""

    code = "token_keys_unavailable"


class Keys(Protocol):
    """Where the key of a token is found."""

    def find(self, kid: str, algorithm: str) -> PyJWK | None: ...


class KeySet:
    """The keys of one issuer. ``fetch`` returns the document and raises Exception; it has a deadline and a cap of its
    own. Thread-safe."""

    def __init__(
        self,
        fetch: Callable[[], bytes],
        *,
        refetch_s: float = REFETCH_S,
        max_age_s: float = MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._refetch_s = refetch_s
        self._max_age_s = max_age_s
        self._clock = clock
        self._turn = threading.Lock()  # held while a fetch is under way
        self._keys: Mapping[tuple[str, str], PyJWK] | None = None
        self._fetched_at = self._asked_at = float("-inf")

    def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """The key of this name for this algorithm, or None. Without a name: the only key for the algorithm.

        Raises KeysAwayError while no set could be fetched.
        """
        found = self._known(kid, algorithm)
        if found is None:
            self._renew()
            return self._known(kid, algorithm)
        if self._clock() - self._fetched_at > self._max_age_s and self._may_ask():
            # The key is good until the new set says otherwise: no request waits for that.
            threading.Thread(target=self._renew_quietly, name="jwks", daemon=True).start()
        return found

    def _known(self, kid: str, algorithm: str) -> PyJWK | None:
        keys = self._keys or {}
        if kid:
            return keys.get((kid, algorithm))
        fitting = [key for (_, known), key in keys.items() if known == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _may_ask(self) -> bool:
        return self._clock() - self._asked_at >= self._refetch_s

    def _renew(self) -> None:
        with self._turn:
            # Those that waited for a fetch find it done.
            if self._may_ask():
                self._asked_at = self._clock()
                try:
                    self._keys = read_keys(self._fetch())
                    self._fetched_at = self._clock()
                except Exception as error:  # noqa: BLE001 - whatever is wrong there, the keys we have stay
                    log.warning("token_keys_not_fetched", error=type(error).__name__, kept=len(self._keys or ()))
        if self._keys is None:
            raise KeysAwayError("the keys that tokens are checked by cannot be fetched; try again")

    def _renew_quietly(self) -> None:
        if self._turn.locked():
            return
        self._renew()


def read_keys(document: bytes) -> dict[tuple[str, str], PyJWK]:
    """The usable keys of a JWK Set by (kid, algorithm); others are left out. Raises ValueError for no JWK Set."""
    try:
        found = json.loads(document)
    except RecursionError:
        raise ValueError("too deep for a JWK Set") from None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no JWK Set")  # noqa: TRY004 - what is wrong is a document, not an argument
    keys: dict[tuple[str, str], PyJWK] = {}
    for each in listed[:MAX_KEYS]:
        if isinstance(each, dict):
            kid = each.get("kid")
            for key in _usable(each):
                keys.setdefault((kid if isinstance(kid, str) else "", key.algorithm_name), key)
    return keys


def _usable(written: Mapping[str, Any]) -> Iterator[PyJWK]:
    """A public key for signatures by these algorithms, or nothing: no secret, no weak key, no key for encryption."""
    algorithm = next((name for name, kind in KEY_TYPES.items() if written.get("kty") == kind), None)
    if algorithm is None or written.get("alg", algorithm) != algorithm or written.get("use", "sig") != "sig":
        return
    public = {name: value for name, value in written.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    try:
        key = PyJWK(public, algorithm=algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return
    if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS:
        return
    if algorithm == "ES256" and key.key.curve.name != "secp256r1":
        return
    yield key
