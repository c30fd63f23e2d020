"""Which workers are alive: one row each, updated every few seconds, by the database's clock."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sqlalchemy import Connection, text

HEARTBEAT_EVERY_S = 3.0
DEAD_AFTER_S = 10.0


def beat(connection: Connection, boot_id: str) -> None:
    """Record that this worker is alive."""
    connection.execute(
        text(
            "INSERT INTO workers (boot_id, host, pid) VALUES (:boot_id, :host, :pid)"
            " ON CONFLICT (boot_id) DO UPDATE SET heartbeat_at = clock_timestamp()"
        ),
        {"boot_id": boot_id, "host": _host(), "pid": os.getpid()},
    )


def leave(connection: Connection, boot_id: str) -> None:
    """Delete this worker's row, so that its jobs are taken over at once and not only when it counts as dead."""
    connection.execute(text("DELETE FROM workers WHERE boot_id = :boot_id"), {"boot_id": boot_id})


def delete_dead_neighbours(connection: Connection) -> int:
    """Delete the rows of workers on this machine whose process no longer exists. Returns how many."""
    rows = connection.execute(text("SELECT boot_id, pid FROM workers WHERE host = :host"), {"host": _host()}).all()
    gone = [row.boot_id for row in rows if not Path(f"/proc/{row.pid}").exists()]
    if gone:
        connection.execute(text("DELETE FROM workers WHERE boot_id = ANY(:gone)"), {"gone": gone})
    return len(gone)


def any_alive(connection: Connection) -> bool:
    """Return whether any worker has had a heartbeat within ``DEAD_AFTER_S`` seconds."""
    return bool(
        connection.execute(
            text(
                "SELECT EXISTS (SELECT 1 FROM workers"
                " WHERE heartbeat_at > statement_timestamp() - make_interval(secs => :dead_s))"
            ),
            {"dead_s": DEAD_AFTER_S},
        ).scalar_one()
    )


def delete_silent(connection: Connection, *, older_than_s: float = 3600) -> None:
    """Delete the rows of workers without a heartbeat for ``older_than_s`` seconds."""
    connection.execute(
        text("DELETE FROM workers WHERE heartbeat_at < statement_timestamp() - make_interval(secs => :age)"),
        {"age": older_than_s},
    )


def _host() -> str:
    """Return an id of this boot of this machine and of this PID namespace, within which a pid is unique.

    Both are needed: the first PID namespace has the same number on every machine. Host names may repeat.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()}/{boot_id}/{Path('/proc/self/ns/pid').readlink()}"
