"""The one way out: guarded HTTP to upstreams and to URLs that came from outside.

:class:`UpstreamSession` talks to the origin the operator configured, with the credential, and says
of every failure whether the request may have run. :func:`fetch` reads a URL somebody else chose, and
:func:`put` writes to one, without any credential, and neither reaches a private place. None retries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from time import monotonic
from typing import Any
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from providers.errors import NotRun, Uncertain
from providers.http import addresses, connections
from providers.http.connections import Exchange, ForbiddenAddressError, NotConnectedError, Origin, OutOfTimeError

MAX_URL_CHARS = 2048
MAX_REDIRECTS = 3
CHUNK_BYTES = 64 * 1024
USER_AGENT = "darkroom"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSPORT_ERRORS = (requests.RequestException, Urllib3Error, HTTPException, OSError)


# ---------------------------------------------------------------- URLs and origins


class UnsafeUrlError(Exception):
    """A URL from outside that was not fetched. ``code`` is public (docs/errors.md).

    Codes: ``url_not_allowed`` (its form, scheme, port or address), ``url_unreachable`` (name,
    connection, or an answer other than 200), ``url_too_slow``, ``url_too_large``, ``url_redirects``.
    ``status`` is the HTTP status when there was an answer.
    """

    def __init__(self, code: str, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.status = status


def _parse(url: str) -> tuple[Origin, Url]:
    """Origin and normalised form of an absolute URL. Raises UnsafeUrlError ``url_not_allowed``."""
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise UnsafeUrlError("url_not_allowed", "blank, control character or backslash")
    try:
        parsed = parse_url(url)
    except (LocationParseError, ValueError) as error:
        raise UnsafeUrlError("url_not_allowed", "not a URL") from error
    if parsed.scheme not in _DEFAULT_PORTS or not parsed.host:
        raise UnsafeUrlError("url_not_allowed", "not an absolute http(s) URL")
    if parsed.auth is not None or "%" in parsed.host:
        raise UnsafeUrlError("url_not_allowed", "credentials or a zone in the URL")
    host = parsed.host.strip("[]").rstrip(".").lower()
    port = _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
    return Origin(parsed.scheme, host, port), parsed._replace(fragment=None)


def origin_of(url: str) -> Origin:
    """The origin of an absolute URL. Raises ValueError, without quoting the URL."""
    try:
        return _parse(url)[0]
    except UnsafeUrlError as error:
        raise ValueError(error.detail) from error


# ---------------------------------------------------------------- the operator's upstream


@dataclass(frozen=True, slots=True)
class Outgoing:
    """How this process reaches its upstreams, the same for all of them.

    ``pool_size``: connections kept per provider. ``result_origins``: further origins whose result
    links are trusted. ``ca_file``: certificates to verify by, instead of the usual bundle.
    """

    pool_size: int = 200
    result_origins: frozenset[Origin] = frozenset()
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of a multipart form; ``name`` is the form field."""

    name: str
    filename: str
    mime: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What to ask, before credentials: the answer of an adapter's pure request builder.

    ``path`` is below the session's base URL and may hold a query. A body is ``json`` or else
    ``form`` with ``files``; it stays out of the repr, for it holds the caller's prompt. A form is
    multipart where it has files, and with ``multipart`` also where it has none. ``headers`` are of
    this request alone and never replace the session's.
    """

    method: str
    path: str
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    form: Sequence[tuple[str, str]] = field(default=(), repr=False)
    files: Sequence[FilePart] = field(default=(), repr=False)
    multipart: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An upstream's whole answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class StreamedResponse:
    """An answer whose body is read as it comes. Iterate it to the end, or close it."""

    def __init__(self, response: requests.Response, max_bytes: int) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        """Decoded chunks. Raises Uncertain."""
        try:
            yield from _capped(self._response, self._max_bytes)
        except _TooLargeError as error:
            raise Uncertain("upstream_answer_too_large", str(error)) from error
        except _TRANSPORT_ERRORS as error:
            raise _uncertain(error) from error

    def close(self) -> None:
        """Drop the connection; harmless after the end."""
        self._response.close()


class UpstreamSession:
    """HTTP to one configured base URL, with its credential.

    The credential is attached here and nowhere else, and requests are built from the base URL, so it
    can reach no other origin: redirects are handed back as they are. Thread-safe.

    fresh: connect anew for each request. For paid calls of upstreams that cannot deduplicate.
    may_reach: judges each address before it is connected to. The default takes all, for where the
    operator's own upstream stands is the operator's business; for an origin that an answer named,
    give :meth:`Policy.allows_address`.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        outgoing: Outgoing | None = None,
        *,
        connect_s: float = 5.0,
        fresh: bool = False,
        may_reach: Callable[[Origin, str], bool] | None = None,
    ) -> None:
        outgoing = outgoing or Outgoing()
        self.base_url = base_url.rstrip("/")
        self.origin = origin_of(base_url)
        self._headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        self._connect_s = connect_s
        self._may_reach = may_reach or _anywhere
        self._wire = connections.Wire(pool_size=outgoing.pool_size, fresh=fresh, ca_file=outgoing.ca_file)

    def __repr__(self) -> str:
        return f"UpstreamSession({self.origin})"

    def send(self, request: WireRequest, *, total_s: float, max_bytes: int) -> HttpResponse:
        """One request, its whole answer; ``max_bytes`` caps the decoded body.

        Raises: NotRun when no byte of the request left; Uncertain for every later failure.
        """
        streamed = self.stream(request, total_s=total_s, max_bytes=max_bytes)
        try:
            return HttpResponse(streamed.status, streamed.headers, b"".join(streamed))
        except BaseException:
            streamed.close()  # also when a greenlet is killed: no half-read connection is reused
            raise

    def stream(self, request: WireRequest, *, total_s: float, max_bytes: int) -> StreamedResponse:
        """Like :meth:`send`, returning at the end of the header. The deadline covers the body too."""
        prepared = self._prepare(request)
        exchange = Exchange(monotonic() + total_s, self._connect_s, total_s, may_reach=self._may_reach)
        try:
            response = self._wire.transmit(prepared, exchange)
        except NotConnectedError as error:
            raise NotRun("upstream_unreachable", str(error)) from error
        except _TRANSPORT_ERRORS as error:
            if not exchange.sent:
                raise NotRun("upstream_unreachable", type(error).__name__) from error
            raise _uncertain(error) from error
        return StreamedResponse(response, max_bytes)

    def _prepare(self, request: WireRequest) -> requests.PreparedRequest:
        texts = [(name, (None, value)) for name, value in request.form] if request.multipart else []
        files = [(part.name, (part.filename, part.data, part.mime)) for part in request.files]
        prepared = requests.Request(
            request.method,
            self.base_url + request.path,
            headers={**request.headers, **self._headers},
            json=request.json,
            data=[] if request.multipart else list(request.form),
            files=[*texts, *files],
        ).prepare()
        if origin_of(prepared.url or "") != self.origin:
            raise ValueError("the path leads away from the base URL")
        return prepared


def _anywhere(_origin: Origin, _address: str) -> bool:
    return True


def _uncertain(error: Exception) -> Uncertain:
    """Bytes had left. Time-outs get their own code: they are the common case an operator tunes."""
    timed_out = any(isinstance(link, TimeoutError) for link in _causes(error))
    code = "upstream_no_answer" if timed_out else "upstream_broken_answer"
    return Uncertain(code, type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


# ---------------------------------------------------------------- URLs from outside


@dataclass(frozen=True, slots=True)
class Policy:
    """Where a fetch may go and how much it may take.

    ``trusted_origins`` are exempt from the rules on scheme, port and private addresses. They come
    from the operator's configuration alone.
    """

    max_bytes: int
    total_s: float
    trusted_origins: frozenset[Origin] = frozenset()
    schemes: frozenset[str] = frozenset({"https"})
    connect_s: float = 5.0
    silence_s: float = 30.0
    least_bytes_per_s: int = 1024
    grace_s: float = 5.0
    accept: str = "image/*"
    ca_file: str | None = None
    resolve: connections.Resolver = connections.resolve

    @classmethod
    def user(cls, *, max_bytes: int, total_s: float = 10.0, allow_http: bool = False) -> Policy:
        """For a URL a caller gave us: nothing is trusted."""
        schemes = frozenset({"http", "https"}) if allow_http else frozenset({"https"})
        return cls(max_bytes, total_s, schemes=schemes)

    @classmethod
    def result(cls, trusted_origins: Iterable[Origin], *, max_bytes: int, total_s: float = 60.0) -> Policy:
        """For a link in an upstream's answer: the configured origins are trusted, all others not."""
        return cls(max_bytes, total_s, trusted_origins=frozenset(trusted_origins))

    def allows_address(self, origin: Origin, address: str) -> bool:
        return origin in self.trusted_origins or addresses.is_public(address)

    def check(self, origin: Origin) -> None:
        """Raises UnsafeUrlError ``url_not_allowed`` for a scheme or port this policy does not take."""
        if origin in self.trusted_origins:
            return
        if origin.scheme not in self.schemes:
            raise UnsafeUrlError("url_not_allowed", f"scheme {origin.scheme}")
        if origin.port != _DEFAULT_PORTS[origin.scheme]:
            raise UnsafeUrlError("url_not_allowed", f"port {origin.port}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What stood at a URL. ``content_type`` is the server's claim and proves nothing."""

    data: bytes = field(repr=False)
    content_type: str
    url: str  # after redirects


def fetch(url: str, policy: Policy, *, headers: Mapping[str, str] | None = None) -> Fetched:
    """Read a URL from outside within ``policy``; at most three redirects, each judged anew.

    ``headers`` go to the first origin only: a redirect elsewhere loses them, credentials included.
    Raises: UnsafeUrlError.
    """
    exchange = _exchange(policy)
    first = origin = None
    for _hop in range(MAX_REDIRECTS + 1):
        # Ours may be longer: a look at a hundred tasks names them all in its query.
        if len(url) > MAX_URL_CHARS:
            raise UnsafeUrlError("url_not_allowed", f"longer than {MAX_URL_CHARS} characters")
        origin, parsed = _parse(url)
        first = first or origin
        policy.check(origin)
        found = _get(parsed.url, policy, exchange, (headers or {}) if origin == first else {})
        if isinstance(found, Fetched):
            return found
        url = urljoin(parsed.url, found)
    raise UnsafeUrlError("url_redirects", f"more than {MAX_REDIRECTS} redirects")


@functools.cache
def _fetcher(ca_file: str | None) -> connections.Wire:
    """Serves all fetches, for it keeps no connection."""
    return connections.Wire(pool_size=1, fresh=True, ca_file=ca_file)


def _get(url: str, policy: Policy, exchange: Exchange, headers: Mapping[str, str]) -> Fetched | str:
    """The content of ``url``, or where it redirects to."""
    own = {"User-Agent": USER_AGENT, "Accept": policy.accept, "Accept-Encoding": "identity"}
    with _named_faults():
        prepared = requests.Request("GET", url, headers={**own, **headers}).prepare()
        response = _fetcher(policy.ca_file).transmit(prepared, exchange)
        try:
            return _read(response, url, policy)
        finally:
            response.close()


def put(url: str, data: bytes, policy: Policy, *, headers: Mapping[str, str]) -> None:
    """Store ``data`` at a URL somebody else chose, within ``policy``; a redirect is not followed.

    Raises: UnsafeUrlError; an answer other than 2xx is ``url_unreachable`` with its status.
    """
    origin, parsed = _parse(url)
    policy.check(origin)
    with _named_faults():
        prepared = requests.Request(
            "PUT", parsed.url, headers={"User-Agent": USER_AGENT, **headers}, data=data
        ).prepare()
        response = _fetcher(policy.ca_file).transmit(prepared, _exchange(policy))
        response.close()
    if not 200 <= response.status_code < 300:
        raise UnsafeUrlError("url_unreachable", f"HTTP {response.status_code}", status=response.status_code)


def _exchange(policy: Policy) -> Exchange:
    return Exchange(
        monotonic() + policy.total_s,
        policy.connect_s,
        policy.silence_s,
        may_reach=policy.allows_address,
        resolve=policy.resolve,
        least_bytes_per_s=policy.least_bytes_per_s,
        grace_s=policy.grace_s,
    )


@contextmanager
def _named_faults() -> Iterator[None]:
    """Whatever goes wrong on the way, as an UnsafeUrlError of the right code."""
    try:
        yield
    except ForbiddenAddressError as error:
        raise UnsafeUrlError("url_not_allowed", "address") from error
    except NotConnectedError as error:
        raise UnsafeUrlError("url_unreachable", str(error)) from error
    except _TooLargeError as error:
        raise UnsafeUrlError("url_too_large", str(error)) from error
    except _TRANSPORT_ERRORS as error:
        slow = any(isinstance(link, OutOfTimeError) for link in _causes(error))
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
    data = b"".join(_capped(response, policy.max_bytes))
    return Fetched(data, response.headers.get("Content-Type", ""), url)


# ---------------------------------------------------------------- bodies


class _TooLargeError(Exception):
    pass


def _capped(response: requests.Response, max_bytes: int) -> Iterator[bytes]:
    """Decoded chunks as they come, at most ``CHUNK_BYTES`` each; hangs up unless read to the end."""
    announced = response.headers.get("Content-Length", "")
    try:
        if announced.isdecimal() and int(announced) > max_bytes:
            raise _TooLargeError(f"announces {announced[:20]} bytes, limit {max_bytes}")
        size_bytes = 0
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise _TooLargeError(f"more than {max_bytes} bytes")
            yield chunk
    except BaseException:
        response.close()
        raise
    response.raw.release_conn()
