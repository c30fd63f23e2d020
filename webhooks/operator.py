"""Messages to the operator of the installation: through the outbox like any callback, to URLs of the settings.

A message belongs to no account: ``ACCOUNT`` stands for the operator, who shares the sender's capacity as an account
does. Its ``job_id`` is the id of what it is about.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, text

from core.outbound.untrusted import Policy
from core.outbound.urls import origin_of
from webhooks.errors import NoReceiversError
from webhooks.forms import STANDARD, TEST
from webhooks.receivers import policy

ACCOUNT: Final = "operator"
RULE_TRIPPED: Final = "operator.rule_tripped"
EVENTS: Final = (RULE_TRIPPED,)
_SECRET_BYTES = range(24, 65)


@dataclass(frozen=True, slots=True)
class Receivers:
    """Where messages to the operator go. ``urls`` by target; ``secrets`` sign, the newest first."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    policy: Policy = field(default_factory=policy)

    @property
    def targets(self) -> Collection[str]:
        return tuple(self.urls)


def receivers(urls: Sequence[str], secrets: Sequence[str], allowed_hosts: Collection[str] = ()) -> Receivers:
    """The receivers at these URLs. Their hosts may be private, as the operator has named them, for these messages
    alone. Raises ValueError for what is no URL or no secret, without its text."""
    if urls and not secrets:
        raise ValueError("a secret is needed to sign with")
    hosts = [_host_of(url) for url in urls]
    for secret in secrets:
        _check_secret(secret)
    rules = policy(frozenset(hosts) | frozenset(allowed_hosts))
    return Receivers({_target(url): url for url in urls}, tuple(secrets), rules)


def _host_of(url: str) -> str:
    origin = origin_of(url) if url.startswith(("https://", "http://")) and not set(url) & set("#@ ") else None
    if origin is None:
        raise ValueError("each URL begins with https:// or http://, and has a host, no user and no fragment")
    return origin.host


def _check_secret(secret: str) -> None:
    try:
        size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not secret.startswith("whsec_") or size not in _SECRET_BYTES:
        raise ValueError("a secret is whsec_ and the base64 of 24 to 64 bytes")


def targets_of(urls: Sequence[str]) -> Collection[str]:
    """The targets of these URLs, for who writes messages and does not send them."""
    return tuple(map(_target, urls))


def _target(url: str) -> str:
    """A name of the URL that says nothing of it: paths of receivers are secrets of some services."""
    return f"{ACCOUNT}:{hashlib.sha256(url.encode()).hexdigest()[:16]}"


_TELL = text("""
INSERT INTO webhook_messages (account_id, job_id, event, target, form)
SELECT :account_id, :about, :event, target, :form FROM unnest(CAST(:targets AS text[])) AS target
""")


def tell(connection: Connection, targets: Collection[str], event: str, about: str | None) -> None:
    """Write a message for each receiver in the caller's transaction; ``about``: the id of what it is about, None of a
    test."""
    if targets:
        values = {"account_id": ACCOUNT, "about": about, "event": event, "form": STANDARD, "targets": list(targets)}
        connection.execute(_TELL, values)


def send_test(connection: Connection, targets: Collection[str]) -> int:
    """Write a test message for each receiver; how many. Raises NoReceiversError."""
    if not targets:
        raise NoReceiversError("DARKROOM_OPERATOR_WEBHOOK_URL is not set")
    tell(connection, targets, TEST, None)
    return len(targets)
