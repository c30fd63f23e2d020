"""Is the process alive, and can it do its work? Open to all, for load balancers and people."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from app.http.endpoint import Answer, Endpoint, describe
from app.http.readiness import OPTIONAL, Readiness
from app.http.responses import json_answer
from app.shapes.schemas.service import Health, Ready

bp = Blueprint("service", __name__)


@bp.get("/healthz")
@describe(Endpoint("Is the process alive", "service", (Answer(200, "It is.", Health),), scope=None, spared=True))
def healthz() -> Response:
    return json_answer({"status": "ok"})


@bp.get("/readyz")
@describe(
    Endpoint(
        "Can it do its work",
        "service",
        (
            Answer(200, "Yes; `degraded` when Redis or the broker is away: orders are still accepted and kept.", Ready),
            Answer(503, "No; the checks name what is wrong.", Ready),
        ),
        scope=None,
        spared=True,
    )
)
def readyz() -> Response:
    readiness: Readiness = current_app.extensions["darkroom_readiness"]
    found = readiness.look()
    wrong = {name for name, detail in found.items() if detail is not None}
    status = "unavailable" if wrong - OPTIONAL else "degraded" if wrong else "ready"
    checks = {name: {"ok": detail is None, "detail": detail} for name, detail in found.items()}
    return json_answer({"status": status, "checks": checks}, 503 if status == "unavailable" else 200)
