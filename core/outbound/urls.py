"""Absolute URLs: their form, their origin, and what is wrong with one that came from outside."""

from __future__ import annotations

from typing import NamedTuple

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

MAX_URL_CHARS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme, host (lower case, IDNA) and port: the unit of trust."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


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


def parsed(url: str) -> tuple[Origin, Url]:
    """Origin and normalised form of an absolute URL. Raises UnsafeUrlError ``url_not_allowed``."""
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise UnsafeUrlError("url_not_allowed", "blank, control character or backslash")
    try:
        found = parse_url(url)
    except (LocationParseError, ValueError) as error:
        raise UnsafeUrlError("url_not_allowed", "not a URL") from error
    if found.scheme not in DEFAULT_PORTS or not found.host:
        raise UnsafeUrlError("url_not_allowed", "not an absolute http(s) URL")
    if found.auth is not None or "%" in found.host:
        raise UnsafeUrlError("url_not_allowed", "credentials or a zone in the URL")
    host = found.host.strip("[]").rstrip(".").lower()
    port = DEFAULT_PORTS[found.scheme] if found.port is None else found.port
    return Origin(found.scheme, host, port), found._replace(fragment=None)


def hosts_of(text: str) -> frozenset[str]:
    """The hosts in a text: names or addresses with commas between, as an origin has them. Raises ValueError."""
    return frozenset(_host(part.strip()) for part in text.split(",") if part.strip())


def _host(written: str) -> str:
    bare = f"[{written}]" if written.count(":") > 1 and not written.startswith("[") else written
    origin = None if set(written) & set("/?#@") else origin_of(f"http://{bare}/")
    if origin is None or ":" in bare.rpartition("]")[2]:
        raise ValueError(f"{written} is not a host: a name or an address, without scheme and port")
    return origin.host


def origin_of(url: str) -> Origin:
    """The origin of an absolute URL. Raises ValueError, without quoting the URL."""
    try:
        return parsed(url)[0]
    except UnsafeUrlError as error:
        raise ValueError(error.detail) from error
