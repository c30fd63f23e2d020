"""The caller's credits: balance, limits and every transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint, Response, current_app, g, request

from accounts import order_limits
from accounts.keys import Caller
from accounts.order_limits import OrderLimits
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import Services, services
from app.shapes import render
from app.shapes.schemas.base import Empty
from app.shapes.schemas.quota import LedgerOut, LedgerQuery, QuotaOut
from jobs.reads.funds import funds
from jobs.submission.load import INSTALLATION, WINDOW_S
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
        "limits": [*_of_requests(parts, g.caller), *_of_orders(parts, g.caller)],
        "result_cache": None
        if (terms := current_app.config["RESULT_CACHE"]) is None
        else {"max_age_s": terms.max_age_s, "price_percent": float(terms.price_percent)},
    }
    return json_answer(body)


def _of_requests(parts: Services, caller: Caller) -> Iterator[dict[str, Any]]:
    for rate in parts.limits.of(caller):
        yield {**_limit(rate.name, "requests", rate.amount, rate.window_s), "requests": rate.amount}


def _of_orders(parts: Services, caller: Caller) -> Iterator[dict[str, Any]]:
    """What the caller's orders have to keep. How much the installation may charge is its operator's affair."""
    found: Sequence[OrderLimits] = ()
    if caller.orders_by_limits:
        found = parts.connections.autocommit(order_limits.read, caller.account_id, caller.key_id)
    for each in found:
        yield from _of_load(each.whose, each.in_flight, each.images_per_minute)
        yield from _given(f"{each.whose}-day", "microcredits", each.day_microcredits, None)
        yield from _given(f"{each.whose}-month", "microcredits", each.month_microcredits, None)
    everyone = parts.submission.admission.installation
    yield from _of_load(INSTALLATION, everyone.in_flight, everyone.images_per_minute)


def _of_load(whose: str, in_flight: int | None, images_per_minute: int | None) -> Iterator[dict[str, Any]]:
    yield from _given(f"{whose}-in-flight", "concurrent-requests", in_flight, None)
    yield from _given(f"{whose}-images", "images", images_per_minute, WINDOW_S)


def _given(name: str, unit: str, limit: int | None, window_s: int | None) -> Iterator[dict[str, Any]]:
    if limit is not None:
        yield _limit(name, unit, limit, window_s)


def _limit(name: str, unit: str, limit: int, window_s: int | None) -> dict[str, Any]:
    return {"name": name, "unit": unit, "limit": limit, "window_s": window_s, "requests": None}


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
