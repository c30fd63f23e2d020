"""Who may call, as the settings say: API keys, and the tokens of an issuer where one is configured."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from accounts import accounts
from accounts.callers import Callers
from accounts.jwks import KeySet
from accounts.keys import Caller, KeyCache
from accounts.tokens import Rules, TokenCache
from core.db import Database
from core.settings import Settings, SettingsError
from providers.http.client import UpstreamSession, WireRequest
from quota import ledger
from quota.prices import MICROCREDITS_PER_CREDIT

KEYS_TOTAL_S = 5.0
KEYS_MAX_BYTES = 256 * 1024


def build_callers(settings: Settings, database: Database) -> Callers:
    """The parts are connected on first use. Raises SettingsError."""
    keys = KeyCache(database)
    if not (settings.jwt_secret or settings.jwt_jwks_url):
        return Callers(keys)
    opened = _opening(database, settings.jwt_account_credits) if settings.jwt_create_accounts else None
    return Callers(keys, TokenCache(database, _rules(settings), open_account=opened))


def _rules(settings: Settings) -> Rules:
    url = settings.jwt_jwks_url
    return Rules(
        secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
        keys=KeySet(_fetch(url)) if url else None,
        audiences=tuple(each.strip() for each in (settings.jwt_audience or "").split(",") if each.strip()),
        issuer=settings.jwt_issuer,
        leeway_s=settings.jwt_leeway_s,
        claim=settings.jwt_account_claim,
        allow_admin=settings.jwt_allow_admin,
    )


def _fetch(url: str) -> Callable[[], bytes]:
    """Fetches the key set: from the operator's own address, without a redirect, within a time and a size."""
    try:
        session = UpstreamSession(url, {"Accept": "application/json"})
    except ValueError as error:
        raise SettingsError(f"DARKROOM_JWT_JWKS_URL: {error}") from None

    def fetch() -> bytes:
        answer = session.send(WireRequest("GET", ""), total_s=KEYS_TOTAL_S, max_bytes=KEYS_MAX_BYTES)
        if answer.status != 200:
            raise KeySetError(f"HTTP {answer.status}")
        return answer.body

    return fetch


class KeySetError(Exception):
    """The address of the key set answers with something else."""


def _opening(database: Database, credits_given: int) -> Callable[[str], None]:
    def open_account(external_id: str) -> None:
        with database.transaction() as connection:
            account_id = accounts.open_external(connection, external_id)
            if account_id and credits_given:
                amount = credits_given * MICROCREDITS_PER_CREDIT
                ledger.grant(connection, account_id, amount, note="first token")

    return open_account


@dataclass(frozen=True, slots=True)
class _WithMetricsToken:
    """Callers, and next to them the bearer of the token that reads metrics and nothing else."""

    callers: Callers
    token: str

    def authenticate(self, token: str) -> Caller | None:
        """As Callers.authenticate; asks no database for the token."""
        return METRICS_READER if self.knows_token(token) else self.callers.authenticate(token)

    def knows(self, token: str) -> bool:
        """As Callers.knows."""
        return self.knows_token(token) or self.callers.knows(token)

    def knows_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())


METRICS_READER = Caller("", key_id="metrics", scopes=frozenset({"metrics"}))


def with_metrics_token(callers: Callers, token: str | None) -> Callers | _WithMetricsToken:
    """The callers, and the bearer of the token where there is one."""
    return callers if token is None else _WithMetricsToken(callers, token)
