"""The upstreams of this process: built once from the environment, found by provider or credential."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from pydantic import ValidationError

from providers.base import Provider
from providers.configured import value_of
from providers.http.client import Outgoing
from providers.http.urls import Origin, origin_of
from providers.upstreams.chatgpt2api.adapter import ChatGpt2Api
from providers.upstreams.flux.adapter import Flux
from providers.upstreams.gemini.adapter import Gemini
from providers.upstreams.huggingface.adapter import HuggingFace
from providers.upstreams.llamaswap.adapter import LlamaSwap
from providers.upstreams.openai.adapter import OpenAi
from providers.upstreams.replicate.adapter import Replicate
from providers.upstreams.stability.adapter import Stability
from providers.upstreams.wavespeed.adapter import WaveSpeed
from providers.upstreams.xai.adapter import Xai

POOL_SIZE: Final = 200  # the most paid calls a worker process has at one provider (DESIGN section 3)


class BadSettingError(ValueError):
    """Variables of the environment cannot be used; the message names them and hides their values."""


class UnknownCredentialError(LookupError):
    """No provider with this credential is configured (any more)."""


class Adapter(Protocol):
    """What an adapter class offers beside :class:`providers.base.Provider`."""

    name: str

    def from_env(self, env: Mapping[str, str], outgoing: Outgoing) -> Iterable[Provider]:
        """One provider per credential that the environment holds."""


# `providers/configured.py` lists their variables, for those who must not load adapters.
ADAPTERS: Final[tuple[Adapter, ...]] = (
    ChatGpt2Api,
    OpenAi,
    Stability,
    Flux,
    WaveSpeed,
    Replicate,
    HuggingFace,
    LlamaSwap,
    Gemini,
    Xai,
)


class Registry:
    """All configured providers."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._by_credential = {provider.credential_id: provider for provider in providers}

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
            raise UnknownCredentialError(credential_id) from None


def load(env: Mapping[str, str], *, pool_size: int = POOL_SIZE) -> Registry:
    """Build every provider that ``env`` configures. Opens no connection.

    ``RESULT_ORIGINS``: origins, comma separated, whose result links are trusted like the base URLs.
    ``REQUESTS_CA_BUNDLE``: certificates to verify upstreams by.
    Raises: BadSettingError.
    """
    outgoing = Outgoing(pool_size, _result_origins(env), value_of(env, "REQUESTS_CA_BUNDLE"))
    return Registry(provider for adapter in ADAPTERS for provider in _build(adapter, env, outgoing))


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
