"""A line of OpenAI's batches: ``{"custom_id", "method", "url", "body"}``, whose body is that of an image route.

What is wrong with the line makes the whole file no batch, as OpenAI has it; an order at fault is refused by itself.
Workers import this module once a batch is there (docs/decisions/0088-a-batch-is-a-row-and-its-lines.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.dialects.openai import orders
from app.dialects.openai.orders import ResponseFormat, Route
from app.http.bodies import parse_object
from app.http.errors import MalformedJsonError
from jobs.batches.lines import LineRead, ReadLine
from jobs.documents import BatchFault
from jobs.errors import FieldFault
from jobs.reads.batches import Batch
from providers.catalog.catalog import CatalogSource

ROUTES: Mapping[str, Route] = {"/v1/images/generations": "generations", "/v1/images/edits": "edits"}
MEMBERS = ("custom_id", "method", "url", "body")
MAX_CUSTOM_ID_CHARS = 256


def reader(catalogs: CatalogSource, default_format: ResponseFormat) -> ReadLine:
    """What reads the lines of OpenAI's batches. ``default_format``: of answers whose order does not say."""

    def read(batch: Batch, raw: bytes) -> LineRead:
        try:
            members = parse_object(raw)
        except MalformedJsonError as error:
            return LineRead(broken=_broken("invalid_json_line", f"this line is no JSON object: {error.detail}", None))
        if broken := _fault(members, batch.endpoint or ""):
            return LineRead(broken=broken)
        asked = orders.of_members(dict(members["body"]), ROUTES[members["url"]], catalogs.current(), default_format)
        order = asked.order
        if asked.stream:
            streamed = FieldFault("stream", "not_supported", "an order of a batch is not streamed")
            order = replace(order, faults=[*order.faults, streamed])
        return LineRead(members["custom_id"], order)

    return read


def _fault(members: Mapping[str, Any], endpoint: str) -> BatchFault | None:
    custom_id = members.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS:
        words = f"custom_id must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        return _broken("missing_required_parameter", words, "custom_id")
    if members.get("method") != "POST":
        return _broken("invalid_method", "method must be POST", "method")
    if members.get("url") != endpoint:
        return _broken("mismatched_endpoint", f"url must be the endpoint of the batch, {endpoint}", "url")
    if not isinstance(members.get("body"), dict):
        return _broken("missing_required_parameter", "body must be a JSON object", "body")
    if unknown := [name for name in members if name not in MEMBERS]:
        return _broken("unknown_parameter", f"{unknown[0][:100]!r} is no member of a line", unknown[0][:100])
    return None


def _broken(code: str, message: str, param: str | None) -> BatchFault:
    return {"code": code, "message": message, "line": None, "param": param}
