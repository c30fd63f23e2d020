"""Asking a provider whether it takes a caller's own key, by a request that buys nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from app.http.errors import UpstreamFailedError
from app.provider_keys import ProviderKeyRefusedError
from providers.catalog.catalog import CatalogSource

TOTAL_S = 15.0
MAX_BYTES = 8 * 1024 * 1024
_OK = range(200, 300)
# What the upstreams answer to a key that they do not know; one of them means it by 400.
_REFUSED = frozenset({400, 401, 403})


class ProviderAsker:
    """Asks the upstreams of this environment. Their adapters are loaded at first use."""

    def __init__(self, env: Mapping[str, str], catalogs: CatalogSource) -> None:
        self._env = env
        self._catalogs = catalogs

    def __call__(self, provider: str, key: str) -> None:
        """Raises ProviderKeyRefusedError, and UpstreamFailedError for an upstream that gives no clear answer."""
        from providers import registry
        from providers.errors import ProviderError
        from providers.http.client import WireRequest
        from providers.shared.account import UpstreamAccount

        spec = self._catalogs.current().providers[provider]
        if spec.own_keys is None or spec.own_keys.check is None:
            raise ValueError(f"{provider} has nothing to ask")
        account = cast(UpstreamAccount[Any], registry.with_key(self._env, provider, key, label="own_check"))
        try:
            answer = account.ask(WireRequest("GET", spec.own_keys.check), total_s=TOTAL_S, max_bytes=MAX_BYTES)
        except ProviderError as error:
            raise UpstreamFailedError(f"{spec.title} could not be asked: {error.code}") from None
        if answer.status in _REFUSED:
            raise ProviderKeyRefusedError(f"{spec.title} refused the key (HTTP {answer.status}); it was not stored")
        if answer.status not in _OK:
            raise UpstreamFailedError(f"{spec.title} answered HTTP {answer.status}; the key was not stored")
