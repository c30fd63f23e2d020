"""TCP ports: whether one is free, some that are, whether one answers."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

from core.embedded.faults import EmbeddedError

# Below the range from which kernels number outgoing connections, so that none of those takes the port first.
_LOWEST, _HIGHEST = 15_000, 32_000


def why_not(port: int, host: str = "127.0.0.1") -> str | None:
    """Why a server could not listen there now, in a few words; None if it could.

    Closed connections that linger do not count.
    """
    with _unbound(host) as probe:
        return _refusal(probe, host, port)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports that are free now, drawn at random so that two callers rarely collide. Raises EmbeddedError."""
    found: list[int] = []
    with ExitStack() as held:
        for port in _candidates():
            if len(found) == count:
                return found
            if _refusal(held.enter_context(_unbound(host)), host, port) is None:
                found.append(port)
    raise EmbeddedError(f"no {count} free ports between {_LOWEST} and {_HIGHEST}")


def answers(port: int, host: str = "127.0.0.1", timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def _candidates() -> Iterator[int]:
    yield from random.sample(range(_LOWEST, _HIGHEST), 500)


def _unbound(host: str) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return probe


def _refusal(probe: socket.socket, host: str, port: int) -> str | None:
    try:
        probe.bind((host, port))
        probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    except OverflowError:
        return "there are only 65535"
    return None
