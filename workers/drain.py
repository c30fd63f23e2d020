"""Leaving: on SIGTERM the worker claims nothing more, hands over, and is gone in seconds.

Images in progress at asynchronous upstreams are rows, so nothing waits for them. A synchronous
call still open when the time is up is lost with its socket; its row says so and its credits return.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable

import structlog
from celery.signals import worker_shutting_down

from workers import wiring
from workers.flower import event_batches

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0

_draining = threading.Event()  # SIGTERM: out within drain_s
_leaving = threading.Event()  # the watchdog found it deaf: out when the paid calls have ended


def draining() -> bool:
    """Whether this worker claims nothing more."""
    return _draining.is_set() or _leaving.is_set()


def arm() -> None:
    """Get ready to leave. The thread waits from the start, because a signal handler under gevent may
    only set a flag: anything that blocks is refused there."""
    worker_shutting_down.connect(_begin, weak=False)
    threading.Thread(target=_leave_in_time, name="drain", daemon=True).start()


def _begin(**_: object) -> None:
    _draining.set()


def _leave_in_time() -> None:
    """Celery's warm shutdown has no upper bound of its own; this one has."""
    _draining.wait()
    time.sleep(wiring.settings().drain_s)
    log.info("drain_time_is_up")
    sign_off()
    os._exit(0)


def leave_after_calls(busy: Callable[[], int], *, at_most_s: float) -> None:
    """Claim nothing more, let paid calls finish up to their longest step, and exit for a restart."""
    if _leaving.is_set():
        return
    _leaving.set()
    until = time.monotonic() + at_most_s
    while busy() and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    sign_off()
    os._exit(1)


def sign_off() -> None:
    """What this worker still owns is free at once, and Flower hears how its last jobs ended."""
    wiring.heartbeat().leave()
    event_batches.send_all_now()
    wiring.publisher().events.close()


def sign_off_when_idle() -> None:
    """A shutdown that needs no deadline signs off when the process exits."""
    atexit.register(sign_off)
