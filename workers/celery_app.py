"""The Celery application without tasks, so that web processes, Flower and tools can import it."""

from __future__ import annotations

import sys

from celery import Celery, signals

app = Celery("darkroom")
app.config_from_object("celeryconfig")
app.events.dispatcher_cls = "workers.flower.event_batches:BatchingDispatcher"

WRONG_START = (
    "darkroom worker: the bare celery command makes a worker with the wrong pool, queues and clock:"
    " start workers by `python -m workers`"
)
_our_start = False


def allow_worker() -> None:
    """Let this process become a worker; only ``python -m workers`` asks for it."""
    global _our_start  # noqa: PLW0603 (a process is one or is none)
    _our_start = True


def _refuse_other_starts(**_facts: object) -> None:
    if not _our_start:
        sys.exit(WRONG_START)


signals.celeryd_init.connect(_refuse_other_starts)

if "flower.events" in sys.modules:  # Flower loads its own modules before this application
    from workers.flower import small_rows

    small_rows.install()
