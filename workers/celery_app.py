"""The Celery application without tasks, so that web processes, Flower and tools can import it."""

from __future__ import annotations

import sys

from celery import Celery

app = Celery("darkroom")
app.config_from_object("celeryconfig")
app.events.dispatcher_cls = "workers.flower.event_batches:BatchingDispatcher"

if "flower.events" in sys.modules:  # Flower loads its own modules before this application
    from workers.flower import small_rows

    small_rows.install()
