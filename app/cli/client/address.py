"""Which server a command speaks to, and with which key: both are checked before anything is sent."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from app.cli.output import CommandError, Exit


def checked_server(server: str) -> str:
    """The base address without its last slash. Raises CommandError for anything but http(s)://host."""
    try:
        parts = urlsplit(server.strip())
        _ = parts.port
    except ValueError:
        raise bad_server("the server's address is not a URL") from None
    if "@" in parts.netloc:
        raise bad_server("the server's address holds a password; give a key with --key instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise bad_server(f"{server!r} is not an address such as http://127.0.0.1:8000")
    return server.strip().rstrip("/")


def bad_server(detail: str) -> CommandError:
    """The error for an address that no server can have."""
    return CommandError(Exit.USAGE, "bad_server", detail)


def checked_key(key: str | None) -> str | None:
    """The key without white space around it; None for no key.

    Raises CommandError, which does not repeat it, for a key that does not fit into a header.
    """
    stripped = (key or "").strip()
    if stripped and not (stripped.isascii() and stripped.isprintable() and " " not in stripped):
        raise CommandError(Exit.USAGE, "bad_key", "the key holds characters that no key has")
    return stripped or None


def is_this_machine(server: str) -> bool:
    """Whether an address is a loopback one."""
    host = urlsplit(server).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
