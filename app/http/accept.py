"""The Accept header: what a caller can read, against what a route sends.

No header and ``*/*`` take everything. Errors are sent as ``application/problem+json`` whatever a caller accepts: an
error that no one can read helps no one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from flask import Request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from app.http.endpoint import Endpoint
from app.http.errors import NotAcceptableError

ANY = "*/*"
MAX_TYPES_NAMED = 12


def check_accept(endpoint: Endpoint, request: Request) -> None:
    """Raises NotAcceptableError where the caller reads none of the media types that the route sends."""
    header = request.headers.get("Accept")
    if header is not None and header != ANY and not _meets(header, _sent_by(endpoint)):
        raise _refusal(_sent_by(endpoint))


def check_accepts(request: Request, media_type: str) -> None:
    """Raises NotAcceptableError where the caller does not read this one type, that of what was found."""
    header = request.headers.get("Accept")
    if header is not None and header != ANY and not _meets(header, (media_type,)):
        raise _refusal((media_type,))


def _refusal(types: Sequence[str]) -> NotAcceptableError:
    return NotAcceptableError(f"this is sent as {', '.join(types[:MAX_TYPES_NAMED])}")


@lru_cache(maxsize=256)
def _sent_by(endpoint: Endpoint) -> tuple[str, ...]:
    found = (media_type for answer in endpoint.answers if answer.status < 300 for media_type in answer.media_types)
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=1024)
def _meets(header: str, types: Sequence[str]) -> bool:
    """Whether the header takes one of the types; a route that sends no body, and an empty header, take all."""
    accepted = parse_accept_header(header, MIMEAccept)
    return not types or not accepted or any(accepted.quality(each) > 0 for each in types)
