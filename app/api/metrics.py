"""What Prometheus scrapes: for keys with the scope admin, and for the token of DARKROOM_METRICS_TOKEN."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.services import services
from app.shapes.schemas.base import Empty
from core.metrics.exposition import CONTENT_TYPE

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
@describe(
    Endpoint(
        "Metrics for Prometheus",
        "admin",
        (Answer(200, "Every series, in Prometheus' text format.", media_types=("text/plain",)),),
        scope="metrics",
        spared=True,
        errors=("invalid_request",),
        query=Empty,
        description="Of all processes that share the folder of this one, and of the fleet. Takes the token of the"
        " setting DARKROOM_METRICS_TOKEN in place of a key.",
    )
)
def metrics() -> Response:
    read_query(Empty, request.args)
    return Response(services().exposition.text(), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
