"""Which host a Flux task is looked up at, and whether the key goes there.

A task lives in one cluster, so its own poll URL must be used (CONTRACT.md, section 2). It is still a
URL from outside: the key goes only to the configured origin and to Black Forest Labs' own hosts, and any other
origin must be https on its usual port with a public address.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from core.outbound.untrusted import Policy
from core.outbound.urls import MAX_URL_CHARS, Origin, UnsafeUrlError, origin_of
from providers.base import CallRef
from providers.errors import Uncertain
from providers.http.client import HttpResponse, Outgoing, UpstreamSession, WireRequest

VENDOR_HOST: Final = "bfl.ai"
HOSTS_KEPT = 8  # two regions with a few clusters each


def poll_url_of(found: object, task_id: str) -> str | None:
    """The poll URL of a submit's answer, with the task's id added if it lacks one; None if it cannot be used."""
    if not isinstance(found, str):
        return None
    url = found.strip()
    try:
        origin_of(url)
    except ValueError:
        return None
    parts = urlsplit(url)
    if not parse_qs(parts.query).get("id"):
        url = parts._replace(query=f"{parts.query}&id={quote(task_id)}".lstrip("&"), fragment="").geturl()
    return url if len(url) <= MAX_URL_CHARS else None


def gets_key(origin: Origin, own: Origin) -> bool:
    """Whether the key is sent to a poll URL of that origin (section 2)."""
    ours = origin.host == VENDOR_HOST or origin.host.endswith(f".{VENDOR_HOST}")
    return origin == own or (ours and origin.scheme == "https" and origin.port == 443)


class FluxHosts:
    """One session per host that has tasks; ``rules`` judge every host except the configured one."""

    def __init__(self, base_url: str, headers: Mapping[str, str], rules: Policy, outgoing: Outgoing) -> None:
        self._base_url = base_url
        self._own = origin_of(base_url)
        self._headers = headers
        self._rules = rules
        self._outgoing = outgoing
        self._session = functools.lru_cache(maxsize=HOSTS_KEPT)(self._open)

    def origin_for(self, call: CallRef) -> Origin:
        """The origin at which the call is looked up."""
        return origin_of(self._url(call))

    def look(self, call: CallRef, *, total_s: float, max_bytes: int) -> HttpResponse:
        """The answer of the task's own host, of any status. Raises: NotRun, Uncertain."""
        url = self._url(call)
        session = self._session(origin_of(url))
        parts = urlsplit(url)
        return session.send(WireRequest("GET", f"{parts.path}?{parts.query}"), total_s=total_s, max_bytes=max_bytes)

    def _url(self, call: CallRef) -> str:
        """The poll URL, or where there is none (an order with a webhook) the usual path at the base (section 2)."""
        return call.poll_url or f"{self._base_url}/v1/get_result?id={quote(call.upstream_id or '')}"

    def _open(self, origin: Origin) -> UpstreamSession:
        if origin == self._own:
            return UpstreamSession(str(origin), self._headers, self._outgoing)
        try:
            self._rules.check(origin)
        except UnsafeUrlError as error:
            raise Uncertain("upstream_cannot_look", f"poll URL: {error.detail}") from error
        return UpstreamSession(
            str(origin),
            self._headers if gets_key(origin, self._own) else {},
            self._outgoing,
            may_reach=self._rules.allows_address,
        )
