"""Accounts' own keys of providers: for their owners, and for administrators."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from flask import Blueprint, Response, g, request
from sqlalchemy import Connection

from accounts import accounts
from app import provider_keys
from app.api.admin_accounts import actor, checked
from app.http.auth import ScopeMissingError
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.provider_keys import (
    ProviderKeyChange,
    ProviderKeyIn,
    ProviderKeyLimitsIn,
    ProviderKeyList,
    ProviderKeyOut,
    ProviderKeysQuery,
    ProviderKeysRotated,
)
from jobs.dispatch import own_keys
from jobs.dispatch.own_keys import OwnKey
from jobs.errors import ModelNotAllowedError

log = structlog.get_logger(__name__)

bp = Blueprint("provider_keys", __name__, url_prefix="/api")

# Together all that a key can do for its account: who stores a provider's key decides where every prompt goes.
WHOLE_ACCOUNT = ("jobs:write", "jobs:read", "usage:read", "webhooks")
_WORDS = "Needs all of the scopes `jobs:write`, `jobs:read`, `usage:read` and `webhooks`, or `admin`."
_STORE_ERRORS = (
    *("not_found", "malformed_json", "invalid_request", "provider_keys_off", "provider_key_refused"),
    "upstream_failed",
)


def _check_whole_account(provider: str) -> None:
    """Raises ScopeMissingError for a key that may not do all for its account, ModelNotAllowedError."""
    caller = g.caller
    missing = [scope for scope in WHOLE_ACCOUNT if scope not in caller.scopes]
    if missing and "admin" not in caller.scopes:
        raise ScopeMissingError(f"this needs the scopes {', '.join(WHOLE_ACCOUNT)}", scope=missing[0])
    if caller.providers is not None and provider not in caller.providers:
        raise ModelNotAllowedError([provider])


# ---------------------------------------------------------------- the caller's own


@bp.get("/provider-keys")
@describe(
    Endpoint(
        "List your own keys of providers",
        "provider keys",
        (Answer(200, "All of them, without the keys.", ProviderKeyList),),
        scope="usage:read",
        errors=("invalid_request",),
        query=Empty,
    )
)
def list_own() -> Response:
    read_query(Empty, request.args)
    return _listed(g.caller.account_id)


@bp.put("/provider-keys/<provider>")
@describe(
    Endpoint(
        "Store your own key of a provider",
        "provider keys",
        (
            Answer(201, "It is stored. Orders of the provider's models go by it from now on.", ProviderKeyOut),
            Answer(200, "It has replaced the key before.", ProviderKeyOut),
        ),
        scope="webhooks",
        pace="enhance",
        errors=(*_STORE_ERRORS, "model_not_allowed"),
        query=Empty,
        body=ProviderKeyIn,
        description=f"{_WORDS} Your orders of the provider's models then cost the operator's fee and no more; the"
        " provider bills you. The key is kept encrypted and is never shown again.",
    )
)
def store_own(provider: str) -> Response:
    read_query(Empty, request.args)
    _check_whole_account(provider)
    return _store(provider, g.caller.account_id)


@bp.patch("/provider-keys/<provider>")
@describe(
    Endpoint(
        "Change your own key of a provider",
        "provider keys",
        (Answer(200, "The key as it is now.", ProviderKeyOut),),
        scope="webhooks",
        errors=("provider_key_not_found", "malformed_json", "invalid_request", "model_not_allowed"),
        query=Empty,
        body=ProviderKeyChange,
        description=f"{_WORDS} Its limits, and whether it is paused.",
    )
)
def change_own(provider: str) -> Response:
    read_query(Empty, request.args)
    _check_whole_account(provider)
    return _change(provider, g.caller.account_id)


@bp.delete("/provider-keys/<provider>")
@describe(
    Endpoint(
        "Delete your own key of a provider",
        "provider keys",
        (Answer(204, "Nothing begins with it any more.", media_types=()),),
        scope="webhooks",
        errors=("provider_key_not_found", "invalid_request", "model_not_allowed"),
        query=Empty,
        description=f"{_WORDS} What is under way is followed to its end with it, and then it is forgotten; what is"
        " queued falls back to its next model, or fails as `own_key_deleted` at no cost.",
    )
)
def delete_own(provider: str) -> Response:
    read_query(Empty, request.args)
    _check_whole_account(provider)
    services().connections.transaction(provider_keys.delete, actor(), g.caller.account_id, provider)
    return Response(status=HTTPStatus.NO_CONTENT)


# ---------------------------------------------------------------- administrators


@bp.get("/admin/provider-keys")
@describe(
    Endpoint(
        "List accounts' own keys of providers",
        "admin",
        (Answer(200, "Of one account or of all, without the keys.", ProviderKeyList),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=ProviderKeysQuery,
    )
)
def list_all() -> Response:
    account = read_query(ProviderKeysQuery, request.args).account
    return _listed(None if account is None else _account_id(account))


@bp.put("/admin/accounts/<account>/provider-keys/<provider>")
@describe(
    Endpoint(
        "Store an account's own key of a provider",
        "admin",
        (
            Answer(201, "It is stored. The account's orders of the provider's models go by it.", ProviderKeyOut),
            Answer(200, "It has replaced the key before.", ProviderKeyOut),
        ),
        scope="admin",
        pace="enhance",
        errors=(*_STORE_ERRORS, "account_not_found"),
        query=Empty,
        body=ProviderKeyIn,
    )
)
def store_of(account: str, provider: str) -> Response:
    read_query(Empty, request.args)
    return _store(provider, _account_id(account))


@bp.patch("/admin/accounts/<account>/provider-keys/<provider>")
@describe(
    Endpoint(
        "Change an account's own key of a provider",
        "admin",
        (Answer(200, "The key as it is now.", ProviderKeyOut),),
        scope="admin",
        errors=("account_not_found", "provider_key_not_found", "malformed_json", "invalid_request"),
        query=Empty,
        body=ProviderKeyChange,
    )
)
def change_of(account: str, provider: str) -> Response:
    read_query(Empty, request.args)
    return _change(provider, _account_id(account))


@bp.delete("/admin/accounts/<account>/provider-keys/<provider>")
@describe(
    Endpoint(
        "Delete an account's own key of a provider",
        "admin",
        (Answer(204, "Nothing begins with it any more.", media_types=()),),
        scope="admin",
        errors=("account_not_found", "provider_key_not_found", "invalid_request"),
        query=Empty,
    )
)
def delete_of(account: str, provider: str) -> Response:
    read_query(Empty, request.args)
    services().connections.transaction(provider_keys.delete, actor(), _account_id(account), provider)
    return Response(status=HTTPStatus.NO_CONTENT)


@bp.post("/admin/provider-keys/rotate")
@describe(
    Endpoint(
        "Encrypt every key by the newest secret",
        "admin",
        (Answer(200, "How many were encrypted again.", ProviderKeysRotated),),
        scope="admin",
        errors=("provider_keys_off", "invalid_request"),
        query=Empty,
        description="After a new secret was put in front of `DARKROOM_OWN_KEYS_SECRET` everywhere: then the one before"
        " can be taken away.",
    )
)
def rotate() -> Response:
    read_query(Empty, request.args)
    sealer = provider_keys.needed(services().sealer)
    done = services().connections.transaction(provider_keys.reseal, actor(), sealer)
    return json_answer({"object": "provider_keys.rotation", "sealed": done.sealed, "broken": list(done.broken)})


# ---------------------------------------------------------------- what both share


def _account_id(name_or_id: str) -> str:
    return services().connections.autocommit(accounts.find_account, checked(name_or_id)).id


def _listed(account_id: str | None) -> Response:
    found = services().connections.autocommit(own_keys.keys, account_id)
    return json_answer({"object": "list", "data": [provider_keys.shown(each) for each in found]})


def _store(provider: str, account_id: str) -> Response:
    asked, parts = read_body(ProviderKeyIn, request), services()
    sealer = provider_keys.needed(parts.sealer)
    key = provider_keys.check(
        parts.catalog, frozenset(parts.configured), provider, asked.key.get_secret_value(), ask=asked.check
    )
    if asked.check:
        parts.ask_provider(provider, key)
    found, replaced = parts.connections.transaction(
        provider_keys.store,
        actor(),
        account_id,
        provider,
        key,
        sealer=sealer,
        changes=_limits(asked.limits),
        checked=asked.check,
    )
    return json_answer(provider_keys.shown(found), HTTPStatus.OK if replaced else HTTPStatus.CREATED)


def _change(provider: str, account_id: str) -> Response:
    asked = read_body(ProviderKeyChange, request)

    def change(connection: Connection) -> OwnKey:
        found = own_keys.find(connection, account_id, provider)
        if changes := _limits(asked.limits):
            found = provider_keys.change_limits(connection, actor(), account_id, provider, changes)
        if asked.paused is not None:
            found = provider_keys.set_pause(
                connection, actor(), account_id, provider, paused=asked.paused, reason=asked.reason
            )
        return found

    return json_answer(provider_keys.shown(services().connections.transaction(change)))


def _limits(asked: ProviderKeyLimitsIn | None) -> dict[str, Any]:
    return {} if asked is None else asked.model_dump(exclude_unset=True)
