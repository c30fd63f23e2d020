"""Absolute addresses in fal's answers: its clients follow them, and open those of images without a key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import quote

from flask import Request, current_app, request

from app.callbacks import SignedLinks
from app.dialects.fal.request_ids import KNOWN
from app.http import links

QUEUE = "/fal/queue"
HTTPS_ONLY = "fal-client/"


def here() -> SignedLinks:
    """The links of this request. Raises HostNotAllowedError where its host is not known to be ours."""
    found = _known(request)
    if not found.base:
        raise links.HostNotAllowedError
    return SignedLinks(found.base, found.signer)


def base(asked: Request) -> str:
    """The public address before our paths, else as the request names it; empty for a host that may not be named."""
    return _known(asked).base


def _known(asked: Request) -> links.Here:
    """fal's Python client speaks https alone: what ends its TLS before us need not say so."""
    known: links.Links = current_app.extensions[links.EXTENSION]
    https = asked.environ.get("HTTP_USER_AGENT", "").startswith(HTTPS_ONLY)
    return known.here("https" if https else asked.scheme, asked.host)


@lru_cache(maxsize=KNOWN)
def of_request(base: str, prefix: str, request_id: str) -> Mapping[str, str]:
    """The id of a request, and the addresses of its result, its status and its cancel. ``prefix``: owner and
    alias."""
    root = f"{base}{QUEUE}/{quote(prefix)}/requests/{request_id}"
    found = {"response_url": root, "status_url": f"{root}/status", "cancel_url": f"{root}/cancel"}
    return MappingProxyType({"request_id": request_id, **found})
