"""What open streams and waiting calls cost a web process: its memory with thousands of them, each on a job of its own.

The jobs stay in the queue, for there is no worker. The clients are plain sockets of this process, which read the head
of each answer and then nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from select import select
from socket import create_connection, socket

from bench import seed
from bench.stand import Stand, customers, floor_program, make_floor_table, stand
from bench.table import Bound, Row
from core.open_files import raise_limit

STREAMS, CALLS = 2000, 500
STREAM_MEMORY, CALL_MEMORY = Bound("ours", at_most=300), Bound("ours", at_most=200)
WAIT_S = 60
SETTLE_S = 20.0  # more than the time between two comments
AT_ONCE = 100
OPENED_WITHIN_S = 60.0


def measure(folder: Path) -> list[Row]:
    raise_limit(needed=STREAMS + 100)
    # The floor runs along, idle: a stand without workers has one.
    with stand(
        folder / "waiting", sandbox={}, workers=False, companions=floor_program, prepare=make_floor_table
    ) as service:
        ((account_id, key),) = customers(service.database, 1).items()
        with service.database.transaction() as connection:
            seed.jobs(connection, [account_id], "queued", STREAMS, first=0)
        ids = [f"job_{number:026d}" for number in range(STREAMS)]
        _with_open(service, key, [f"/api/images/tasks/{ids[0]}"], seconds=0)  # it serves from now on
        idle_mb = service.largest_rss_mb("web")
        paths = {
            "waiting calls": [f"/api/images/tasks/{each}?wait={WAIT_S}" for each in ids[:CALLS]],
            "open streams": [f"/api/images/tasks/{each}/events" for each in ids],
        }
        rows = []
        for what, bound in (("waiting calls", CALL_MEMORY), ("open streams", STREAM_MEMORY)):
            used_mb = _with_open(service, key, paths[what], answered=what == "open streams", seconds=SETTLE_S)
            title = f"web's memory with {len(paths[what]):,} {what}"
            rows.append(Row(title, "MB", used_mb, idle_mb, "when idle", bound))
    return rows


def _with_open(service: Stand, key: str, paths: Sequence[str], *, seconds: float, answered: bool = True) -> float:
    """The highest memory of the web process over so many seconds with all of these open. Raises RuntimeError for one
    that is refused; ``answered``: each is answered at once, at least in part."""
    with ExitStack() as opened:
        clients = []
        for path in paths:
            client = opened.enter_context(create_connection(("127.0.0.1", service.port), timeout=OPENED_WITHIN_S))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
            clients.append(client)
            if answered and (len(clients) % AT_ONCE == 0 or len(clients) == len(paths)):
                _check(clients[-AT_ONCE:])
        highest, ends_at = 0.0, time.monotonic() + seconds
        while time.monotonic() < ends_at:
            highest = max(highest, service.largest_rss_mb("web"))
            time.sleep(0.5)
        if not answered:
            _check_waiting(clients)
        return highest


def _check(clients: Sequence[socket]) -> None:
    """Raises RuntimeError unless each has been answered."""
    for client in clients:
        head = client.recv(4096)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {head[:100]!r}")


def _check_waiting(clients: Sequence[socket]) -> None:
    """Raises RuntimeError if one has been answered already."""
    if answered := select(clients, (), (), 0)[0]:
        raise RuntimeError(f"{len(answered)} calls did not wait: {answered[0].recv(100)!r}")
