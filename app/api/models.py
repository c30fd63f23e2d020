"""The catalogue as callers see it: what can be made, with which limits, at what price."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, g, request

from app import allowance
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.responses import json_answer, not_modified, unchanged
from app.orders.operations import IN_URL, OPERATIONS
from app.services import Services, services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.models import ModelDetail, ModelList, ModelsQuery, Recommendations, RecommendQuery
from core.errors import ServiceError
from jobs.errors import FieldFault
from jobs.submission.recommendations import Offer, recommend, takes
from providers.catalog.catalog import Catalog, Model, UnknownModelError
from providers.catalog.ranking import asks_for_more, ranked
from providers.orders.near import did_you_mean
from quota.prices import MICROCREDITS_PER_CREDIT, credits_text

bp = Blueprint("models", __name__, url_prefix="/api/models")


class ModelNotFoundError(ServiceError):
    """The address names no model; in an order the same is ``unknown_model``."""

    code = "not_found"


@bp.get("")
@describe(
    Endpoint(
        "List models",
        "models",
        (
            Answer(200, "The models that meet every filter.", ModelList, headers=("ETag",)),
            Answer(304, "Unchanged since the ETag in If-None-Match.", headers=("ETag",)),
        ),
        errors=("invalid_request",),
        query=ModelsQuery,
        request_headers=("If-None-Match",),
        description="Those that the key may use. A filter that names an operation, provider or capability that no model"
        " has is refused.",
    )
)
def list_models() -> Response:
    query = read_query(ModelsQuery, request.args)
    parts, catalog = services(), services().catalog
    found = _filtered(parts, catalog, catalog.select(status=query.status), query)
    if query.configured:
        found = [each for each in found if (each.provider in parts.configured) == (query.configured == "true")]
    data = [_summary(parts, model) for model in found]
    return _tagged({"object": "list", "catalog_version": catalog.version, "data": data})


@bp.get("/recommend")
@describe(
    Endpoint(
        "Recommend models for an operation",
        "models",
        (Answer(200, "Models that can run here, each with its reasons.", Recommendations),),
        errors=("invalid_request",),
        query=RecommendQuery,
        description="The list is short: one model for each thing that may matter, and none without a reason.",
    )
)
def recommend_models() -> Response:
    query = read_query(RecommendQuery, request.args)
    parts, catalog = services(), services().catalog
    operation = OPERATIONS.get(query.operation, "")
    able = _filtered(parts, catalog, ranked(catalog, operation, frozenset(parts.configured), "quality"), query)
    able = [each for each in able if takes(each, operation, images=query.images, mask=query.mask == "true")]
    offer = Offer(
        operation=operation,
        by_quality=able,
        by_price=sorted(able, key=lambda each: (asks_for_more(each, operation), _unit(parts, each), each.cost_usd)),
        default=parts.submission.quoting.default_for(operation),
        price=lambda model: credits_text(_unit(parts, model)),
        service_s=parts.service_s(able),
    )
    data = [
        {"model": _summary(parts, each.model), "reasons": [asdict(reason) for reason in each.reasons]}
        for each in recommend(offer)
    ]
    return json_answer(
        {"object": "list", "catalog_version": catalog.version, "operation": query.operation, "data": data}
    )


@bp.get("/<path:model_id>")
@describe(
    Endpoint(
        "Read a model",
        "models",
        (
            Answer(
                200,
                "Its limits, price tiers and the JSON Schema of its orders.",
                ModelDetail,
                headers=("ETag",),
            ),
            Answer(304, "Unchanged since the ETag in If-None-Match.", headers=("ETag",)),
        ),
        errors=("not_found",),
        request_headers=("If-None-Match",),
        description="Takes an id or an alias, also of a model that the key may not use.",
    )
)
def read_model(model_id: str) -> Response:
    read_query(Empty, request.args)
    parts, catalog = services(), services().catalog
    try:
        resolution = catalog.resolve(model_id)
    except UnknownModelError as error:
        raise ModelNotFoundError(str(error), suggestions=list(error.suggestions)) from None
    # A model that is gone is shown as it was; an order for it gets its successor, and a warning.
    model = catalog.models.get(model_id, resolution.model)
    return _tagged({**_detail(parts, model), "warnings": list(resolution.warnings)})


def _filtered(
    parts: Services, catalog: Catalog, models: Sequence[Model], query: ModelsQuery | RecommendQuery
) -> list[Model]:
    """The models that meet the filters both lists have, of those that the caller's key may use. Raises
    InvalidRequestError naming values that no model has."""
    known: Mapping[str, Collection[str]] = {
        "operation": OPERATIONS,
        "provider": catalog.providers,
        "capability": {word for model in catalog.models.values() for word in model.capabilities},
    }
    faults = [
        FieldFault(name, "not_allowed", f"must be one of {', '.join(sorted(words))}{did_you_mean(value, words)}")
        for name, words in known.items()
        if (value := getattr(query, name)) is not None and value not in words
    ]
    if faults:
        raise InvalidRequestError(faults)
    most = Decimal(query.max_price) * MICROCREDITS_PER_CREDIT if query.max_price else None
    return [
        model
        for model in allowance.usable(g.caller, models)
        if (query.operation is None or OPERATIONS[query.operation] in model.operations)
        and (query.provider is None or model.provider == query.provider)
        and (query.capability is None or query.capability in model.capabilities)
        and (most is None or _unit(parts, model) <= most)
    ]


def _unit(parts: Services, model: Model) -> int:
    """Our price of one image with default settings, in micro-credits."""
    return parts.submission.quoting.unit_price_microcredits(model, model.cost_usd)


def _summary(parts: Services, model: Model) -> dict[str, Any]:
    """app.shapes.schemas.models.ModelOut."""
    unit = _unit(parts, model)
    return {
        "id": model.id,
        "name": model.name,
        "provider": model.provider,
        "operations": sorted(IN_URL.get(operation, operation) for operation in model.operations),
        "capabilities": list(model.capabilities),
        "status": model.status_on(datetime.now(UTC).date()),
        "retires_on": model.retires_on.isoformat() if model.retires_on else None,
        "replaced_by": model.replaced_by,
        "configured": model.provider in parts.configured,
        "quality": model.quality,
        "price": {"unit_microcredits": unit, "unit": credits_text(unit)},
    }


def _detail(parts: Services, model: Model) -> dict[str, Any]:
    """app.shapes.schemas.models.ModelDetail, without its warnings."""
    known = model.model_dump(mode="json", include={"inputs", "size", "cost_tiers"})
    price = parts.submission.quoting.unit_price_microcredits
    return {
        **_summary(parts, model),
        "output": model.output,
        "inputs": known["inputs"],
        "size": known["size"],
        "limits": {
            "max_per_call": model.max_per_call,
            "prompt_max_chars": model.inputs.prompt_max_len,
            "images": {"min": model.inputs.images.min, "max": model.inputs.images.max},
            "mask": model.inputs.mask,
        },
        "tiers": [
            {
                "when": each["when"],
                "unit_microcredits": None if tier.usd is None else price(model, tier.usd),
                "add_microcredits": None if tier.usd_add is None else price(model, tier.usd_add),
            }
            for each, tier in zip(known["cost_tiers"], model.cost_tiers, strict=True)
        ]
        + list(_cells(model, price)),
        "orders": {
            IN_URL.get(operation, operation): dict(parts.order_schema(model, operation))
            for operation in sorted(model.operations)
        },
        "note": model.cost_note,
    }


def _cells(model: Model, price: Callable[[Model, Decimal], int]) -> Iterator[dict[str, Any]]:
    """The prices of a table of quality and size, as tiers; those of edits include one input image."""
    if (table := model.cost_table) is None:
        return
    for operation, rows in (("generate", table.generate), ("edit", table.edit)):
        for quality, row in rows.items():
            for size, usd in zip(table.sizes, row, strict=True):
                when = {"operation": operation, "quality": quality, "size": size}
                yield {"when": when, "unit_microcredits": price(model, usd), "add_microcredits": None}


def _tagged(body: dict[str, Any]) -> Response:
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    headers = {
        "ETag": f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"',
        "Cache-Control": "private, no-cache",
    }
    return not_modified(headers) if unchanged(headers["ETag"]) else json_answer(body, headers=headers)
