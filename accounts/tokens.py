"""JSON Web Tokens: who calls, by the word of an issuer that the operator trusts (RFC 7519, RFC 8725).

Which algorithms there are is the operator's configuration, never the token's: HS256 with the shared secret, RS256 and
ES256 with keys of the JWK Set, and no key serves both (docs/decisions/0080-tokens.md).
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuedAtError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from accounts.accounts import ExternalAccount, find_external
from accounts.jwks import KEY_TYPES, Keys
from accounts.keys import CACHE_S, SCOPES, Caller
from core.coalescing import Coalescing
from core.db import Database
from core.errors import ServiceError

DEFAULT_SCOPES = frozenset({"jobs:write", "jobs:read"})
KEY_ID = "jwt"
MAX_LEEWAY_S = 60
MAX_KID_CHARS = 255
_EXTERNAL_ID = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_MAX_NUMBER = 10**30


class TokenRefusedError(ServiceError):
    """The token does not let its bearer in; the detail says why, in words of ours."""

    code = "token_invalid"


@dataclass(frozen=True, slots=True)
class Rules:
    """How tokens are checked. ``claim``: the one that names the account; None for ``sub``, or ``customer_id`` in a
    token that has no ``sub``. ``audiences`` empty, ``issuer`` None: not asked of a token."""

    secret: str | None = field(default=None, repr=False)
    keys: Keys | None = None
    audiences: Sequence[str] = ()
    issuer: str | None = None
    leeway_s: float = 30.0
    claim: str | None = None
    allow_admin: bool = False

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (*(("HS256",) if self.secret else ()), *(KEY_TYPES if self.keys else ()))


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says. ``external_ids``: the ids under which others know its bearer, the account's first."""

    external_ids: tuple[str, ...]
    scopes: frozenset[str]
    ends_at_s: float  # Unix time, with the leeway

    @property
    def external_id(self) -> str:
        return self.external_ids[0]


def is_token(text: str) -> bool:
    """Whether a bearer token has the form of a JWT; no API key has."""
    return text.count(".") == 2


def verify(token: str, rules: Rules) -> Claims:
    """What a token says, once all of it has been checked. Raises TokenRefusedError, KeysAwayError."""
    key, algorithm = _key_of(token, rules)
    try:
        said: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=list(rules.audiences) or None,
            issuer=rules.issuer,
            leeway=rules.leeway_s,
            # A subject may be a number, which is checked below.
            options={"require": ["exp", *(["aud"] if rules.audiences else [])], "verify_sub": False},
        )
        ends_at_s = float(said["exp"]) + rules.leeway_s
    except PyJWTError as error:
        raise TokenRefusedError(_words(error)) from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise TokenRefusedError("the token is not well formed") from None
    return Claims(_external_ids(said, rules.claim), _scopes(said, rules), ends_at_s)


def _key_of(token: str, rules: Rules) -> tuple[str | PyJWK, str]:
    """The key that a token must be signed by, and the only algorithm that goes with it."""
    try:
        header = jwt.get_unverified_header(token)
    except (PyJWTError, ValueError, RecursionError):
        raise TokenRefusedError("the token is not well formed") from None
    if "crit" in header:
        raise TokenRefusedError("the token's header demands an extension that is not understood here")
    algorithm = header.get("alg")
    if algorithm not in rules.algorithms:
        raise TokenRefusedError(f"the token must be signed by {' or '.join(rules.algorithms)}")
    if algorithm == "HS256" and rules.secret:
        return rules.secret, algorithm
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID_CHARS:
        raise TokenRefusedError("the token is not well formed")
    found = rules.keys.find(kid, algorithm) if rules.keys else None
    if found is None:
        raise TokenRefusedError("the token is signed by a key that the issuer does not list")
    return found, algorithm


_WORDS: Mapping[type[PyJWTError], str] = {
    ExpiredSignatureError: "the token has expired",
    ImmatureSignatureError: "the token is not valid yet",
    InvalidIssuedAtError: "the token is not valid yet",
    InvalidAudienceError: "the token is for another audience",
    InvalidIssuerError: "the token is from another issuer",
    InvalidSignatureError: "the token's signature is not right",
}


def _words(error: PyJWTError) -> str:
    """Why a token is refused. The library's own text may quote the token."""
    if isinstance(error, MissingRequiredClaimError) and error.claim in ("exp", "aud", "iss"):
        return f"the token has no claim {error.claim}"
    return _WORDS.get(type(error), "the token is not well formed")


def _external_ids(said: Mapping[str, Any], claim: str | None) -> tuple[str, ...]:
    names = (claim,) if claim else ("sub", "customer_id")
    found = [text for name in names if (text := _id_text(said.get(name)))]
    if not found:
        raise TokenRefusedError(f"the token has no claim {' or '.join(names)} that names an account")
    customer = _id_text(said.get("customer_id"))
    return (found[0], customer) if customer and customer != found[0] else (found[0],)


def _id_text(value: object) -> str:
    """An id as text: a text as it is, a positive whole number in digits; empty for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if 0 < value < _MAX_NUMBER else ""
    return value if isinstance(value, str) and value.strip() and _EXTERNAL_ID.fullmatch(value) else ""


def _scopes(said: Mapping[str, Any], rules: Rules) -> frozenset[str]:
    """Those of ours that a token names; a token that says nothing of scopes gets the default ones."""
    given = [said[name] for name in ("scope", "scopes") if said.get(name) is not None]
    if not given:
        return DEFAULT_SCOPES
    named = {word for each in given for word in _scope_words(each)}
    return frozenset(named & set(SCOPES)) - (frozenset() if rules.allow_admin else {"admin"})


def _scope_words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


class TokenCache:
    """The callers behind tokens. A good token is checked again, and its account read again, after ``CACHE_S`` seconds.

    ``open_account`` makes the account of an id that is seen for the first time; None: such a token is refused.
    """

    def __init__(
        self,
        database: Database,
        rules: Rules,
        *,
        open_account: Callable[[str], None] | None = None,
        capacity: int = 10_000,
    ) -> None:
        self._database = database
        self._rules = rules
        self._open_account = open_account
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._good: set[bytes] = set()
        self._accounts = Coalescing(self._find)

    def authenticate(self, token: str) -> Caller:
        """Who calls. Raises TokenRefusedError, KeysAwayError, DatabaseAwayError."""
        digest, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        known = self._known.get(digest)
        if known and known[0] > now:
            return known[1]
        try:
            claims = verify(token, self._rules)
            caller = self._caller(claims)
        except TokenRefusedError:
            with self._lock:
                self._good.discard(digest)
                self._known.pop(digest, None)
            raise
        until = now + min(CACHE_S, claims.ends_at_s - time.time())
        with self._lock:
            if len(self._known) >= self._capacity:
                self._known.clear()
                self._good.clear()
            self._known[digest] = (until, caller)
            self._good.add(digest)
        return caller

    def knows(self, token: str) -> bool:
        """Whether the token was good when it was last looked up here; asks no one, and lets no one in."""
        return hashlib.sha256(token.encode()).digest() in self._good

    def _caller(self, claims: Claims) -> Caller:
        account = self._accounts.ask(claims.external_id)
        if account is None and self._open_account:
            self._open_account(claims.external_id)
            account = self._accounts.ask(claims.external_id)
        if account is None:
            raise TokenRefusedError("there is no account here for the bearer of this token")
        if account.disabled:
            raise TokenRefusedError("the account of this token is disabled")
        return Caller(
            account.id,
            account.name,
            KEY_ID,
            claims.scopes,
            account.weight,
            frozenset(claims.external_ids),
            orders_by_limits=account.orders_by_limits,
            account_requests_per_minute=account.requests_per_minute,
        )

    def _find(self, external_ids: Sequence[str]) -> Mapping[str, ExternalAccount]:
        with self._database.hot() as hot:
            return find_external(hot, external_ids)
