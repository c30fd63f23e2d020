"""The user that a program runs as when we are root and it must not be."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from core.embedded.faults import EmbeddedError

_LIKELY = ("postgres", "nobody")


@dataclass(frozen=True)
class User:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int


def unprivileged_user(wanted: str | None = None) -> User | None:
    """The user a server runs as: None (the present one) unless we are root.

    Raises EmbeddedError when there is no such user, or it is root.
    """
    if os.geteuid() != 0:
        return None
    for name in (wanted,) if wanted else _LIKELY:
        user = _find(name)
        if user is not None:
            return user
    raise EmbeddedError(
        f"PostgreSQL does not run as root and user {wanted or ' or '.join(_LIKELY)} cannot stand in: "
        "set DARKROOM_POSTGRES_USER to an existing unprivileged user, or DATABASE_URL to your own server"
    )


def _find(name: str) -> User | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry.pw_uid != 0 else None
