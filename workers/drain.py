"""Draining: on SIGTERM the worker claims nothing more, hands over its work, and exits within seconds.

Images in progress at asynchronous upstreams are rows, so the worker need not wait for them. A synchronous call that
is still open at the end is lost with its socket; its row shows that, and the credits are returned.
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
# Signing off asks servers, and was seen to hang with RabbitMQ under load, so it has an end.
SIGN_OFF_S = 2.0

_draining = threading.Event()  # SIGTERM: exit within drain_s
_leaving = threading.Event()  # the watchdog found the consumer deaf: exit after the paid calls


def draining() -> bool:
    """Return whether this worker claims nothing more."""
    return _draining.is_set() or _leaving.is_set()


def arm() -> None:
    """Prepare for SIGTERM. A thread waits from the start, because a signal handler under gevent may not block."""
    worker_shutting_down.connect(_begin, weak=False)
    threading.Thread(target=_leave_in_time, name="drain", daemon=True).start()


def _begin(**_: object) -> None:
    _draining.set()


def _leave_in_time() -> None:
    """Limit Celery's warm shutdown, which has no time limit of its own."""
    _draining.wait()
    time.sleep(wiring.settings().drain_s)
    log.info("drain_time_is_up")
    _exit(0)


def leave_after_calls(busy: Callable[[], int], *, at_most_s: float) -> None:
    """Claim nothing more, let paid calls finish for up to ``at_most_s`` seconds, and exit for a restart."""
    if _leaving.is_set():
        return
    _leaving.set()
    until = time.monotonic() + at_most_s
    while busy() and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    _exit(1)


def _exit(status: int) -> None:
    """Sign off, and exit at the latest after SIGN_OFF_S."""
    signed_off = threading.Thread(target=sign_off, name="sign-off", daemon=True)
    signed_off.start()
    signed_off.join(SIGN_OFF_S)
    os._exit(status)


def sign_off() -> None:
    """Release what this worker still owns, and send Flower the last events. Never raises."""
    wiring.heartbeat().leave()
    event_batches.send_all_now()
    wiring.publisher().events.close()


def sign_off_when_idle() -> None:
    """Sign off when the process exits, for a shutdown without a deadline."""
    atexit.register(sign_off)
