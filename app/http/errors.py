"""The one table from an error's code to its HTTP status, and the one body every error has.

RFC 9457 ``application/problem+json``, with the members that clients of other services look for (``error``,
``error_type``, ``message``), so that every client finds a message to show.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Flask, Response, g, request
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app.http.dialect import Said, dialect_of
from core.db import is_away
from core.errors import DatabaseAwayError, ServiceError, UnavailableError
from jobs.errors import FaultsError, ImageNotReadyError, InvalidOrderError
from storage.base import BlobNotFoundError, MediaBusyError, MediaError, StorageUnavailableError

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"
_IANA = "https://iana.org/assignments/http-problem-types#"
_REDUCED = _IANA + "temporary-reduced-capacity"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means to HTTP. ``help`` is one sentence for the reference page."""

    status: int
    title: str
    help: str
    type: str = ""  # left out: the row of the reference page


CODES: Mapping[str, Kind] = {
    # The request cannot be read
    "bad_request": Kind(400, "Bad request", "The request is not well formed."),
    "malformed_json": Kind(400, "Malformed JSON", "The body is not one JSON object; the position is given."),
    "malformed_form": Kind(400, "Malformed form", "The multipart body cannot be read."),
    "not_acceptable": Kind(406, "Not acceptable", "None of the media types in Accept can be sent."),
    "request_timeout": Kind(408, "Request timeout", "The body did not arrive in time."),
    "request_too_large": Kind(413, "Request too large", "The body, a field or an image exceeds its cap."),
    "uri_too_long": Kind(414, "Address too long", "The address of the request exceeds 4,094 characters."),
    "headers_too_large": Kind(431, "Headers too large", "A header exceeds 8 kB, or there are more than 100."),
    "unsupported_media_type": Kind(415, "Unsupported media type", "Send JSON or multipart/form-data."),
    # The caller
    "key_missing": Kind(401, "Key missing", "Send your key as Authorization: Bearer dk_...."),
    "key_invalid": Kind(401, "Key not valid", "The key is unknown, wrong, expired or revoked."),
    "token_invalid": Kind(401, "Token not valid", "The JWT has expired, or is not for this service; detail says."),
    "scope_missing": Kind(403, "Not permitted", "The key lacks the scope this route needs."),
    "key_paused": Kind(403, "Key paused", "The operator has to let this key on; its accepted tasks go on."),
    "model_not_allowed": Kind(403, "Model not allowed", "The key may not order from this model or its provider."),
    "customer_mismatch": Kind(403, "Another customer", "customer_id is not that of the caller's token or account."),
    "signature_invalid": Kind(403, "Link not valid", "The signed link was altered or its key is gone."),
    "signature_expired": Kind(403, "Link expired", "Read the task again for a fresh signed link."),
    # The resource
    "not_found": Kind(404, "Not found", "There is nothing here, or it belongs to another account."),
    "unknown_operation": Kind(404, "Unknown operation", "No such operation on images."),
    "image_not_found": Kind(404, "No such image", "The task ended without an image of this index."),
    "batch_not_found": Kind(404, "No such batch", "There is no such batch, or it belongs to another account."),
    "upload_not_found": Kind(404, "No such upload", "There is no such upload, or it belongs to another account."),
    "method_not_allowed": Kind(405, "Method not allowed", "The route exists; Allow lists its methods."),
    "image_not_ready": Kind(409, "Not ready", "The task has not ended; ask again after Retry-After."),
    "task_not_ended": Kind(409, "Not ended", "Only an ended task can be deleted; cancel it first."),
    "stale_job": Kind(409, "Moved on", "The task changed meanwhile; read it again."),
    "inputs_gone": Kind(409, "Images deleted", "What the order came with has been deleted; send those images again."),
    "upload_link_used": Kind(409, "Link used", "A link to upload to takes one file; ask for another link."),
    "batch_ended": Kind(409, "Batch ended", "The batch has ended: there is nothing to cancel."),
    "batch_cancelled": Kind(409, "Batch cancelled", "The batch was cancelled before this line was submitted."),
    "batch_expired": Kind(409, "Batch expired", "The batch's time was over before this line was submitted."),
    "file_in_use": Kind(409, "File in use", "A batch that goes on is ordered by this file; cancel it first."),
    "input_gone": Kind(409, "File deleted", "The file of the batch was deleted before this line was submitted."),
    "precondition_failed": Kind(412, "Changed meanwhile", "It is no longer what If-Match names; read it again."),
    "image_gone": Kind(410, "Image deleted", "There was an image; it has been deleted."),
    "upload_gone": Kind(410, "Upload expired", "The upload has expired; upload the image again."),
    "range_not_satisfiable": Kind(416, "Range not satisfiable", "The image has fewer bytes than that."),
    "host_not_allowed": Kind(
        421,
        "Host not known",
        "The answer has absolute links, and this host is not in DARKROOM_PUBLIC_URL or DARKROOM_ALLOWED_HOSTS.",
    ),
    # The order
    "insufficient_credits": Kind(402, "Not enough credits", "The price exceeds what is free to spend."),
    "spending_limit": Kind(402, "Spending limit", "The price exceeds what may be spent by then."),
    "invalid_order": Kind(422, "Order not valid", "errors names every bad field at once."),
    "invalid_request": Kind(422, "Request not valid", "errors names every bad field or parameter at once."),
    "unknown_model": Kind(422, "Unknown model", "No model of this name; see /api/models."),
    "content_refused": Kind(422, "Content refused", "The content rules of this service refuse it; see category."),
    "idempotency_key_invalid": Kind(
        422, "Idempotency key not valid", "Use 1 to 255 printable ASCII characters, quoted or bare."
    ),
    "idempotency_mismatch": Kind(
        422, "Key used for another order", "This Idempotency-Key belongs to an order with another body."
    ),
    "image_too_large_bytes": Kind(413, "Image too large", "A reference image exceeds its size cap."),
    "url_too_large": Kind(413, "Image too large", "The image at a URL exceeds its size cap."),
    "not_an_image": Kind(415, "Not an image", "The bytes are no PNG, JPEG, WebP, GIF or AVIF image."),
    "unsupported_image_type": Kind(415, "Image type not taken", "Send PNG, JPEG, WebP, GIF or AVIF."),
    "truncated_image": Kind(422, "Image ends early", "The file ends before its image does."),
    "image_undecodable": Kind(422, "Image damaged", "The image cannot be decoded."),
    "image_too_many_pixels": Kind(422, "Too many pixels", "Too many pixels, or too long an edge."),
    "image_too_many_frames": Kind(422, "Too many frames", "The animation has too many frames."),
    "too_many_variants": Kind(422, "Too many variants", "No further sizes and formats of this image are made."),
    "too_many_uploads": Kind(422, "Too many uploads", "The account keeps as many uploads, or bytes, as it may."),
    "trailing_data": Kind(422, "Data after the image", "The file goes on after the end of its image."),
    "mask_size_mismatch": Kind(422, "Mask does not fit", "A mask has the size of the image it applies to."),
    "key_not_found": Kind(404, "No such key", "There is no API key of this id."),
    "key_ended": Kind(409, "Key ended", "The key is revoked or has expired; make another one."),
    "last_admin_key": Kind(409, "Last admin key", "No other key could let it on; make another one first."),
    "event_not_found": Kind(404, "No such event", "No rule has tripped under this id, or it has been deleted."),
    "rule_not_found": Kind(404, "No such rule", "The installation has no rule of this name."),
    "account_not_found": Kind(404, "No such account", "There is no account of this id or name."),
    "account_exists": Kind(409, "Account exists", "Another account has this name or external id."),
    "own_account": Kind(409, "Your own account", "An administrator's key cannot disable the account it belongs to."),
    "not_enough_to_take": Kind(409, "Not so many credits", "More cannot be taken back than is free to spend."),
    "provider_key_not_found": Kind(404, "No such key", "The account has stored no key of its own of this provider."),
    "provider_key_paused": Kind(
        409, "Your own key is paused", "Your own key of the provider is paused: replace it, resume it or delete it."
    ),
    "provider_key_refused": Kind(422, "Key refused", "The provider does not take this key; it was not stored."),
    "too_many_webhooks": Kind(422, "Too many webhooks", "Delete one that is not needed any more."),
    "no_operator_webhook": Kind(409, "No webhook of the operator", "DARKROOM_OPERATOR_WEBHOOK_URL is not set."),
    "webhook_disabled": Kind(409, "Webhook disabled", "Enable it first; disabled_reason says why it is."),
    # The service
    "enhancer_not_configured": Kind(
        503, "No enhancer configured", "The operator has set up no upstream that enhances prompts."
    ),
    "provider_keys_off": Kind(
        503, "No keys of your own here", "The operator has not set DARKROOM_OWN_KEYS_SECRET: no keys can be stored."
    ),
    "token_keys_unavailable": Kind(
        503, "Keys of tokens away", "The keys of the issuer of tokens cannot be fetched; try again.", _REDUCED
    ),
    "task_refused": Kind(422, "Task refused", "The order was refused, as failure_code says; nothing was charged."),
    "task_failed": Kind(502, "Task failed", "No image was made, as failure_code says; nothing was charged."),
    "task_timed_out": Kind(504, "Task out of time", "No image was made in time; nothing was charged."),
    "task_unavailable": Kind(
        503, "Task not possible now", "No image could be made now, as failure_code says; nothing was charged."
    ),
    "task_cancelled": Kind(409, "Task cancelled", "The task was cancelled while it was waited for."),
    "upstream_failed": Kind(502, "Upstream failed", "The upstream did not answer as it should."),
    "rate_limited": Kind(
        429, "Too many requests", "Wait for Retry-After seconds.", _IANA + "quota-exceeded"
    ),
    "internal_error": Kind(500, "Internal error", "Our fault; quote request_id when you report it."),
    "screening_unavailable": Kind(
        503, "Screening unavailable", "What is asked for cannot be screened at the moment; try again.", _REDUCED
    ),
    "service_unavailable": Kind(
        503, "Unavailable", "Try again after Retry-After.", _REDUCED
    ),
    "database_unavailable": Kind(
        503, "Database unavailable", "Try again; with an Idempotency-Key nothing can be ordered twice.", _REDUCED
    ),
    "storage_unavailable": Kind(
        503, "Storage unavailable", "The image store is away; try again.", _REDUCED
    ),
}  # fmt: skip

_BY_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    413: "request_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    431: "headers_too_large",
}
_OPENAI_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# An image at fault has its own statuses, whether it came as bytes or by URL.
_IMAGE_CODES = ("image_too_large_bytes", "url_too_large", "not_an_image", "unsupported_image_type")


class MalformedJsonError(ServiceError):
    """The body is not one JSON object that can be stored."""

    code = "malformed_json"


class MalformedFormError(ServiceError):
    """The multipart body cannot be read."""

    code = "malformed_form"


class UnsupportedMediaTypeError(ServiceError):
    """The body is of a media type that the route does not take."""

    code = "unsupported_media_type"


class NotAcceptableError(ServiceError):
    """The route sends none of the media types in Accept."""

    code = "not_acceptable"


class InvalidRequestError(FaultsError):
    """Query or body of anything but an order; the answer names every bad member."""

    code = "invalid_request"


class IdempotencyKeyError(ServiceError):
    """The header Idempotency-Key is malformed."""

    code = "idempotency_key_invalid"


class EnhancerNotConfiguredError(ServiceError):
    """No configured provider enhances prompts."""

    code = "enhancer_not_configured"


class UpstreamFailedError(ServiceError):
    """The upstream of a request that is answered directly has failed."""

    code = "upstream_failed"


def problem(code: str, detail: str = "", **facts: Any) -> dict[str, Any]:
    """The body of an error of this request. ``facts`` become members unless a name is taken."""
    return document(code, detail, instance=request.path, request_id=g.get("request_id", ""), **facts)


def document(code: str, detail: str = "", *, instance: str, request_id: str, **facts: Any) -> dict[str, Any]:
    """The same, for what is no request that Flask knows of."""
    kind = CODES[code]
    detail = detail or kind.help
    errors = facts.get("errors") or ()
    body = {
        "type": kind.type or f"/docs#error-{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
        "error": {
            "message": detail,
            "type": _OPENAI_TYPES.get(kind.status, "server_error" if kind.status >= 500 else "invalid_request_error"),
            "param": errors[0]["field"] if errors else None,
            "code": code,
        },
        "error_type": code,
        "message": detail,
    }
    return {**facts, **body}


def answer(code: str, detail: str = "", headers: Mapping[str, str] | None = None, **facts: Any) -> Response:
    """An error as the caller gets it: in the words of the dialect whose path was asked for, else as a problem."""
    body = problem(code, detail, **facts)
    dialect = dialect_of(request.path)
    said = dialect.say(body) if dialect else Said(body, body["status"], PROBLEM_JSON)
    response = Response(json.dumps(said.body, ensure_ascii=False), status=said.status, content_type=said.content_type)
    response.headers.update(headers or {})
    response.headers.update(said.headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def install(app: Flask) -> None:
    """Route every error of the app through this module."""
    app.register_error_handler(ServiceError, _service_error)
    app.register_error_handler(MediaError, _media_error)
    app.register_error_handler(StorageUnavailableError, _storage_away)
    app.register_error_handler(BlobNotFoundError, _blob_missing)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _accident)


def _service_error(error: ServiceError) -> Response:
    code = _code_of(error)
    if code not in CODES:
        if "errors" not in error.facts:
            return _accident(error)
        code = "invalid_order"
    return answer(code, error.detail, _headers_of(error), **error.facts)


def _code_of(error: ServiceError) -> str:
    """Faults of one code that has a status of its own get that status."""
    if isinstance(error, InvalidOrderError):
        codes = {fault.code for fault in error.faults}
        if len(codes) == 1 and (only := codes.pop()) in (*_IMAGE_CODES, "unknown_model"):
            return only
    return error.code


def _headers_of(error: ServiceError) -> dict[str, str]:
    if isinstance(error, UnavailableError | ImageNotReadyError):
        return {"Retry-After": str(error.retry_after_s)}
    return {}


def _media_error(error: MediaError) -> Response:
    code = error.code if error.code in CODES else "image_undecodable"
    return answer(code, error.detail, errors=[{"field": "", "code": error.code, "message": error.detail}])


def _storage_away(error: StorageUnavailableError) -> Response:
    log.warning("storage_unavailable", error=type(error).__name__, reason=str(error))
    busy = isinstance(error, MediaBusyError)
    detail = "every image decoder is busy; try again" if busy else ""
    return answer("storage_unavailable", detail, {"Retry-After": "5"})


def _blob_missing(_error: BlobNotFoundError) -> Response:
    # Its row was there: the image was deleted in between, or its bytes are lost, which `darkroom doctor` finds.
    log.error("blob_missing", path=request.path)
    return answer("image_gone")


def _http_error(error: HTTPException) -> Response:
    """Errors of Flask and Werkzeug, whose HTML is of no use to an API's callers."""
    status = error.code or 500
    if status < 400:
        return Response(status=status, headers=dict(error.get_headers()))
    code = _BY_STATUS.get(status, "bad_request" if status < 500 else "internal_error")
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return answer(code, _WORDS.get(status, ""), headers)


_WORDS = {
    404: "there is no such route",
    405: "this route does not take that method",
    413: "the request, one of its fields or the number of its parts is too large",
}


def _accident(error: Exception) -> Response:
    """An unexpected exception. Its message stays out of the log, for it may quote the caller's words."""
    if isinstance(error, DBAPIError) and is_away(error):
        return _service_error(DatabaseAwayError("the database cannot be reached"))
    log.error(
        "request_failed",
        error=type(error).__name__,
        method=request.method,
        path=request.path,
        where="".join(traceback.format_tb(error.__traceback__)),
    )
    return answer("internal_error")
