"""Who calls a tool: over stdio the owner of this process, over HTTP the one whose key came with the request."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context

from app.cli.client.connection import Client
from app.cli.output import CommandError, Exit

AnyContext = Context[Any, Any]
CANCEL_ON_DISCONNECT = "x-darkroom-cancel-on-disconnect"


@dataclass(frozen=True, slots=True)
class Caller:
    """``who`` tells callers apart whose equal orders are different orders; it holds no key.

    ``cancel_on_disconnect``: a request that ends without an answer cancels its job.
    """

    client: Client
    who: str
    local_files: bool
    cancel_on_disconnect: bool = False


Callers = Callable[[AnyContext], Caller]


def owner(connect: Callable[[], Client]) -> Callers:
    """The caller over stdio. It connects for each call, since a service may come back at another address."""
    folder = Path.cwd()

    def caller(_context: AnyContext) -> Caller:
        return Caller(connect(), f"{socket.gethostname()} {os.getuid()} {folder}", local_files=True)

    return caller


def bearer(server: str) -> Callers:
    """The caller over HTTP, by its own key alone. Raises CommandError where a request has none."""

    def caller(context: AnyContext) -> Caller:
        headers = context.headers or {}
        key = key_in(headers)
        if key is None:
            words = "send an API key as Authorization: Bearer"
            raise CommandError(Exit.NOT_ALLOWED, "unauthorized", words, facts={"status": 401})
        address = getattr(getattr(context.request_context.request, "client", None), "host", "")
        seen = f"{address} {headers.get('user-agent', '')} {hashlib.sha256(key.encode()).hexdigest()}"
        leaves = headers.get(CANCEL_ON_DISCONNECT, "").strip().lower() == "true"
        return Caller(Client(server, key), seen, local_files=False, cancel_on_disconnect=leaves)

    return caller


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key of ``Authorization: Bearer``; None without one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
