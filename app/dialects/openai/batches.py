"""OpenAI's batches of image orders: ``/v1/batches``. Their files are those of ``/v1/files``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Blueprint, Response, g, request

from app.dialects.openai.batch_lines import ROUTES
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.openai_batches import (
    OpenAiBatch,
    OpenAiBatchBody,
    OpenAiBatches,
    OpenAiBatchesQuery,
)
from jobs.batches import moves
from jobs.batches.moves import NewBatch
from jobs.errors import BatchNotFoundError, FieldFault, UploadGoneError, UploadNotFoundError
from jobs.reads import batches
from jobs.reads.batches import Batch

bp = Blueprint("openai_batches", __name__, url_prefix="/v1/batches")

WINDOW_S = 24 * 3600.0


@bp.post("")
@describe(
    Endpoint(
        "Order a batch of images",
        "openai",
        (Answer(200, "The batch, whose file is looked at next.", OpenAiBatch),),
        scope="jobs:write",
        pace="submit",
        errors=("malformed_json", "invalid_request", "unsupported_media_type", "request_too_large"),
        body=OpenAiBatchBody,
        description=f"As OpenAI's route of this address, for {' and '.join(ROUTES)}. Each line is submitted as the"
        " order of its own that it is, at the pace of the account's window; a line at fault is in the error file.",
    )
)
def create() -> Response:
    body = read_body(OpenAiBatchBody, request)
    new = NewBatch(
        dialect="openai",
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        window_s=WINDOW_S,
        metadata=body.metadata,
        request_id=g.request_id,
    )
    try:
        batch = services().connections.transaction(moves.create, g.caller.account_id, g.caller.key_id, new)
    except (UploadNotFoundError, UploadGoneError) as error:
        raise InvalidRequestError([FieldFault("input_file_id", "not_found", error.detail)]) from None
    return json_answer(batch_json(batch))


@bp.get("")
@describe(
    Endpoint(
        "List batches, newest first",
        "openai",
        (Answer(200, "One page.", OpenAiBatches),),
        errors=("invalid_request",),
        query=OpenAiBatchesQuery,
    )
)
def list_all() -> Response:
    query = read_query(OpenAiBatchesQuery, request.args)
    found = services().connections.autocommit(
        batches.list_batches, g.caller.account_id, before_id=query.after, limit=query.limit + 1, dialect="openai"
    )
    page = [batch_json(each) for each in found[: query.limit]]
    return json_answer(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > len(page),
        }
    )


@bp.get("/<batch_id>")
@describe(
    Endpoint(
        "Read a batch",
        "openai",
        (Answer(200, "The batch.", OpenAiBatch),),
        pace="read",
        errors=("batch_not_found",),
    )
)
def read(batch_id: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(batch_json(_found(batch_id)))


@bp.post("/<batch_id>/cancel")
@describe(
    Endpoint(
        "Cancel a batch",
        "openai",
        (Answer(200, "The batch, which is being cancelled.", OpenAiBatch),),
        scope="jobs:write",
        errors=("batch_not_found", "batch_ended"),
    )
)
def cancel(batch_id: str) -> Response:
    read_query(Empty, request.args)
    _found(batch_id)
    return json_answer(batch_json(services().connections.transaction(moves.cancel, g.caller.account_id, batch_id)))


def _found(batch_id: str) -> Batch:
    """The caller's batch, where it is one of OpenAI's. Raises BatchNotFoundError."""
    batch: Batch = services().connections.autocommit(batches.find_batch, g.caller.account_id, batch_id)
    if batch.dialect != "openai":
        raise BatchNotFoundError
    return batch


def batch_json(batch: Batch) -> dict[str, Any]:
    """app.shapes.schemas.openai_batches.OpenAiBatch."""
    faults = [dict(each) for each in batch.errors]
    ended = {name: _seconds(batch.ended_at if batch.status == name else None) for name in _ENDS}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _seconds(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": _seconds(batch.expires_at),
        "finalizing_at": _seconds(batch.finalizing_at),
        **{f"{name}_at": moment for name, moment in ended.items()},
        "cancelling_at": _seconds(batch.cancelling_at),
        "request_counts": {
            "total": batch.total,
            "completed": batch.succeeded,
            "failed": batch.failed + batch.refused + batch.cancelled,
        },
        "metadata": dict(batch.metadata) or None,
    }


_ENDS = ("completed", "failed", "expired", "cancelled")


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
