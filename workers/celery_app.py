"""The Celery application, without tasks: safe to import from the web, from Flower and from tools."""

from __future__ import annotations

from celery import Celery

app = Celery("darkroom")
app.config_from_object("celeryconfig")
