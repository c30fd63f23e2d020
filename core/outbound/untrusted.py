"""Reading and writing URLs that came from outside: of callers, and of answers of upstreams.

:func:`fetch` reads a URL, :func:`put`, :func:`post` and :func:`ask` write to one, without any credential. None of them
reaches a private address, and none retries.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from urllib.parse import urljoin

import requests

from core.outbound import addresses, connections
from core.outbound.bodies import TRANSPORT_ERRORS, TooLargeError, capped, causes
from core.outbound.connections import USER_AGENT
from core.outbound.exchange import (
    Exchange,
    ForbiddenAddressError,
    NotConnectedError,
    OutOfTimeError,
    Resolver,
    is_numeric,
    resolve,
)
from core.outbound.urls import DEFAULT_PORTS, MAX_URL_CHARS, Origin, UnsafeUrlError, parsed

MAX_REDIRECTS = 3
# Names of callers that are resolved at once. Under gevent all names of the process share one pool of threads, and a
# name server that does not answer keeps a thread for half a minute.
LOOKUPS_AT_ONCE = 32
ADDRESS_REFUSED = "address"  # detail of an UnsafeUrlError: the URL is in order, where its name leads is not
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@functools.cache
def _lookups() -> threading.Semaphore:
    """Made at first use, when gevent has patched what it is made of."""
    return threading.Semaphore(LOOKUPS_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Policy:
    """Where a fetch may go, how long it may take, and how many bytes it may read.

    ``trusted_origins``, and ``trusted_hosts`` at any port, are exempt from the rules on scheme, port and private
    addresses. They come only from the operator's configuration. ``silence_s`` is the longest wait for the next byte;
    ``least_bytes_per_s`` is required once ``grace_s`` have passed.
    """

    max_bytes: int
    total_s: float
    trusted_origins: frozenset[Origin] = frozenset()
    trusted_hosts: frozenset[str] = frozenset()
    schemes: frozenset[str] = frozenset({"https"})
    connect_s: float = 5.0
    silence_s: float = 30.0
    least_bytes_per_s: int = 1024
    grace_s: float = 5.0
    accept: str = "image/*"
    ca_file: str | None = None
    resolve: Resolver = resolve
    lookups: threading.Semaphore | None = None

    @classmethod
    def user(cls, *, max_bytes: int, total_s: float = 10.0, allow_http: bool = False) -> Policy:
        """For a URL that a caller gave: nothing is trusted."""
        schemes = frozenset({"http", "https"}) if allow_http else frozenset({"https"})
        return cls(max_bytes, total_s, schemes=schemes, lookups=_lookups())

    @classmethod
    def result(cls, trusted_origins: Iterable[Origin], *, max_bytes: int, total_s: float = 60.0) -> Policy:
        """For a link in an upstream's answer: only the configured origins are trusted."""
        return cls(max_bytes, total_s, trusted_origins=frozenset(trusted_origins))

    def allows_address(self, origin: Origin, address: str) -> bool:
        """Whether a connection to this numeric address of the origin may be opened."""
        return self._trusts(origin) or addresses.is_public(address)

    def check(self, origin: Origin) -> None:
        """Raises: UnsafeUrlError ``url_not_allowed`` for a scheme or port that this policy does not allow."""
        if self._trusts(origin):
            return
        if origin.scheme not in self.schemes:
            raise UnsafeUrlError("url_not_allowed", f"scheme {origin.scheme}")
        if origin.port != DEFAULT_PORTS[origin.scheme]:
            raise UnsafeUrlError("url_not_allowed", f"port {origin.port}")

    def check_written(self, url: str) -> None:
        """Judge a URL before anything is sent there. No name is looked up: that is done, and judged, at each connect.

        Raises: UnsafeUrlError ``url_not_allowed``: its form, length, scheme or port, or a private address in it.
        """
        if len(url) > MAX_URL_CHARS:
            raise UnsafeUrlError("url_not_allowed", f"longer than {MAX_URL_CHARS} characters")
        origin, _ = parsed(url)
        self.check(origin)
        if is_numeric(origin.host) and not self.allows_address(origin, origin.host):
            raise UnsafeUrlError("url_not_allowed", ADDRESS_REFUSED)

    def _trusts(self, origin: Origin) -> bool:
        return origin in self.trusted_origins or origin.host in self.trusted_hosts


@dataclass(frozen=True, slots=True)
class Fetched:
    """The content of a URL. ``content_type`` is what the server claims; it proves nothing."""

    data: bytes = field(repr=False)
    content_type: str
    url: str  # after redirects


def fetch(url: str, policy: Policy, *, headers: Mapping[str, str] | None = None) -> Fetched:
    """Read a URL from outside within ``policy``; at most three redirects, each judged again.

    ``headers`` go only to the first origin: a redirect elsewhere drops them, credentials included.
    Raises: UnsafeUrlError.
    """
    exchange = _exchange(policy)
    first = origin = None
    for _hop in range(MAX_REDIRECTS + 1):
        # Only URLs from outside are limited: our own look at a hundred tasks names them all in its query.
        if len(url) > MAX_URL_CHARS:
            raise UnsafeUrlError("url_not_allowed", f"longer than {MAX_URL_CHARS} characters")
        origin, whole = parsed(url)
        first = first or origin
        policy.check(origin)
        found = _get(whole.url, policy, exchange, (headers or {}) if origin == first else {})
        if isinstance(found, Fetched):
            return found
        url = urljoin(whole.url, found)
    raise UnsafeUrlError("url_redirects", f"more than {MAX_REDIRECTS} redirects")


@functools.cache
def _fetcher(ca_file: str | None) -> connections.Transport:
    """One transport for all fetches: it keeps no connection."""
    return connections.Transport(pool_size=1, fresh=True, ca_file=ca_file)


def _get(url: str, policy: Policy, exchange: Exchange, headers: Mapping[str, str]) -> Fetched | str:
    """The content of ``url``, or the target of its redirect."""
    own = {"User-Agent": USER_AGENT, "Accept": policy.accept, "Accept-Encoding": "identity"}
    with _named_faults():
        prepared = requests.Request("GET", url, headers={**own, **headers}).prepare()
        response = _fetcher(policy.ca_file).transmit(prepared, exchange)
        try:
            return _read(response, url, policy)
        finally:
            response.close()


def put(url: str, data: bytes, policy: Policy, *, headers: Mapping[str, str]) -> None:
    """Store ``data`` at a URL from outside, within ``policy``; a redirect is not followed.

    Raises: UnsafeUrlError; an answer other than 2xx is ``url_unreachable`` with its status.
    """
    status = _write("PUT", url, data, policy, headers).status
    if not 200 <= status < 300:
        raise UnsafeUrlError("url_unreachable", f"HTTP {status}", status=status)


@dataclass(frozen=True, slots=True)
class Answer:
    """The header of an answer, of any status; its body was not read. ``retry_after``: the header of that name."""

    status: int
    retry_after: str | None


def post(url: str, data: bytes, policy: Policy, *, headers: Mapping[str, str]) -> Answer:
    """Post ``data`` to a URL from outside, within ``policy``; a redirect is not followed, and its status returned.

    Raises: UnsafeUrlError where no answer came.
    """
    return _write("POST", url, data, policy, headers)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any status, with its body."""

    status: int
    body: bytes = field(repr=False)


def ask(url: str, data: bytes, policy: Policy, *, headers: Mapping[str, str]) -> Reply:
    """As :func:`post`, and read the body of the answer, which may have ``policy.max_bytes``. Raises: UnsafeUrlError."""
    with _named_faults():
        response = _sent("POST", url, data, policy, headers)
        try:
            return Reply(response.status_code, b"".join(capped(response, policy.max_bytes)))
        finally:
            response.close()


def _write(method: str, url: str, data: bytes, policy: Policy, headers: Mapping[str, str]) -> Answer:
    with _named_faults():
        response = _sent(method, url, data, policy, headers)
        response.close()
    return Answer(response.status_code, response.headers.get("Retry-After"))


def _sent(method: str, url: str, data: bytes, policy: Policy, headers: Mapping[str, str]) -> requests.Response:
    origin, whole = parsed(url)
    policy.check(origin)
    prepared = requests.Request(method, whole.url, headers={"User-Agent": USER_AGENT, **headers}, data=data).prepare()
    return _fetcher(policy.ca_file).transmit(prepared, _exchange(policy))


def _exchange(policy: Policy) -> Exchange:
    return Exchange(
        monotonic() + policy.total_s,
        policy.connect_s,
        policy.silence_s,
        may_reach=policy.allows_address,
        resolve=policy.resolve,
        max_body_bytes=policy.max_bytes,
        least_bytes_per_s=policy.least_bytes_per_s,
        grace_s=policy.grace_s,
        lookups=policy.lookups,
    )


@contextmanager
def _named_faults() -> Iterator[None]:
    """Turns every failure of a request into an UnsafeUrlError with the right code."""
    try:
        yield
    except ForbiddenAddressError as error:
        raise UnsafeUrlError("url_not_allowed", ADDRESS_REFUSED) from error
    except NotConnectedError as error:
        raise UnsafeUrlError("url_unreachable", str(error)) from error
    except TooLargeError as error:
        raise UnsafeUrlError("url_too_large", str(error)) from error
    except TRANSPORT_ERRORS as error:
        slow = any(isinstance(link, OutOfTimeError) for link in causes(error))
        raise UnsafeUrlError("url_too_slow" if slow else "url_unreachable", type(error).__name__) from error


def _read(response: requests.Response, url: str, policy: Policy) -> Fetched | str:
    status = response.status_code
    if status in _REDIRECTS:
        target = response.headers.get("Location")
        if not target:
            raise UnsafeUrlError("url_redirects", "a redirect to nowhere", status=status)
        return target
    if status != 200:
        raise UnsafeUrlError("url_unreachable", f"HTTP {status}", status=status)
    data = b"".join(capped(response, policy.max_bytes))
    return Fetched(data, response.headers.get("Content-Type", ""), url)
