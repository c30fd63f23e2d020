"""HTTP to the upstreams that the operator configured, with their credentials.

:class:`UpstreamSession` says of every failure whether the request may have run. It never retries.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import requests

from core.outbound import connections
from core.outbound.bodies import TRANSPORT_ERRORS, TooLargeError, capped, causes
from core.outbound.connections import USER_AGENT
from core.outbound.exchange import Exchange, NotConnectedError
from core.outbound.urls import Origin, origin_of
from providers.errors import NotRun, Uncertain
from providers.http import answers


@dataclass(frozen=True, slots=True)
class Outgoing:
    """How this process reaches its upstreams; the same for all of them.

    ``pool_size``: connections kept per provider. ``result_origins``: further origins whose result
    links are trusted. ``ca_file``: certificates to verify by, instead of the usual bundle. ``redact``: the key is taken
    out of every answer where it arrives, because it is a caller's.
    """

    pool_size: int = 200
    result_origins: frozenset[Origin] = frozenset()
    ca_file: str | None = None
    redact: bool = False


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of a multipart form; ``name`` is the form field."""

    name: str
    filename: str
    mime: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request without credentials, as the pure functions of an adapter build it.

    ``path`` is below the session's base URL and may contain a query. A body is ``json`` or else
    ``form`` with ``files``; it stays out of the repr, because it contains the caller's prompt. A form is
    multipart if it has files, and with ``multipart`` also without. ``headers`` are those of this request;
    they never replace the session's.
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
    """The whole answer of an upstream, of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class StreamedResponse:
    """An answer whose body is read as it arrives. Iterate it to the end, or close it."""

    def __init__(self, response: requests.Response, max_bytes: int) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        """The decoded chunks. Raises Uncertain."""
        try:
            yield from capped(self._response, self._max_bytes)
        except TooLargeError as error:
            raise Uncertain("upstream_answer_too_large", str(error)) from error
        except TRANSPORT_ERRORS as error:
            raise _uncertain(error) from error

    def close(self) -> None:
        """Drop the connection; harmless after the end."""
        self._response.close()


class UpstreamSession:
    """HTTP to one configured base URL, with its credential.

    The credential is attached only here, and requests are built from the base URL, so it can reach no
    other origin: redirects are returned as they are. Thread-safe.

    fresh: open a new connection for each request. For paid calls of upstreams that cannot deduplicate.
    may_reach: judges each address before it is connected to. The default allows all, because the operator
    decides where an upstream is; for an origin that an answer named, pass :meth:`Policy.allows_address`.
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
        self._secrets = tuple(
            value.rpartition(" ")[2] for name, value in headers.items() if _SECRET_HEADER.search(name.lower())
        )
        self._unwanted = [each.encode() for each in self._secrets if each] if outgoing.redact else []
        self._connect_s = connect_s
        self._may_reach = may_reach or _anywhere
        self._transport = connections.Transport(pool_size=outgoing.pool_size, fresh=fresh, ca_file=outgoing.ca_file)

    def __repr__(self) -> str:
        return f"UpstreamSession({self.origin})"

    def send(self, request: WireRequest, *, total_s: float, max_bytes: int) -> HttpResponse:
        """Send one request and return its whole answer; ``max_bytes`` limits the decoded body.

        Raises: NotRun when no byte of the request was sent; Uncertain for every later failure.
        """
        answers.asked(self._secrets)
        streamed = self.stream(request, total_s=total_s, max_bytes=max_bytes)
        try:
            body = self._redacted(b"".join(streamed))
            answers.answered(streamed.status, streamed.headers, body)
            return HttpResponse(streamed.status, streamed.headers, body)
        except BaseException:
            streamed.close()  # also when a greenlet is killed: a half-read connection must not be reused
            raise

    def _redacted(self, body: bytes) -> bytes:
        for secret in self._unwanted:
            if secret in body:
                body = body.replace(secret, b"[redacted]")
        return body

    def stream(self, request: WireRequest, *, total_s: float, max_bytes: int) -> StreamedResponse:
        """Like :meth:`send`, but return at the end of the header. The deadline covers the body too.

        Raises: NotRun, Uncertain.
        """
        prepared = self._prepare(request)
        exchange = Exchange(
            monotonic() + total_s, self._connect_s, total_s, may_reach=self._may_reach, max_body_bytes=max_bytes
        )
        try:
            response = self._transport.transmit(prepared, exchange)
        except NotConnectedError as error:
            raise NotRun("upstream_unreachable", str(error)) from error
        except TRANSPORT_ERRORS as error:
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


_SECRET_HEADER = re.compile("auth|key|token|secret|cookie")
# A reset or a close before the answer was complete.
_LOST = (ConnectionError, http.client.IncompleteRead, ssl.SSLEOFError, ssl.SSLZeroReturnError)


def _anywhere(_origin: Origin, _address: str) -> bool:
    return True


def _uncertain(error: Exception) -> Uncertain:
    """The error after bytes were sent. Time-outs have a code of their own, which operators tune; so has a lost
    connection, which says nothing about what the upstream sends."""
    found = list(causes(error))
    code = "upstream_broken_answer"
    if any(isinstance(link, TimeoutError) for link in found):
        code = "upstream_no_answer"
    elif any(isinstance(link, _LOST) for link in found):
        code = "upstream_connection_lost"
    return Uncertain(code, type(error).__name__)
