"""The floor: what submit and status cost when they do almost nothing.

Served by the same gunicorn settings as our web (``-c python:app.gunicorn_conf bench.floor:app``), on
the same PostgreSQL and Redis. One INSERT committed and one Celery message per order, no account, no
check, no money; a constant JSON as the status.
"""

from __future__ import annotations

import json
from typing import Any

from celery import Celery
from flask import Flask, request
from sqlalchemy import text

from bench.names import FLOOR_QUEUE
from core.db import make_engine
from core.ids import new_id
from core.settings import load

_INSERT = text("INSERT INTO bench_floor (id, body) VALUES (:id, :body)")

_settings = load()
_engine = make_engine(_settings.database_url, pool_size=_settings.db_pool_size, application_name="floor")
_celery = Celery("floor", broker=_settings.broker_url)

app = Flask("floor")


@app.post("/floor/orders")
def submit() -> tuple[dict[str, Any], int]:
    body, task_id = request.get_json(), new_id("job")
    with _engine.begin() as connection:
        connection.execute(_INSERT, {"id": task_id, "body": json.dumps(body)})
    _celery.send_task("floor.run", args=(task_id,), queue=FLOOR_QUEUE, retry=False, ignore_result=True)
    return {"id": task_id, "status": "queued"}, 202


@app.get("/floor/constant")
def constant() -> dict[str, Any]:
    return {"id": "job_00000000000000000000000000", "status": "queued"}
