"""What an HTTP status means for a call when the body says nothing more precise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from providers.errors import (
    BadCredentials,
    Misconfigured,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
)

_BY_STATUS: Final[Mapping[int, tuple[type[ProviderError], str]]] = MappingProxyType(
    {
        401: (BadCredentials, "upstream_bad_credentials"),
        402: (OutOfCredit, "upstream_out_of_credit"),
        403: (BadCredentials, "upstream_forbidden"),
        404: (Misconfigured, "upstream_not_found"),
        405: (Misconfigured, "upstream_not_found"),
        408: (Uncertain, "upstream_error"),
        409: (Uncertain, "upstream_error"),
        413: (RequestRefused, "upstream_too_large"),
        425: (Uncertain, "upstream_error"),
        429: (NotRun, "upstream_rate_limited"),
    }
)


def by_status(status: int, detail: str, *, wait_s: float | None = None) -> ProviderError:
    """The error of an answer other than 2xx. Any 5xx is Uncertain: a proxy may have sent it.

    ``wait_s``: seconds to wait before the next attempt, if the answer says so.
    """
    if status in _BY_STATUS:
        kind, code = _BY_STATUS[status]
    elif 300 <= status < 400:
        kind, code = Misconfigured, "upstream_redirects"
    elif 400 <= status < 500:
        kind, code = RequestRefused, "upstream_rejected"
    else:
        kind, code = Uncertain, "upstream_error"
    return kind(code, detail, retry_after_s=wait_s)
