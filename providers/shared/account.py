"""What every adapter derives from: one account of an upstream, with its configuration and its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator

from core.outbound.urls import origin_of
from providers.configured import accounts
from providers.http.client import HttpResponse, Outgoing, UpstreamSession, WireRequest
from providers.shared import results


class AccountConfig(BaseModel):
    """Where an account is and how to authenticate. Frozen; errors never show its values."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    base_url: str

    @field_validator("base_url")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """The configuration, or None when a variable it needs is not set. Raises pydantic's ValidationError."""
        raise NotImplementedError

    def headers(self) -> dict[str, str]:
        """The headers of every request, the key among them; they go only to the base URL's origin."""
        raise NotImplementedError


C = TypeVar("C", bound=AccountConfig)


class UpstreamAccount(Generic[C]):
    """One account, with its sessions and the rules for its result links. Thread-safe.

    ``_paid`` opens a new connection for each request: a paid call on a connection that is being closed could
    not be repeated. ``_session`` keeps its connections, for looks and other requests that buy nothing.
    """

    name: str
    config_type: ClassVar[type[Any]]

    def __init__(self, config: C, outgoing: Outgoing | None = None, *, label: str = "default") -> None:
        outgoing = outgoing or Outgoing()
        self.credential_id = f"{self.name}/{label}"
        self.base_url = config.base_url
        self._config = config
        self._paid = UpstreamSession(self.base_url, config.headers(), outgoing, fresh=True)
        self._session = UpstreamSession(self.base_url, config.headers(), outgoing)
        self._links = results.policy(self._session.origin, outgoing)

    @classmethod
    def from_env(cls, env: Mapping[str, str], outgoing: Outgoing) -> list[Self]:
        """One account per credential; none when nothing is configured. Raises pydantic's ValidationError."""
        configs = ((label, cls.config_type.from_env(view)) for label, view in accounts(env, cls.name))
        return [cls(config, outgoing, label=label) for label, config in configs if config is not None]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.credential_id}, {self._session.origin})"

    def download(self, url: str) -> bytes:
        """The bytes at a result link, fetched without the key. Raises NotRun, Failed."""
        return results.download(url, self._links)

    def ask(self, request: WireRequest, *, total_s: float, max_bytes: int) -> HttpResponse:
        """The answer to a request that buys nothing, of any status. Raises: NotRun, Uncertain."""
        return self._session.send(request, total_s=total_s, max_bytes=max_bytes)
