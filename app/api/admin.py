"""For administrators: whether the money balances and agrees with the jobs."""

from __future__ import annotations

from dataclasses import asdict

from flask import Blueprint, Response, request

from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.service import AuditOut
from jobs.maintenance.audit import FACTS_AT_MOST, check
from jobs.maintenance.audit_check import remember

bp = Blueprint("admin_audit", __name__, url_prefix="/api/admin")

# Shorter than a caller's patience and a proxy's; `darkroom audit` takes its time.
TIMEOUT_S = 30


@bp.get("/audit")
@describe(
    Endpoint(
        "Check every invariant of money and jobs",
        "admin",
        (Answer(200, "As of one moment; `clean` when nothing was found.", AuditOut),),
        scope="admin",
        errors=("invalid_request",),
        query=Empty,
        description="Metrics show the result until the next audit."
        " Reads every job and transfer of all accounts: ask now and then, not every second. Of the rolled up usage it"
        " compares the newest with every fact, and of the older a part, which is another each day; its money always.",
    )
)
def audit() -> Response:
    read_query(Empty, request.args)
    connections = services().connections
    findings = connections.transaction(check, timeout_s=TIMEOUT_S, facts_at_most=FACTS_AT_MOST)
    connections.autocommit(remember, findings)
    return json_answer({"clean": not findings, "findings": [asdict(finding) for finding in findings]})
