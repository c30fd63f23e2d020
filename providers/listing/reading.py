"""Reading upstreams' lists: a free request, and JSON Schema as fields. Numbers and texts are checked, never trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from providers.errors import NotRun
from providers.http.client import WireRequest
from providers.listing.listed import LIST_TOTAL_S, MAX_LIST_BYTES, Asker, ListedField, ListedModel
from providers.shared.reading import json_object
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

MAX_NAME_CHARS = 200


def ask_json(account: Asker, path: str) -> dict[str, Any]:
    """The JSON object at a path. Raises: ProviderError, of the status for an answer that is none."""
    answer = account.ask(WireRequest("GET", path), total_s=LIST_TOTAL_S, max_bytes=MAX_LIST_BYTES)
    body = json_object(answer.body)
    if not 200 <= answer.status < 300:
        raise by_status(answer.status, f"HTTP {answer.status}", wait_s=retry_after_s(answer.headers, ""))
    if body is None:
        raise NotRun("upstream_broken_answer", "the list of models is no JSON object")
    return body


def items_of(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer. Raises: NotRun where there is no such list."""
    found = body.get(name)
    if not isinstance(found, list):
        raise NotRun("upstream_broken_answer", f"the answer has no list {name!r}")
    return [each for each in found if isinstance(each, dict)]


def named(items: Iterable[Mapping[str, Any]], key: str = "id") -> dict[str, ListedModel]:
    """Models of a list that tells their names, and perhaps the day when they end, as OpenAI's does."""
    models = {}
    for item in items:
        if name := text_of(item.get(key)):
            models[name] = ListedModel(name, gone_on=text_of(item.get("shutdown_date")) or None)
    return models


def text_of(value: object) -> str:
    """The value where it is a text of sane length, else an empty one."""
    return value if isinstance(value, str) and len(value) <= MAX_NAME_CHARS else ""


def decimal_of(value: object) -> Decimal | None:
    """A number of at least zero, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found >= 0 else None


def fields_of(schema: Mapping[str, Any], components: Mapping[str, Any] | None = None) -> dict[str, ListedField]:
    """The properties of a JSON Schema; ``components`` are the schemas that references lead to."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    order = schema.get("x-order-properties")
    places = {name: place for place, name in enumerate(order)} if isinstance(order, list) else {}
    names = sorted(properties, key=lambda name: places.get(name, len(places)))
    return {name: field_of(properties[name], components or {}) for name in names if isinstance(properties[name], dict)}


def required_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """The names of the properties that must be given."""
    found = schema.get("required")
    return frozenset(name for name in found if isinstance(name, str)) if isinstance(found, list) else frozenset()


def field_of(written: Mapping[str, Any], components: Mapping[str, Any]) -> ListedField:
    """One property. References and ``allOf``, ``anyOf`` with null are followed."""
    part = _resolved(written, components)
    items = part.get("items")
    of = items.get("type") if isinstance(items, dict) else None
    kind = part.get("type")
    enum = part.get("enum")
    return ListedField(
        kind=kind if isinstance(kind, str) else ("string" if isinstance(enum, list) and enum else None),
        of=of if isinstance(of, str) else None,
        enum=tuple(enum) if isinstance(enum, list) else (),
        default=part.get("default"),
        low=_number(part.get("minimum")),
        high=_number(part.get("maximum")),
        fewest=_whole(part.get("minItems")),
        most=_whole(part.get("maxItems")),
        is_link=part.get("format") == "uri" or (isinstance(items, dict) and items.get("format") == "uri"),
    )


def _resolved(written: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    part = dict(written)
    for keyword in ("allOf", "anyOf", "oneOf"):
        options = [each for each in part.get(keyword) or [] if isinstance(each, dict) and each.get("type") != "null"]
        if options:
            part = {**_referred(options[0], components), **part}
    return {**_referred(part, components), **part}


def _referred(part: Mapping[str, Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(part.get("$ref", "")).rpartition("/")[2]
    found = components.get(name)
    return {**part, **found} if isinstance(found, dict) else part


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
