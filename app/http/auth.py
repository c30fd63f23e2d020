"""The guard before every route: request id, caller, scope, limit.

Closed by default: a route's description (app/http/endpoint.py) says what it needs, and the app does not start with a
route that has none. The caller who passes is ``g.caller``; every query below is narrowed to its account.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from flask import Flask, Request, Response, current_app, g
from flask.globals import request_ctx

from accounts.keys import Caller
from accounts.tokens import TokenRefusedError
from app.http import limit_headers
from app.http.accept import check_accept
from app.http.dialect import NATIVE_SCHEMES, dialect_of
from app.http.endpoint import Endpoint, Scope, about
from app.http.errors import answer
from app.http.limits import RateLimits
from app.http.signing import SignatureExpiredError, SignatureInvalidError, Signer
from app.http.tallies import Tallies
from core.errors import ServiceError
from core.ids import new_id

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
MAX_TOKEN_CHARS = 4096  # of a JWT with many claims; keys have 59


class KeyMissingError(ServiceError):
    """The request has no Authorization header."""

    code = "key_missing"


class KeyInvalidError(ServiceError):
    """The key is malformed, unknown, expired or revoked."""

    code = "key_invalid"


class ScopeMissingError(ServiceError):
    """The key is valid and lacks the scope of the route."""

    code = "scope_missing"


class KeyPausedError(ServiceError):
    """The key is good, and paused until an operator lets it on."""

    code = "key_paused"


@dataclass(frozen=True, slots=True)
class Guard:
    """What the guard asks. ``authenticate`` returns the caller behind a token, None for one that is not valid, and
    raises TokenRefusedError where it says why; ``knows_key`` whether a token was valid lately."""

    authenticate: Callable[[str], Caller | None]
    knows_key: Callable[[str], bool]
    limits: RateLimits
    signer: Signer
    tallies: Tallies = field(default_factory=Tallies)


def install(app: Flask, guard: Guard) -> None:
    """Put the guard before every route of the app, and the headers that every answer has after it."""

    def enter() -> None:
        asked = request_ctx.request  # looked up once: every use of Flask's proxy costs
        g.began_s = time.monotonic()
        name_request(asked)
        admit(guard, asked)

    def leave(response: Response) -> Response:
        # Added, not set: nothing else sets them, and setting searches all the others.
        response.headers.add("X-Request-Id", g.get("request_id") or new_id("req"))
        response.headers.add("X-Content-Type-Options", "nosniff")
        limit_headers.mark(response)
        if (dialect := dialect_of(request_ctx.request.path)) and dialect.finish:
            dialect.finish(response)
        return response

    app.before_request(enter)
    app.after_request(leave)
    app.register_error_handler(KeyMissingError, _challenge)
    app.register_error_handler(KeyInvalidError, _challenge)
    app.register_error_handler(ScopeMissingError, _challenge)
    app.register_error_handler(TokenRefusedError, _challenge)


def name_request(request: Request) -> None:
    """Take the caller's X-Request-Id if it is harmless, else make one."""
    asked = request.headers.get("X-Request-Id")
    name = asked if asked and REQUEST_ID.fullmatch(asked) else new_id("req")
    g.request_id = name
    # The only variable we bind: it replaces that of the previous request on this connection.
    structlog.contextvars.bind_contextvars(request_id=name)


def admit(guard: Guard, request: Request) -> None:
    """Let the request through. Raises what :func:`identify` raises, ScopeMissingError, RateLimitedError,
    NotAcceptableError."""
    if request.method == "OPTIONS":
        return  # answered with the methods of the route, which /openapi.json tells everyone
    view = current_app.view_functions.get(request.endpoint or "")
    endpoint = about(view)
    if endpoint is None:
        guard.limits.charge_address(request.remote_addr or "")
        return  # no such route (404 or 405 follows), or our own static files
    if endpoint.scope is None:
        if not endpoint.spared:
            guard.limits.charge_address(request.remote_addr or "")
        check_accept(endpoint, request)
        return
    try:
        caller = identify(guard, endpoint, request)
    except _NOT_SIGNED_IN:
        guard.limits.charge_address(request.remote_addr or "")
        raise
    g.caller = caller
    guard.tallies.request(caller.key_id)
    _check_scope(caller, endpoint.scope)
    guard.limits.charge(endpoint.pace, caller, spared=endpoint.spared)
    check_accept(endpoint, request)


_NOT_SIGNED_IN = (KeyMissingError, KeyInvalidError, TokenRefusedError, SignatureInvalidError, SignatureExpiredError)


def identify(guard: Guard, endpoint: Endpoint, request: Request) -> Caller:
    """Who calls, by signed link, key or token. A client that sends its header with every address may send it with a
    signed one, and either is enough. Raises KeyMissingError, KeyInvalidError, TokenRefusedError, SignatureInvalidError,
    SignatureExpiredError, KeyPausedError, KeysAwayError, DatabaseAwayError."""
    header = request.headers.get("Authorization")
    if endpoint.signed and "signature" in request.args:
        try:
            return _signed(guard, request)
        except (SignatureInvalidError, SignatureExpiredError):
            if header is None:
                raise
    if header is None:
        raise KeyMissingError
    scheme, _, token = header.partition(" ")
    token = token.strip()
    dialect = dialect_of(request.path)
    schemes = dialect.schemes if dialect else NATIVE_SCHEMES
    if scheme.lower() not in schemes or not token or len(token) > MAX_TOKEN_CHARS:
        raise KeyInvalidError(f"send Authorization: {schemes[0].capitalize()} <key>")
    return _of_key(guard, token, request.remote_addr or "")


def _of_key(guard: Guard, token: str, address: str) -> Caller:
    """Who calls by a key or a token. An address that sends wrong ones again and again is sent away before the database
    is asked; a key that was good here lately still opens, who else may sit behind the same address."""
    # Keys are ASCII; other text would fail in the encoder.
    sound = token.isascii() and token.isprintable()
    if not (sound and guard.knows_key(token)):
        guard.limits.check_wrong_keys(address)
    try:
        caller = guard.authenticate(token) if sound else None
    except TokenRefusedError:
        guard.limits.charge_wrong_key(address)
        guard.tallies.wrong_key(token, address)
        raise
    if caller is None:
        guard.limits.charge_wrong_key(address)
        guard.tallies.wrong_key(token, address)
        raise KeyInvalidError
    if caller.paused:
        raise KeyPausedError
    return caller


def _signed(guard: Guard, request: Request) -> Caller:
    """The owner of an image, with the right to read only, for the holder of a signed link."""
    args = request.args
    index, expires = args.get("index", "0"), args.get("expires", "")
    account_id, kid = args.get("account", ""), args.get("kid", "")
    numeric = re.fullmatch(r"[0-9]{1,4}", index) and re.fullmatch(r"[0-9]{1,12}", expires)
    guard.signer.check(
        request.path,
        account_id=account_id,
        index=int(index) if numeric else -1,
        expires=int(expires) if numeric else 0,
        kid=kid,
        signature=args.get("signature", ""),
        variant=args,
    )
    g.link_expires = int(expires)
    return Caller(account_id, key_id=f"link:{kid}", scopes=frozenset({"jobs:read"}))


def _check_scope(caller: Caller, scope: Scope) -> None:
    if scope not in caller.scopes and "admin" not in caller.scopes:
        raise ScopeMissingError(f"this needs the scope {scope}", scope=scope)


def _challenge(error: ServiceError) -> Response:
    """A 401 or 403 with its challenge (RFC 6750): no error word without a key, the reason with a bad one."""
    challenge = 'Bearer realm="darkroom"'
    if isinstance(error, KeyInvalidError | TokenRefusedError):
        challenge += ', error="invalid_token"'
    if isinstance(error, ScopeMissingError):
        challenge += f', error="insufficient_scope", scope="{error.facts["scope"]}"'
    return answer(error.code, error.detail, {"WWW-Authenticate": challenge}, **error.facts)
