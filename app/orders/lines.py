"""A line of a native batch: one JSON object that is an order, with its operation and the caller's own name for it.

Workers import this module, which loads Flask, and only once a batch is there
(docs/decisions/0088-a-batch-is-a-row-and-its-lines.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.http.bodies import parse_object
from app.http.errors import MalformedJsonError
from app.orders import request_body
from app.orders.forms import kinds_of
from app.orders.operations import operation_of
from jobs.batches.lines import LineRead, ReadLine
from jobs.documents import StoredRefusal
from jobs.errors import FieldFault, UnknownOperationError
from jobs.reads.batches import Batch
from providers.catalog.catalog import CatalogSource

MAX_CUSTOM_ID_CHARS = 256


def reader(catalogs: CatalogSource) -> ReadLine:
    """What reads the lines of native batches."""

    def read(_batch: Batch, raw: bytes) -> LineRead:
        try:
            members = parse_object(raw)
        except MalformedJsonError as error:
            return LineRead(refused=refusal(error.code, error.detail))
        return line_of(members, kinds_of(catalogs.current()))

    return read


def line_of(members: Mapping[str, Any], kinds: Mapping[str, str]) -> LineRead:
    """The line in the members of an object. ``kinds`` as in :func:`app.orders.request_body.read`."""
    fields = dict(members)
    named, custom_id = fields.pop("operation", None), fields.pop("custom_id", "")
    body = request_body.of_members(fields, kinds)
    if not isinstance(custom_id, str) or len(custom_id) > MAX_CUSTOM_ID_CHARS:
        words = f"must be a text of at most {MAX_CUSTOM_ID_CHARS} characters"
        body.faults.append(FieldFault("custom_id", "wrong_type", words))
        custom_id = ""
    if named is not None and not isinstance(named, str):
        body.faults.append(FieldFault("operation", "wrong_type", "must be a text"))
        named = None
    try:
        operation = operation_of(named or ("edit" if body.images else "generate"))
    except UnknownOperationError as error:
        return LineRead(custom_id, refused=refusal(error.code, error.detail, error.facts))
    return LineRead(custom_id, body.order(operation))


def refusal(code: str, detail: str, facts: Mapping[str, Any] | None = None) -> StoredRefusal:
    """Why a line is no order."""
    return {"code": code, "detail": detail, "facts": dict(facts or {})}
