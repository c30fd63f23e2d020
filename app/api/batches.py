"""Batches: many orders by one request or by a file, each accepted or refused by itself."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from io import BytesIO
from typing import Any, cast

from flask import Blueprint, Response, g, request
from pydantic import ValidationError

from app.api import batch_results
from app.api.tasks import renderer
from app.http.bodies import faults_of, parse_list_of, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError, UnsupportedMediaTypeError
from app.http.links import base as base_here
from app.http.responses import json_answer
from app.http.strict_request import StrictRequest
from app.orders import idempotency_key
from app.services import Services, services
from app.shapes.batch_json import BATCHES, batch_json
from app.shapes.schemas.base import Empty
from app.shapes.schemas.batches import (
    DAY_S,
    MAX_INLINE,
    BatchBody,
    BatchesQuery,
    BatchList,
    BatchOut,
    BatchQuery,
    BatchResult,
    ResultsQuery,
)
from core.errors import UnavailableError
from core.wire import json_text
from jobs.batches import moves
from jobs.batches.moves import NewBatch
from jobs.errors import FieldFault, IdempotencyMismatchError
from jobs.reads import batches
from jobs.reads.batches import Batch
from jobs.submission.idempotency import IdempotencyKey, TakenError
from storage.base import StorageUnavailableError

bp = Blueprint("batches", __name__, url_prefix=BATCHES)

JSONL = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/ndjson")
# How long the web process has for the lines of a request before a worker goes on with them.
LEASE_S = 30.0
RETRY_AFTER_S = 2


@bp.post("")
@describe(
    Endpoint(
        "Submit many orders",
        "batches",
        (
            Answer(
                202,
                "The batch. Orders that came with the request are submitted: `lines` has the task of each, or why it"
                " was refused.",
                BatchOut,
                headers=("Location", "Retry-After", "Idempotent-Replayed"),
            ),
        ),
        scope="jobs:write",
        pace="submit",
        errors=(
            *("malformed_json", "invalid_request", "unsupported_media_type", "request_too_large"),
            *("upload_not_found", "upload_gone", "too_many_uploads", "idempotency_key_invalid"),
            *("idempotency_mismatch", "storage_unavailable"),
        ),
        body=BatchBody,
        request_headers=("Idempotency-Key",),
        description='Up to 1,000 orders as `{"orders": [...]}`, or one JSON object a line as `application/jsonl`;'
        " or up to 100,000 as a file of lines (`input_file_id`), which are submitted at the pace of the account's"
        " window. Each order is admitted by itself, as if it had been sent alone: its price is reserved when it is"
        " accepted, and a refused one costs nothing and stops no other.",
    )
)
def create() -> Response:
    read_query(Empty, request.args)
    asked = cast("StrictRequest", request._get_current_object())  # type: ignore[attr-defined]
    if asked.mimetype in JSONL:
        return _of_lines(asked)
    if not asked.is_json:
        raise UnsupportedMediaTypeError(f"send the orders as application/json, or one a line as {JSONL[0]}")
    raw = asked.get_data(cache=True)
    key = idempotency_key.read_for(asked, hashlib.sha256(raw).digest())
    if earlier := _earlier(key):
        return _replayed(earlier)
    body = _body(raw)
    new = {"window_s": float(body.completion_window_s or DAY_S), "metadata": body.metadata or {}}
    if body.orders is None:
        file_id = body.input_file_id or body.input_upload_id or ""
        return _made(_created(key, file_id, new, lease_s=0.0), lines=False)
    data = b"".join(json_text(order).encode() + b"\n" for order in body.orders)
    inline = len(body.orders)
    del body, raw
    asked.let_go()
    return _submitted(key, data, inline, new)


def _of_lines(asked: StrictRequest) -> Response:
    """The orders are the body, one a line."""
    data = asked.get_data(cache=False)
    key = idempotency_key.read_for(asked, hashlib.sha256(data).digest())
    if earlier := _earlier(key):
        return _replayed(earlier)
    return _submitted(key, data, MAX_INLINE, {"window_s": float(DAY_S), "metadata": {}})


def _body(raw: bytes) -> BatchBody:
    try:
        body = BatchBody.model_validate(parse_list_of(raw, "orders", MAX_INLINE))
    except ValidationError as error:
        raise InvalidRequestError(faults_of(error, BatchBody.model_fields)) from None
    given = [name for name in ("orders", "input_file_id", "input_upload_id") if getattr(body, name) is not None]
    if len(given) != 1:
        code, words = ("conflict", f"goes without {given[0]}") if given else ("required", "or input_file_id is needed")
        raise InvalidRequestError([FieldFault(given[1] if given else "orders", code, words)])
    return body


def _submitted(key: IdempotencyKey | None, data: bytes, most: int, new: dict[str, Any]) -> Response:
    """A batch of the orders in a request: kept first, so that none is lost, then submitted one by one."""
    service = services()
    file = service.files.keep(g.caller.account_id, BytesIO(data), max_lines=most)
    return _go_on(service, _created(key, file.id, new, lease_s=LEASE_S))


def _created(key: IdempotencyKey | None, file_id: str, new: dict[str, Any], *, lease_s: float) -> Batch:
    """The batch; one that another request with the same key was first to make, otherwise."""
    wanted = NewBatch(
        dialect="native",
        input_file_id=file_id,
        completion_window=f"{new['window_s']:.0f}s",
        window_s=new["window_s"],
        metadata=new["metadata"],
        key=(key.key, key.fingerprint) if key else None,
        request_id=g.request_id,
        checked=True,  # what is wrong with a line is told by that line
        lease_s=lease_s,
    )
    connections = services().connections
    try:
        return connections.transaction(moves.create, g.caller.account_id, g.caller.key_id, wanted)
    except TakenError:
        found = _earlier(key)
        if found is None:
            raise
        return found


def _earlier(key: IdempotencyKey | None) -> Batch | None:
    """The batch of an earlier request with this key. Raises IdempotencyMismatchError."""
    if key is None:
        return None
    found = services().connections.autocommit(batches.find_by_key, g.caller.account_id, key.key)
    if found is not None and found.fingerprint != key.fingerprint:
        raise IdempotencyMismatchError("this Idempotency-Key was used with another request")
    return found


def _go_on(service: Services, batch: Batch) -> Response:
    # What cannot be submitted now is the workers' to submit: nothing that was accepted is lost.
    with suppress(UnavailableError, StorageUnavailableError):
        service.feeder.submit_now(batch)
    return _made(batch, lines=True)


def _replayed(batch: Batch) -> Response:
    response = _made(batch, lines=batch.total <= MAX_INLINE)
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _made(batch: Batch, *, lines: bool) -> Response:
    connections, base = services().connections, base_here()
    now = connections.autocommit(batches.find_batch, batch.account_id, batch.id)
    shown = connections.autocommit(batches.lines_page, batch.id, first=0, limit=MAX_INLINE) if lines else None
    headers = {"Location": f"{base}{BATCHES}/{batch.id}", "Retry-After": str(RETRY_AFTER_S)}
    return json_answer(batch_json(now, base, shown), 202, headers)


@bp.get("")
@describe(
    Endpoint(
        "List batches, newest first",
        "batches",
        (Answer(200, "One page.", BatchList),),
        errors=("invalid_request",),
        query=BatchesQuery,
    )
)
def list_all() -> Response:
    query = read_query(BatchesQuery, request.args)
    found = services().connections.autocommit(
        batches.list_batches, g.caller.account_id, before_id=query.cursor, limit=query.limit + 1
    )
    page, base = found[: query.limit], base_here()
    return json_answer(
        {
            "object": "list",
            "data": [batch_json(each, base) for each in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )


@bp.get("/<batch_id>")
@describe(
    Endpoint(
        "Read a batch",
        "batches",
        (Answer(200, "The batch, and how far it is.", BatchOut, headers=("Retry-After",)),),
        pace="read",
        errors=("batch_not_found", "invalid_request"),
        query=BatchQuery,
    )
)
def read(batch_id: str) -> Response:
    query = read_query(BatchQuery, request.args)
    connections = services().connections
    batch = _found(batch_id)
    lines = None
    if query.lines:
        lines = connections.autocommit(batches.lines_page, batch.id, first=query.first_line, limit=query.lines)
    headers = {} if batch.ended else {"Retry-After": str(RETRY_AFTER_S)}
    return json_answer(batch_json(batch, base_here(), lines), headers=headers)


@bp.post("/<batch_id>/cancel")
@describe(
    Endpoint(
        "Cancel a batch",
        "batches",
        (
            Answer(
                202, "It is being cancelled: nothing more of it is submitted, and its tasks are cancelled.", BatchOut
            ),
        ),
        scope="jobs:write",
        errors=("batch_not_found", "batch_ended"),
    )
)
def cancel(batch_id: str) -> Response:
    read_query(Empty, request.args)
    batch = services().connections.transaction(moves.cancel, g.caller.account_id, batch_id)
    return json_answer(batch_json(batch, base_here()), 202)


@bp.get("/<batch_id>/results")
@describe(
    Endpoint(
        "Fetch what a batch made",
        "batches",
        (
            Answer(
                200,
                "One JSON object a line, with the task or the error of each order submitted so far, in their order; or"
                " a ZIP of the images.",
                BatchResult,
                media_types=("application/jsonl", "application/zip"),
                headers=("Content-Disposition",),
            ),
        ),
        pace="read",
        errors=("batch_not_found", "invalid_request"),
        query=ResultsQuery,
        description="A ZIP has the images of at most 5,000 lines, as `<line>-<custom_id>-<index>.<type>`; go on with"
        " `first_line`.",
    )
)
def results(batch_id: str) -> Response:
    query = read_query(ResultsQuery, request.args)
    batch = _found(batch_id)
    if query.format == "zip":
        return batch_results.as_zip(services(), batch, query.first_line)
    return batch_results.as_lines(services(), batch, renderer(), query.first_line)


def _found(batch_id: str) -> Batch:
    return services().connections.autocommit(batches.find_batch, g.caller.account_id, batch_id)
