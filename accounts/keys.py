"""API keys: ``dk_<id>_<secret>`` with 256 random bits, of which only the SHA-256 is stored.

The entropy makes a slow hash pointless (docs/reliability.md 3.5); the id finds the row, and the digest is compared in
constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from accounts.order_limits import LIMITED
from core.coalescing import Coalescing
from core.db import Database, Hot, Statement

SCOPES = ("jobs:write", "jobs:read", "usage:read", "webhooks", "admin")
CACHE_S = 5.0
LAST_USED_EVERY_S = 60
_TOKEN = re.compile(r"dk_(?P<id>[0-9a-f]{12})_(?P<secret>[0-9A-Za-z_-]{43})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they may do.

    ``weight``: the account's share of a provider's queue, relative to other accounts. ``key_id``: of the API key,
    ``jwt`` for the bearer of a token, or ``link:<kid>`` for the holder of a signed link. ``external_ids``: the ids
    under which others know the caller (docs/decisions/0080-tokens.md). ``models`` and ``providers``: those that its
    orders may use, by id; None: all. ``orders_by_limits``: the key or its account has a limit of spending, of jobs in
    flight or of images (accounts/order_limits.py). ``account_requests_per_minute``: in place of the installation's
    limit; ``key_requests_per_minute``: of the key, next to it; None: none. ``paused``: the key is good and may do
    nothing until it is let on.
    """

    account_id: str
    account_name: str = ""
    key_id: str = ""
    scopes: frozenset[str] = frozenset()
    weight: int = 1
    external_ids: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    providers: frozenset[str] | None = None
    orders_by_limits: bool = False
    account_requests_per_minute: int | None = None
    key_requests_per_minute: int | None = None
    paused: bool = False

    def may_use(self, model: str, provider: str) -> bool:
        """Whether its orders may use a model, by the ids of the model and its provider."""
        return (self.models is None or model in self.models) and (self.providers is None or provider in self.providers)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key; ``token`` is shown once and never stored."""

    id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as its owner may see it: everything but the secret."""

    id: str
    account_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    spend_day_limit: int | None = None
    spend_month_limit: int | None = None
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    images_per_minute: int | None = None
    previous_until: datetime | None = None  # the secret before the latest rotation opens as well until then
    paused_at: datetime | None = None
    pause_reason: str | None = None


def create_key(
    connection: Connection,
    account_id: str,
    *,
    name: str = "",
    scopes: Collection[str] = ("jobs:write", "jobs:read"),
    expires_at: datetime | None = None,
    models: Collection[str] | None = None,
    providers: Collection[str] | None = None,
    spend_day_limit: int | None = None,
    spend_month_limit: int | None = None,
    requests_per_minute: int | None = None,
    max_in_flight: int | None = None,
    images_per_minute: int | None = None,
) -> NewKey:
    """Create a key for an account. Raises ValueError for an unknown scope, IntegrityError for an unknown account.

    ``models`` and ``providers``: by id, None for all; the limits of spending in micro-credits, None for none.
    """
    check_scopes(scopes)
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    connection.execute(
        _CREATE,
        {
            "id": key_id,
            "account_id": account_id,
            "name": name,
            "digest": digest_of(secret),
            "scopes": sorted(scopes),
            "expires_at": expires_at,
            "models": None if models is None else sorted(models),
            "providers": None if providers is None else sorted(providers),
            "spend_day_limit": spend_day_limit,
            "spend_month_limit": spend_month_limit,
            "requests_per_minute": requests_per_minute,
            "max_in_flight": max_in_flight,
            "images_per_minute": images_per_minute,
        },
    )
    return NewKey(key_id, token_of(key_id, secret))


_CREATE = text("""
INSERT INTO api_keys (id, account_id, name, secret_sha256, scopes, expires_at, models, providers, spend_day_limit,
    spend_month_limit, requests_per_minute, max_in_flight, images_per_minute)
VALUES (:id, :account_id, :name, :digest, :scopes, :expires_at, :models, :providers, :spend_day_limit,
    :spend_month_limit, :requests_per_minute, :max_in_flight, :images_per_minute)
""")


def check_scopes(scopes: Collection[str]) -> None:
    """Raises ValueError for an unknown scope."""
    if unknown := set(scopes) - set(SCOPES):
        raise ValueError(f"unknown scope: {', '.join(sorted(unknown))}")


def token_of(key_id: str, secret: str) -> str:
    """The text that callers send."""
    return f"dk_{key_id}_{secret}"


def revoke_key(connection: Connection, key_id: str) -> bool:
    """Revoke a key; True if there was a live key of this id. Processes accept it for up to ``CACHE_S`` seconds more."""
    done = connection.execute(
        text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = :id AND revoked_at IS NULL"),
        {"id": key_id},
    )
    return done.rowcount == 1


def list_keys(connection: Connection, account_id: str | None = None) -> list[KeyInfo]:
    """Every key of an account, or of all accounts, oldest first; revoked and expired ones included."""
    rows = connection.execute(
        text(
            f"SELECT {COLUMNS} FROM api_keys"
            " WHERE CAST(:account_id AS text) IS NULL OR account_id = :account_id ORDER BY created_at"
        ),
        {"account_id": account_id},
    )
    return [key_info(row) for row in rows]


COLUMNS = (
    "id, account_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, models, providers,"
    " spend_day_limit, spend_month_limit, requests_per_minute, max_in_flight, images_per_minute, previous_until,"
    " paused_at, pause_reason"
)


def key_info(found: Row[Any]) -> KeyInfo:
    """A row of ``COLUMNS``."""
    row = found._asdict()
    lists = {name: None if row[name] is None else tuple(row[name]) for name in ("models", "providers")}
    return KeyInfo(**{**row, "scopes": tuple(row["scopes"]), **lists})


LIVE_KEYS = Statement(f"""
SELECT k.id, k.secret_sha256, k.scopes, a.id AS account_id, a.name, a.weight, a.external_id, k.models, k.providers,
    k.paused_at IS NOT NULL AS paused,
    CASE WHEN k.previous_until > clock_timestamp() THEN k.previous_sha256 END AS previous_sha256,
    {LIMITED.format("k")} OR {LIMITED.format("a")} AS limited,
    a.requests_per_minute AS of_account, k.requests_per_minute AS of_key
FROM api_keys AS k JOIN accounts AS a ON a.id = k.account_id
WHERE k.id = ANY(CAST(:ids AS text[])) AND k.revoked_at IS NULL AND a.disabled_at IS NULL
    AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
""")

NOTE_USES = Statement("""
UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = ANY(CAST(:ids AS text[]))
""")


@dataclass(frozen=True, slots=True)
class _LiveKey:
    """A valid key: the digests of its secret and, for a while after a rotation, of the one before; and the caller it
    identifies."""

    digests: tuple[bytes, ...]
    caller: Caller

    def opened_by(self, secret: str) -> Caller | None:
        given = digest_of(secret)
        fits = [hmac.compare_digest(digest, given) for digest in self.digests]
        return self.caller if any(fits) else None


def authenticate(connection: Hot | Connection, token: str) -> Caller | None:
    """The caller behind a token, or None: malformed, unknown, wrong, expired, revoked or disabled."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    found = _live_keys(Hot.of(connection), [parts["id"]]).get(parts["id"])
    return found.opened_by(parts["secret"]) if found else None


def _live_keys(hot: Hot, key_ids: Sequence[str]) -> dict[str, _LiveKey]:
    return {
        row.id: _LiveKey(
            tuple(bytes(digest) for digest in (row.secret_sha256, row.previous_sha256) if digest),
            Caller(
                row.account_id,
                row.name,
                row.id,
                frozenset(row.scopes),
                row.weight,
                frozenset({row.external_id} if row.external_id else ()),
                models=None if row.models is None else frozenset(row.models),
                providers=None if row.providers is None else frozenset(row.providers),
                orders_by_limits=row.limited,
                account_requests_per_minute=row.of_account,
                key_requests_per_minute=row.of_key,
                paused=row.paused,
            ),
        )
        for row in hot.all(LIVE_KEYS, {"ids": list(key_ids)})
    }


# Of work that goes on when its key was revoked, and of tokens, which have no key here.
ORDERED_BY = Statement(f"""
SELECT a.name, a.weight, k.models, k.providers,
    {LIMITED.format("k")} OR {LIMITED.format("a")} AS limited, k.paused_at IS NOT NULL AS paused
FROM accounts AS a LEFT JOIN api_keys AS k ON k.account_id = a.id AND k.id = :key_id
WHERE a.id = :account_id
""")


def caller_of(connection: Hot | Connection, account_id: str, key_id: str) -> Caller:
    """Who ordered work that is done later, with the lists and limits that the key and the account have by now; it may
    submit and nothing else."""
    [row] = Hot.of(connection).all(ORDERED_BY, {"account_id": account_id, "key_id": key_id})
    return Caller(
        account_id,
        row.name,
        key_id,
        frozenset({"jobs:write"}),
        row.weight,
        models=None if row.models is None else frozenset(row.models),
        providers=None if row.providers is None else frozenset(row.providers),
        orders_by_limits=row.limited,
        paused=row.paused,
    )


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class KeyCache:
    """Caches results by digest for at most ``CACHE_S`` seconds, so that hot routes rarely query the database.

    Concurrent look-ups share a query: the cached results of a process expire at about the same time, and a connection
    for each would exceed the pool.
    """

    def __init__(self, database: Database, *, capacity: int = 10_000) -> None:
        self._database = database
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, Caller | None]] = {}
        self._noted: dict[str, float] = {}
        self._good: set[bytes] = set()
        self._live = Coalescing(self._find)
        self._uses = Coalescing(self._note_uses)

    def authenticate(self, token: str) -> Caller | None:
        """As :func:`authenticate`, at most ``CACHE_S`` old. Raises DatabaseAwayError."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        digest, now = digest_of(token), time.monotonic()
        known = self._known.get(digest)
        if known and known[0] > now:
            return known[1]
        found = self._live.ask(parts["id"])
        caller = found.opened_by(parts["secret"]) if found else None
        self._remember(digest, good=caller is not None)
        if caller and self._noted.get(caller.key_id, 0.0) < now:
            self._noted[caller.key_id] = now + LAST_USED_EVERY_S
            self._uses.ask(caller.key_id)
        with self._lock:
            if len(self._known) >= self._capacity:
                self._known.clear()
            self._known[digest] = (now + CACHE_S, caller)
        return caller

    def knows(self, token: str) -> bool:
        """Whether the token was good when it was last looked up here; asks no database, and lets no one in."""
        return digest_of(token) in self._good

    def _remember(self, digest: bytes, *, good: bool) -> None:
        with self._lock:
            if not good:
                self._good.discard(digest)
                return
            if len(self._good) >= self._capacity:
                self._good.clear()
            self._good.add(digest)

    def _find(self, key_ids: Sequence[str]) -> Mapping[str, _LiveKey]:
        with self._database.hot() as hot:
            return _live_keys(hot, key_ids)

    def _note_uses(self, key_ids: Sequence[str]) -> Mapping[str, None]:
        with self._database.hot() as hot:
            hot.run(NOTE_USES, {"ids": list(key_ids)})
        return {}
