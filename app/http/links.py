"""Absolute addresses of this service: of anything below its root, and of an image without a key.

The base of a link is DARKROOM_PUBLIC_URL; without it, the scheme and host that the request itself has asked for, where
that host is known to be ours (docs/api-conventions.md section 14): a Host header is written by the client. Native
answers are relative where it is not; a dialect whose clients follow absolute addresses only refuses the request.

A generator outlives its request: it takes :func:`here` before it starts, and makes its links from that.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Protocol

from flask import current_app
from flask.globals import request_ctx

from app.http.signing import Signer
from core.errors import ServiceError
from core.settings import Settings, SettingsError

EXTENSION = "darkroom_links"
ANY = "*"
MAX_KNOWN_HOSTS = 256

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?)(?P<port>:[0-9]{1,5})?")


class HostNotAllowedError(ServiceError):
    """The answer needs absolute addresses, and the host that was asked for is not known to be ours."""

    code = "host_not_allowed"


class Owned(Protocol):
    """What is needed of a task: jobs.reads.tasks.Task, or a StatusJson."""

    @property
    def id(self) -> str: ...

    @property
    def account_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Here:
    """Makes links below one base, without a request. ``base`` is empty where the host is unknown."""

    base: str
    signer: Signer

    def absolute(self, path: str) -> str:
        """The whole address of a path of ours. Raises HostNotAllowedError."""
        if not self.base:
            raise HostNotAllowedError
        return f"{self.base}{path}"

    def image_link(self, task: Owned, index: int) -> str:
        """The whole address of an image, signed: it needs no key, and ends after the life that links have here. Raises
        HostNotAllowedError."""
        return self.absolute(self.signer.image_link(task.account_id, task.id, index))


@dataclass(frozen=True, slots=True)
class Links:
    """``public_url``: the base of every link, where it is set. ``allowed_hosts``: hosts that requests may name
    otherwise, with or without a port, ``*`` for any; loopback and addresses of private networks always may."""

    signer: Signer
    public_url: str = ""
    allowed_hosts: frozenset[str] = frozenset()
    _known: dict[tuple[str, str], Here] = field(default_factory=dict, init=False, repr=False)

    def here(self, scheme: str, host: str) -> Here:
        """Links for a request that asked for this scheme and host."""
        found = self._known.get((scheme, host))
        if found is None:
            found = Here(self.public_url or self._asked(scheme, host), self.signer)
            if len(self._known) >= MAX_KNOWN_HOSTS:  # whose names clients make up
                self._known.clear()
            self._known[scheme, host] = found
        return found

    def path_of(self, url: str) -> str | None:
        """Path and query of an address that leads here, from our root on; None for any other."""
        if self.public_url and url.startswith(f"{self.public_url}/"):
            return url.removeprefix(self.public_url)
        scheme, found, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        return f"/{path}" if found and slash and self._asked(scheme.lower(), host) else None

    def _asked(self, scheme: str, host: str) -> str:
        """The base by what a request names; empty where that is not known to be ours."""
        found = _HOST.fullmatch(host.lower())
        if found is None or scheme not in ("http", "https"):
            return ""
        name = found["name"]
        listed = not self.allowed_hosts.isdisjoint((ANY, name, host.lower()))
        return f"{scheme}://{host}" if listed or name in _LOOPBACK or _is_private(name) else ""


def _is_private(name: str) -> bool:
    """Whether a host is written as an address that only a private network, or this machine, has."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_private
    except ValueError:
        return False


def hosts_of(text: str) -> frozenset[str]:
    """DARKROOM_ALLOWED_HOSTS as a set. Raises ValueError naming what is no host."""
    hosts = [each.strip().lower() for each in text.split(",") if each.strip()]
    if wrong := [each for each in hosts if each != ANY and not _HOST.fullmatch(each)]:
        raise ValueError(f"{', '.join(wrong)}: give hosts as in example.org or example.org:8443, without a scheme")
    return frozenset(hosts)


def links_of(settings: Settings, signer: Signer) -> Links:
    """The links of a service with these settings. Raises SettingsError."""
    try:
        return Links(signer, (settings.public_url or "").rstrip("/"), hosts_of(settings.allowed_hosts))
    except ValueError as error:
        raise SettingsError(f"DARKROOM_ALLOWED_HOSTS: {error}") from None


def here() -> Here:
    """The links of this request, for use now or after it has ended."""
    found: Links = current_app.extensions[EXTENSION]
    asked = request_ctx.request  # looked up once: every use of Flask's proxy costs
    # As it was sent; reading it by Werkzeug would cost more than all the rest.
    return found.here(asked.environ["wsgi.url_scheme"], asked.environ.get("HTTP_HOST", ""))


def base() -> str:
    """The public base of this request, without a slash at its end; empty where its host is unknown."""
    return here().base


def absolute(path: str) -> str:
    """The whole address of a path of ours. Raises HostNotAllowedError: call it before anything is accepted."""
    return here().absolute(path)
