"""What was sold, and for administrators what it cost: by model, provider, operation, key, day and outcome."""

from __future__ import annotations

from datetime import datetime

from flask import Blueprint, Response, g, request

from accounts.accounts import AccountNotFoundError, find_account
from accounts.keys import Caller
from app.http.accept import check_accepts
from app.http.auth import ScopeMissingError
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.responses import json_answer
from app.services import services
from app.shapes import render_usage
from app.shapes.schemas.usage import UsageOut, UsageQuery
from core.errors import ServiceError
from core.wire import rfc3339
from jobs.errors import FieldFault
from jobs.reads.usage import MAX_GROUPS, Amounts, TooManyGroupsError, period, usage

bp = Blueprint("usage", __name__, url_prefix="/api/usage")

ALL = "all"
JSON, CSV = "application/json", "text/csv"


class NoSuchAccountError(ServiceError):
    """There is no such account, or it is not the caller's."""

    code = "not_found"


@bp.get("")
@describe(
    Endpoint(
        "What was sold, and what it cost",
        "quota",
        (
            Answer(
                200,
                "One moment's sums; as CSV a line for each group.",
                UsageOut,
                media_types=(JSON, CSV),
                headers=("Content-Disposition",),
            ),
        ),
        scope="usage:read",
        errors=("invalid_request", "not_found"),
        query=UsageQuery,
        description="Read from the ledger. A job is of the day, in UTC, of its settlement; one that ended without any"
        " is of the day of its end. Cost and margin are told to keys with the scope `admin`, which may also ask for"
        " another account, or for `all`.",
    )
)
def read_usage() -> Response:
    query = read_query(UsageQuery, request.args)
    media_type = _media_type(query)
    costs = "admin" in g.caller.scopes
    account_id = _account(g.caller, query.account)
    connections = services().connections
    since, until = connections.autocommit(period, query.from_, query.to)
    if since >= until:
        raise InvalidRequestError([FieldFault("to", "out_of_range", "must be after `from`")])
    try:
        found = connections.autocommit(
            usage, from_at=since, to_at=until, by=query.by, account_id=account_id, costs=costs
        )
    except TooManyGroupsError:
        words = f"makes more than {MAX_GROUPS} groups: ask for fewer days, or group by less"
        raise InvalidRequestError([FieldFault("group_by", "out_of_range", words)]) from None
    if media_type == CSV:
        return _csv_answer(render_usage.csv_text(found, query.by, costs=costs), since, until)
    return json_answer({
        "object": "usage",
        "from": rfc3339(since),
        "to": rfc3339(until),
        "account": account_id or ALL,
        "group_by": list(query.by),
        "data": [render_usage.group(each, costs=costs) for each in found],
        "totals": render_usage.totals(Amounts.sum([each.amounts for each in found]), costs=costs),
    })  # fmt: skip


def _media_type(query: UsageQuery) -> str:
    """What to send: as the query asks, else as Accept does. Raises NotAcceptableError where they disagree."""
    if query.format is None:
        return request.accept_mimetypes.best_match((JSON, CSV), default=JSON)
    asked = CSV if query.format == "csv" else JSON
    check_accepts(request, asked)
    return asked


def _account(caller: Caller, asked: str | None) -> str | None:
    """The id of the account asked for, None for all. Raises ScopeMissingError, NoSuchAccountError."""
    if asked is None or asked in (caller.account_id, caller.account_name):
        return caller.account_id
    if "admin" not in caller.scopes:
        if asked == ALL:
            raise ScopeMissingError("the usage of all accounts needs the scope admin", scope="admin")
        raise NoSuchAccountError(f"there is no account {asked!r}")
    if asked == ALL:
        return None
    try:
        return services().connections.autocommit(find_account, asked).id
    except AccountNotFoundError as error:
        raise NoSuchAccountError(error.detail) from None


def _csv_answer(body: str, since: datetime, until: datetime) -> Response:
    name = f"usage-{since:%Y-%m-%d}-{until:%Y-%m-%d}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(body, content_type=f"{CSV}; charset=utf-8", headers=headers)
