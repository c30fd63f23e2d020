"""The guard before every route: request id, caller, scope, limit.

Closed by default: a route's description (app/http/endpoint.py) says what it needs, and a route without
one does not start. Whoever passes stands in ``g.caller``; every query below is narrowed to its account.
"""

from __future__ import annotations

import re

import structlog
from flask import Flask, Request, Response, current_app, g
from flask.globals import request_ctx

from accounts.keys import Caller
from app.http.endpoint import Endpoint, Scope, about
from app.http.errors import answer
from app.services import Services
from core.errors import ServiceError
from core.ids import new_id

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
MAX_TOKEN_CHARS = 512


class KeyMissingError(ServiceError):
    code = "key_missing"


class KeyInvalidError(ServiceError):
    code = "key_invalid"


class ScopeMissingError(ServiceError):
    code = "scope_missing"


def install(app: Flask, services: Services) -> None:
    """Put the guard before, and the marks of a request after, every route of the app."""

    def enter() -> None:
        asked = request_ctx.request  # looked up once: behind the proxy each mention costs
        name_request(asked)
        admit(services, asked)

    def leave(response: Response) -> Response:
        # Added, not set: nothing else names them, and setting looks through all the others.
        response.headers.add("X-Request-Id", g.get("request_id") or new_id("req"))
        response.headers.add("X-Content-Type-Options", "nosniff")
        services.limits.mark(response)
        return response

    app.before_request(enter)
    app.after_request(leave)
    app.register_error_handler(KeyMissingError, _challenge)
    app.register_error_handler(KeyInvalidError, _challenge)
    app.register_error_handler(ScopeMissingError, _challenge)


def name_request(request: Request) -> None:
    """Take the caller's X-Request-Id if it is harmless, else make one."""
    asked = request.headers.get("X-Request-Id")
    name = asked if asked and REQUEST_ID.fullmatch(asked) else new_id("req")
    g.request_id = name
    # The only one we bind: it takes the place of the request before on this connection.
    structlog.contextvars.bind_contextvars(request_id=name)


def admit(services: Services, request: Request) -> None:
    """Let the request through or raise why not."""
    view = current_app.view_functions.get(request.endpoint or "")
    endpoint = about(view)
    if endpoint is None or endpoint.scope is None:
        return  # no such route (404 or 405 follows), our own static files, or open to all
    caller = identify(services, endpoint, request)
    g.caller = caller
    _check_scope(caller, endpoint.scope)
    services.limits.charge(endpoint.pace, caller)


def identify(services: Services, endpoint: Endpoint, request: Request) -> Caller:
    """Raises KeyMissingError, KeyInvalidError, a signature's errors, DatabaseAwayError."""
    header = request.headers.get("Authorization")
    if header is None and endpoint.signed and "signature" in request.args:
        return _signed(services, request)
    if header is None:
        raise KeyMissingError
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_CHARS:
        raise KeyInvalidError("send Authorization: Bearer <key>")
    # Keys are ASCII; anything else would only fail later, in the encoder.
    caller = services.authenticate(token) if token.isascii() and token.isprintable() else None
    if caller is None:
        raise KeyInvalidError
    return caller


def _signed(services: Services, request: Request) -> Caller:
    """The owner of an image, as the bearer of a signed link stands for them, for reading only."""
    args = request.args
    index, expires = args.get("index", "0"), args.get("expires", "")
    account_id, kid = args.get("account", ""), args.get("kid", "")
    numeric = re.fullmatch(r"[0-9]{1,4}", index) and re.fullmatch(r"[0-9]{1,12}", expires)
    services.signer.check(
        request.path,
        account_id=account_id,
        index=int(index) if numeric else -1,
        expires=int(expires) if numeric else 0,
        kid=kid,
        signature=args.get("signature", ""),
    )
    g.link_expires = int(expires)
    return Caller(account_id, "", f"link:{kid}", frozenset({"jobs:read"}))


def _check_scope(caller: Caller, scope: Scope) -> None:
    if scope not in caller.scopes and "admin" not in caller.scopes:
        raise ScopeMissingError(f"this needs the scope {scope}", scope=scope)


def _challenge(error: ServiceError) -> Response:
    """RFC 6750: without a key no error word, with a bad one its reason."""
    challenge = 'Bearer realm="darkroom"'
    if isinstance(error, KeyInvalidError):
        challenge += ', error="invalid_token"'
    if isinstance(error, ScopeMissingError):
        challenge += f', error="insufficient_scope", scope="{error.facts["scope"]}"'
    return answer(error.code, error.detail, {"WWW-Authenticate": challenge}, **error.facts)
