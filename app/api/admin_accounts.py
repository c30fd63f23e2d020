"""For administrators: accounts, what they may spend, and credits."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, request
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from accounts import accounts
from accounts.accounts import Account, AccountNotFoundError
from accounts.trail import Actor
from app import admin_documents as render
from app import administration
from app.http.bodies import read_body, read_query, storable
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import if_match, json_answer
from app.orders.idempotency_key import header_key
from app.services import services
from app.shapes.schemas.accounts import (
    AccountChange,
    AccountIn,
    AccountList,
    AccountOut,
    AccountsQuery,
    GrantIn,
    GrantList,
    GrantMade,
    GrantsQuery,
    LimitsIn,
)
from app.shapes.schemas.base import Empty
from jobs.reads.funds import funds
from quota import grants

bp = Blueprint("admin_accounts", __name__, url_prefix="/api/admin")


def actor() -> Actor:
    """The caller of this request, for the trail."""
    caller = g.caller
    return Actor(caller.account_name, caller.account_id, caller.key_id, request.remote_addr or "", g.request_id)


def checked(name_or_id: str) -> str:
    """Raises AccountNotFoundError for what no account can be called."""
    if not storable(name_or_id):
        raise AccountNotFoundError("there is no such account")
    return name_or_id


def limit_columns(limits: LimitsIn | None) -> dict[str, int | None]:
    """The limits that a body sets, by their columns."""
    return {
        column: getattr(limits, name)
        for name, column in render.LIMITS.items()
        if limits and name in limits.model_fields_set
    }


def _shown(connection: Connection, found: Account) -> dict[str, Any]:
    return render.account(found, funds(connection, found.id))


def _tagged(connection: Connection, found: Account) -> tuple[dict[str, Any], str]:
    return _shown(connection, found), administration.tag(found)


@bp.get("/accounts")
@describe(
    Endpoint(
        "List the accounts",
        "admin",
        (Answer(200, "One page, oldest first, with balances.", AccountList),),
        scope="admin",
        errors=("invalid_request",),
        query=AccountsQuery,
    )
)
def list_accounts() -> Response:
    query = read_query(AccountsQuery, request.args)

    def read(connection: Connection) -> list[dict[str, Any]]:
        found = accounts.list_accounts(connection, after_id=query.cursor or "", limit=query.limit + 1)
        return [_shown(connection, each) for each in found]

    found = services().connections.autocommit(read)
    page = found[: query.limit]
    cursor = page[-1]["id"] if len(found) > len(page) else None
    return json_answer({"object": "list", "data": page, "next_cursor": cursor})


@bp.post("/accounts")
@describe(
    Endpoint(
        "Make an account",
        "admin",
        (
            Answer(
                201, "The account; its balance begins with its first grant.", AccountOut, headers=("Location", "ETag")
            ),
        ),
        scope="admin",
        errors=("malformed_json", "invalid_request", "account_exists"),
        query=Empty,
        body=AccountIn,
    )
)
def create_account() -> Response:
    read_query(Empty, request.args)
    asked = read_body(AccountIn, request)

    def create(connection: Connection) -> tuple[dict[str, Any], str]:
        made = administration.create_account(
            connection,
            actor(),
            asked.name,
            weight=asked.weight,
            external_id=asked.external_id,
            limits=limit_columns(asked.limits),
        )
        return _tagged(connection, made)

    made, tag = services().connections.transaction(create)
    return json_answer(made, 201, {"Location": f"/api/admin/accounts/{made['id']}", "ETag": tag})


@bp.get("/accounts/<account_id>")
@describe(
    Endpoint(
        "Read an account",
        "admin",
        (Answer(200, "By its id or its name.", AccountOut, headers=("ETag",)),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=Empty,
    )
)
def read_account(account_id: str) -> Response:
    read_query(Empty, request.args)

    def read(connection: Connection) -> tuple[dict[str, Any], str]:
        return _tagged(connection, accounts.find_account(connection, checked(account_id)))

    found, tag = services().connections.autocommit(read)
    return json_answer(found, headers={"ETag": tag})


@bp.patch("/accounts/<account_id>")
@describe(
    Endpoint(
        "Change an account",
        "admin",
        (
            Answer(
                200, "The account as it is now. Web processes know it within 5 seconds.", AccountOut, headers=("ETag",)
            ),
        ),
        scope="admin",
        errors=(
            *("account_not_found", "account_exists", "own_account", "precondition_failed"),
            *("malformed_json", "invalid_request"),
        ),
        query=Empty,
        body=AccountChange,
        request_headers=("If-Match",),
        description="`disabled` stops every key of the account; jobs that it has ordered go on.",
    )
)
def change_account(account_id: str) -> Response:
    read_query(Empty, request.args)
    asked = read_body(AccountChange, request)
    plain = asked.model_dump(include={"name", "weight", "external_id"}, exclude_unset=True)

    def change(connection: Connection) -> tuple[dict[str, Any], str]:
        changes = {**plain, **limit_columns(asked.limits)}
        found = administration.change_account(
            connection, actor(), checked(account_id), changes, disabled=asked.disabled, meant=if_match()
        )
        return _tagged(connection, found)

    found, tag = services().connections.transaction(change)
    return json_answer(found, headers={"ETag": tag})


@bp.get("/grants")
@describe(
    Endpoint(
        "List what was granted",
        "admin",
        (Answer(200, "One page, newest first: grants, what was taken back, and corrections.", GrantList),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=GrantsQuery,
    )
)
def list_grants() -> Response:
    query = read_query(GrantsQuery, request.args)

    def read(connection: Connection) -> list[grants.Grant]:
        owner = accounts.find_account(connection, query.account).id if query.account is not None else None
        return grants.grants(connection, owner, before_id=query.cursor, limit=query.limit + 1)

    found = services().connections.autocommit(read)
    page = found[: query.limit]
    return json_answer(
        {
            "object": "list",
            "data": [render.grant(each) for each in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )


@bp.post("/grants")
@describe(
    Endpoint(
        "Give credits, or take them back",
        "admin",
        (
            Answer(201, "The transfer, and the balance after it.", GrantMade),
            Answer(200, "An earlier request with this key made it.", GrantMade, headers=("Idempotent-Replayed",)),
        ),
        scope="admin",
        errors=(
            *("account_not_found", "not_enough_to_take", "idempotency_key_invalid", "idempotency_mismatch"),
            *("malformed_json", "invalid_request"),
        ),
        query=Empty,
        body=GrantIn,
        request_headers=("Idempotency-Key",),
        description="With an `Idempotency-Key` a grant is made once, however often it is sent: such keys are kept with"
        " the ledger, forever, within the account of the caller.",
    )
)
def grant() -> Response:
    read_query(Empty, request.args)
    asked, key = read_body(GrantIn, request), header_key(request)
    request_key = None if key is None else f"{g.caller.account_id} {key}"

    def give(connection: Connection) -> tuple[dict[str, Any], bool]:
        made, replayed = administration.grant(
            connection, actor(), asked.account, asked.amount_microcredits, note=asked.note, request_key=request_key
        )
        has = render.balance(funds(connection, made.account_id))
        return {**render.grant(made), "balance": has}, replayed

    connections = services().connections
    try:
        made, replayed = connections.transaction(give)
    except IntegrityError:
        # The same request was under way: it has committed by now, and answers.
        made, replayed = connections.transaction(give)
    if replayed:
        return json_answer(made, 200, {"Idempotent-Replayed": "true"})
    return json_answer(made, 201)
