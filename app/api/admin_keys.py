"""For administrators: API keys of every account, and the trail of what administrators did."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request
from sqlalchemy import Connection

from accounts import accounts, key_changes, trail
from accounts.key_changes import KeyNotFoundError
from accounts.keys import KeyInfo
from accounts.trail import Action, ActionFilters
from app import admin_documents as render
from app import administration
from app.api.admin_accounts import actor, limit_columns
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import if_match, json_answer
from app.services import services
from app.shapes.schemas.accounts import (
    ActionList,
    ActionsQuery,
    KeyChange,
    KeyIn,
    KeyList,
    KeyMade,
    KeyOut,
    KeysQuery,
    PauseIn,
    RotateIn,
)
from app.shapes.schemas.base import Empty

bp = Blueprint("admin_keys", __name__, url_prefix="/api/admin")

_KEY_ID = re.compile(r"[0-9a-f]{12}")


def _checked(key_id: str) -> str:
    if not _KEY_ID.fullmatch(key_id):
        raise KeyNotFoundError("there is no such key")
    return key_id


@bp.get("/keys")
@describe(
    Endpoint(
        "List the API keys",
        "admin",
        (Answer(200, "One page, oldest first; revoked and expired ones included.", KeyList),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=KeysQuery,
    )
)
def list_keys() -> Response:
    query = read_query(KeysQuery, request.args)

    def read(connection: Connection) -> list[KeyInfo]:
        owner = accounts.find_account(connection, query.account).id if query.account is not None else None
        return key_changes.key_page(connection, owner, after_id=query.cursor, limit=query.limit + 1)

    found = services().connections.autocommit(read)
    page = found[: query.limit]
    return json_answer(
        {
            "object": "list",
            "data": [render.key(each) for each in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )


@bp.post("/keys")
@describe(
    Endpoint(
        "Make an API key",
        "admin",
        (Answer(201, "The key with its token, which is shown this once.", KeyMade, headers=("Location", "ETag")),),
        scope="admin",
        errors=("account_not_found", "malformed_json", "invalid_request"),
        query=Empty,
        body=KeyIn,
        description="The first key of an installation is made next to its database: `darkroom up`, or `darkroom key"
        " create`.",
    )
)
def create_key() -> Response:
    read_query(Empty, request.args)
    asked = read_body(KeyIn, request)
    allowed = administration.allowed_by(services().catalog, asked.models, asked.providers)

    def create(connection: Connection) -> tuple[KeyInfo, str]:
        expires_at = asked.expires_at
        if asked.expires_in_s is not None:
            expires_at = _in(connection, asked.expires_in_s)
        return administration.create_key(
            connection,
            actor(),
            asked.account,
            name=asked.name,
            scopes=asked.scopes,
            expires_at=expires_at,
            **allowed,
            **limit_columns(asked.limits),
        )

    found, token = services().connections.transaction(create)
    return json_answer(
        {**render.key(found), "token": token},
        201,
        {"Location": f"/api/admin/keys/{found.id}", "ETag": administration.tag(found)},
    )


@bp.get("/keys/<key_id>")
@describe(
    Endpoint(
        "Read an API key",
        "admin",
        (Answer(200, "The key without its secret, and when it was used last.", KeyOut, headers=("ETag",)),),
        scope="admin",
        errors=("key_not_found", "invalid_request"),
        query=Empty,
    )
)
def read_key(key_id: str) -> Response:
    read_query(Empty, request.args)
    return _answer(services().connections.autocommit(key_changes.find_key, _checked(key_id)))


def _answer(found: KeyInfo) -> Response:
    return json_answer(render.key(found), headers={"ETag": administration.tag(found)})


@bp.patch("/keys/<key_id>")
@describe(
    Endpoint(
        "Change an API key",
        "admin",
        (Answer(200, "The key as it is now. Web processes know it within 5 seconds.", KeyOut, headers=("ETag",)),),
        scope="admin",
        errors=("key_not_found", "key_ended", "precondition_failed", "malformed_json", "invalid_request"),
        query=Empty,
        body=KeyChange,
        request_headers=("If-Match",),
    )
)
def change_key(key_id: str) -> Response:
    read_query(Empty, request.args)
    asked = read_body(KeyChange, request)
    allowed = administration.allowed_by(services().catalog, asked.models, asked.providers)
    changes: dict[str, Any] = {
        **asked.model_dump(include={"name", "scopes", "expires_at"}, exclude_unset=True),
        **{name: value for name, value in allowed.items() if name in asked.model_fields_set},
        **limit_columns(asked.limits),
    }

    def change(connection: Connection) -> KeyInfo:
        if asked.expires_in_s is not None:
            changes["expires_at"] = _in(connection, asked.expires_in_s)
        return administration.change_key(connection, actor(), _checked(key_id), changes, meant=if_match())

    return _answer(services().connections.transaction(change))


def _in(connection: Connection, seconds: int) -> datetime:
    """So many seconds from now, by the clock by which keys are checked."""
    return administration.database_now(connection) + timedelta(seconds=seconds)


@bp.post("/keys/<key_id>/revoke")
@describe(
    Endpoint(
        "Revoke an API key",
        "admin",
        (Answer(200, "It opens nothing any more, within 5 seconds in every web process.", KeyOut, headers=("ETag",)),),
        scope="admin",
        errors=("key_not_found", "precondition_failed", "invalid_request"),
        query=Empty,
        request_headers=("If-Match",),
        description="Revoking again changes nothing. The key that is used for it may be revoked, too.",
    )
)
def revoke_key(key_id: str) -> Response:
    read_query(Empty, request.args)
    meant = if_match()
    return _answer(
        services().connections.transaction(administration.revoke_key, actor(), _checked(key_id), meant=meant)
    )


@bp.post("/keys/<key_id>/pause")
@describe(
    Endpoint(
        "Pause an API key",
        "admin",
        (Answer(200, "Its requests are answered 403 within 5 seconds in every web process.", KeyOut),),
        scope="admin",
        errors=("key_not_found", "key_ended", "last_admin_key", "malformed_json", "invalid_request"),
        query=Empty,
        body=PauseIn,
        description="Tasks that were accepted go on, lines of its batches wait. Pausing again changes nothing.",
    )
)
def pause_key(key_id: str) -> Response:
    read_query(Empty, request.args)
    reason = read_body(PauseIn, request).reason
    found = services().connections.transaction(administration.pause_key, actor(), _checked(key_id), reason)
    return json_answer(render.key(found))


@bp.post("/keys/<key_id>/resume")
@describe(
    Endpoint(
        "Let a paused API key on",
        "admin",
        (Answer(200, "It opens again within 5 seconds in every web process.", KeyOut),),
        scope="admin",
        errors=("key_not_found", "invalid_request"),
        query=Empty,
        description="A key that is not paused stays as it is.",
    )
)
def resume_key(key_id: str) -> Response:
    read_query(Empty, request.args)
    found = services().connections.transaction(administration.resume_key, actor(), _checked(key_id))
    return json_answer(render.key(found))


@bp.post("/keys/<key_id>/rotate")
@describe(
    Endpoint(
        "Give an API key another secret",
        "admin",
        (Answer(200, "The key with its new token, which is shown this once.", KeyMade, headers=("ETag",)),),
        scope="admin",
        errors=("key_not_found", "key_ended", "precondition_failed", "malformed_json", "invalid_request"),
        query=Empty,
        body=RotateIn,
        request_headers=("If-Match",),
        description="The key keeps its id, and what it may do and has spent. The secret before opens as well for"
        " `overlap_s` seconds (a day, unless it is said); one that was replaced before that stops at once.",
    )
)
def rotate_key(key_id: str) -> Response:
    read_query(Empty, request.args)
    overlap_s = read_body(RotateIn, request).overlap_s
    found, token = services().connections.transaction(
        administration.rotate_key, actor(), _checked(key_id), overlap_s=overlap_s, meant=if_match()
    )
    return json_answer({**render.key(found), "token": token}, headers={"ETag": administration.tag(found)})


@bp.get("/actions")
@describe(
    Endpoint(
        "What administrators did",
        "admin",
        (Answer(200, "One page, newest first.", ActionList),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=ActionsQuery,
        description="Who by which key and from which address, what, and how it was before and after. An entry is"
        " written together with what it tells of.",
    )
)
def list_actions() -> Response:
    query = read_query(ActionsQuery, request.args)

    def read(connection: Connection) -> list[Action]:
        return trail.actions(
            connection,
            ActionFilters(
                action=query.action,
                target=query.target,
                account_id=accounts.find_account(connection, query.account).id if query.account is not None else None,
                key_id=query.key_id,
                since=query.since,
                until=query.until,
                before_id=query.cursor,
                limit=query.limit + 1,
            ),
        )

    found = services().connections.autocommit(read)
    page = found[: query.limit]
    return json_answer(
        {
            "object": "list",
            "data": [render.action(each) for each in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )
