"""The Celery application, without tasks: safe to import from the web, from Flower and from tools."""

from __future__ import annotations

import sys

from celery import Celery

app = Celery("darkroom")
app.config_from_object("celeryconfig")
app.events.dispatcher_cls = "workers.flower.event_batches:BatchingDispatcher"

if "flower.events" in sys.modules:  # Flower is loaded before the application that it is to show
    from workers.flower import rows

    rows.install()
