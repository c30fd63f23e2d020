"""Celery's consumer, less patient with a broker that is away.

Its own pauses between two tries to connect grow to half a minute, so that a worker would sleep on
while Redis has long been back (measured: 18 s to the next picture), and no setting reaches them.
"""

from __future__ import annotations

from functools import partial

from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Connection

FIRST_S = 0.5
STEP_S = 0.5
LONGEST_S = 3.0


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Tries to connect every half second at first, later every three."""

    def ensure_connected(self, conn: Connection) -> Connection:
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=FIRST_S, interval_step=STEP_S, interval_max=LONGEST_S
        )
        return super().ensure_connected(conn)
