"""The upstreams of this process: built once from the environment, found by provider or credential."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol, cast

from pydantic import ValidationError

from core.outbound.urls import Origin, origin_of
from providers.base import Provider
from providers.configured import PROVIDERS, value_of, with_own_key
from providers.http.client import Outgoing
from providers.listing.listed import ModelList
from providers.shared.account import UpstreamAccount

POOL_SIZE: Final = 200  # the most paid calls a worker process has at one provider (docs/architecture.md)


class BadSettingError(ValueError):
    """Variables of the environment cannot be used; the message names them and hides their values."""


class UnknownCredentialError(LookupError):
    """No provider with this credential is configured (any more)."""


class Adapter(Protocol):
    """What an adapter class offers besides :class:`providers.base.Provider`."""

    name: str

    def from_env(self, env: Mapping[str, str], outgoing: Outgoing) -> Iterable[Provider]:
        """One provider per credential that the environment holds."""


def adapter_of(name: str) -> Adapter:
    """The adapter of a provider: the one account class that its ``adapter.py`` defines. Raises: ImportError."""
    module = import_module(f"providers.upstreams.{name}.adapter")
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, UpstreamAccount) and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ImportError(f"{module.__name__} defines {len(found)} classes that derive from UpstreamAccount, not one")
    return cast(Adapter, found[0])


# In the order of the catalogue, from which `providers/configured.py` reads their variables without loading them.
ADAPTERS: Final = tuple(adapter_of(name) for name, known in PROVIDERS.items() if known.has_adapter)


def model_list_of(name: str) -> ModelList | None:
    """How the provider's own list of models is read; None for one that offers none (no ``model_list.py``)."""
    module = f"providers.upstreams.{name}.model_list"
    return cast(ModelList, import_module(module)) if find_spec(module) is not None else None


class Registry:
    """All configured providers. ``own`` finds that of an account's own key by its credential, and raises
    UnknownCredentialError; without it, this process uses no such keys."""

    def __init__(self, providers: Iterable[Provider], own: Callable[[str], Provider] | None = None) -> None:
        self._by_credential = {provider.credential_id: provider for provider in providers}
        self._own = own

    def with_own(self, own: Callable[[str], Provider]) -> Registry:
        """The same providers, and those of accounts' own keys."""
        return Registry(self._by_credential.values(), own)

    def takes_own_keys(self, provider_name: str) -> bool:
        """Whether calls can be made to the provider with accounts' own keys here."""
        return self._own is not None and PROVIDERS[provider_name].house_only is not None

    def configured(self) -> list[str]:
        """Names of the providers with at least one credential."""
        return list(dict.fromkeys(provider.name for provider in self._by_credential.values()))

    def of(self, provider_name: str) -> list[Provider]:
        """One provider per credential, in the order of configuration; empty when there is none."""
        return [provider for provider in self._by_credential.values() if provider.name == provider_name]

    def by_credential(self, credential_id: str) -> Provider:
        """Raises UnknownCredentialError."""
        try:
            return self._by_credential[credential_id]
        except KeyError:
            if self._own is None:
                raise UnknownCredentialError(credential_id) from None
        return self._own(credential_id)

    def for_download(self, credential_id: str) -> Provider:
        """One by which results of calls with this credential can be fetched, which takes no key.

        Raises UnknownCredentialError.
        """
        if found := self._by_credential.get(credential_id):
            return found
        for provider in self.of(credential_id.partition("/")[0]):
            return provider
        raise UnknownCredentialError(credential_id)


def load(env: Mapping[str, str], *, pool_size: int = POOL_SIZE) -> Registry:
    """Build every provider that ``env`` configures. Opens no connection.

    ``RESULT_ORIGINS``: origins, comma separated, whose result links are trusted like the base URLs.
    ``REQUESTS_CA_BUNDLE``: certificates to verify upstreams by.
    Raises: BadSettingError.
    """
    outgoing = Outgoing(pool_size, _result_origins(env), value_of(env, "REQUESTS_CA_BUNDLE"))
    return Registry(provider for adapter in ADAPTERS for provider in _build(adapter, env, outgoing))


OWN_POOL_SIZE: Final = 20


def with_key(env: Mapping[str, str], provider_name: str, key: str, *, label: str) -> Provider:
    """The provider as ``env`` configures it, with a caller's own key; its key is taken out of every answer.

    Raises KeyError for a provider that takes no such keys or is not configured, BadSettingError.
    """
    view = with_own_key(env, provider_name, key)
    outgoing = Outgoing(OWN_POOL_SIZE, _result_origins(env), value_of(env, "REQUESTS_CA_BUNDLE"), redact=True)
    adapter = cast(type[UpstreamAccount[Any]], adapter_of(provider_name))
    try:
        config = adapter.config_type.from_env(view)
    except ValidationError:
        raise BadSettingError(f"{provider_name}: the key cannot be used") from None
    return cast(Provider, adapter(config, outgoing, label=label))


def _build(adapter: Adapter, env: Mapping[str, str], outgoing: Outgoing) -> Iterable[Provider]:
    try:
        return adapter.from_env(env, outgoing)
    except ValidationError as error:
        faults = "; ".join(f"{_dotted(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise BadSettingError(f"{adapter.name}: {faults}") from None


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _result_origins(env: Mapping[str, str]) -> frozenset[Origin]:
    texts = (value_of(env, "RESULT_ORIGINS") or "").split(",")
    try:
        return frozenset(origin_of(text.strip()) for text in texts if text.strip())
    except ValueError as error:
        raise BadSettingError(f"RESULT_ORIGINS: {error}") from None
