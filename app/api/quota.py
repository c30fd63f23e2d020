"""The caller's credits: balance, limits and every transfer."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, g, request

from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import services
from app.shapes import render
from app.shapes.schemas.base import Empty
from app.shapes.schemas.quota import LedgerOut, LedgerQuery, QuotaOut
from jobs.reads.funds import funds
from quota.ledger import entries

bp = Blueprint("quota", __name__, url_prefix="/api/quota")


@bp.get("")
@describe(Endpoint("Balance and limits", "quota", (Answer(200, "As of now.", QuotaOut),), query=Empty))
def quota() -> Response:
    read_query(Empty, request.args)
    parts = services()
    body = {
        "object": "quota",
        **render.amounts(parts.connections.autocommit(funds, g.caller.account_id)),
        "window": current_app.config["PUBLISH_WINDOW"] * g.caller.weight,
        "limits": [
            {"name": rate.name, "requests": rate.amount, "window_s": rate.window_s} for rate in parts.limits.all()
        ],
        "result_cache": None
        if (terms := current_app.config["RESULT_CACHE"]) is None
        else {"max_age_s": terms.max_age_s, "price_percent": float(terms.price_percent)},
    }
    return json_answer(body)


@bp.get("/ledger")
@describe(
    Endpoint(
        "Every transfer of credits, newest first",
        "quota",
        (Answer(200, "One page.", LedgerOut),),
        errors=("invalid_request",),
        query=LedgerQuery,
    )
)
def ledger() -> Response:
    query = read_query(LedgerQuery, request.args)
    found = services().connections.autocommit(
        entries, g.caller.account_id, before_id=query.cursor, limit=query.limit + 1
    )
    page = found[: query.limit]
    return json_answer(
        {
            "object": "list",
            "data": [render.entry(entry) for entry in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )
