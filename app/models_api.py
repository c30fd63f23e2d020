"""The catalogue as callers see it: what can be made, with which limits, at what price."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, request

from app.answers import json_answer, not_modified, unchanged
from app.bodies import read_query
from app.endpoint import Answer, Endpoint, describe
from app.schemas import Empty, ModelDetail, ModelList, ModelsQuery
from app.services import Services, services
from app.submit import OPERATIONS
from core.errors import ServiceError
from providers.catalog import Model, UnknownModelError
from quota.prices import MICROCREDITS_PER_CREDIT, credits_text

bp = Blueprint("models", __name__, url_prefix="/api/models")

_IN_URL = {name: url for url, name in OPERATIONS.items()}


class ModelNotFoundError(ServiceError):
    """The address names no model; in an order the same is ``unknown_model``."""

    code = "not_found"


@bp.get("")
@describe(
    Endpoint(
        "List models",
        "models",
        (
            Answer(200, "Models that still answer.", ModelList, headers=("ETag",)),
            Answer(304, "Unchanged since the ETag in If-None-Match.", headers=("ETag",)),
        ),
        errors=("invalid_request",),
        query=ModelsQuery,
        request_headers=("If-None-Match",),
    )
)
def list_models() -> Response:
    query = read_query(ModelsQuery, request.args)
    parts = services()
    most = Decimal(query.max_price) * MICROCREDITS_PER_CREDIT if query.max_price else None
    found = parts.catalog.select(
        OPERATIONS.get(query.operation, query.operation) if query.operation else None,
        provider=query.provider,
        capability=query.capability,
    )
    data = [_summary(parts, model) for model in found]
    if most is not None:
        data = [each for each in data if each["price"]["unit_microcredits"] <= most]
    if query.configured:
        data = [each for each in data if each["configured"] == (query.configured == "true")]
    return _tagged({"object": "list", "catalog_version": parts.catalog.version, "data": data})


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
        description="Takes an id or an alias.",
    )
)
def read_model(model_id: str) -> Response:
    read_query(Empty, request.args)
    parts = services()
    model = parts.catalog.models.get(model_id)
    if model is None:
        try:
            model = parts.catalog.resolve(model_id).model
        except UnknownModelError as error:
            raise ModelNotFoundError(str(error), suggestions=list(error.suggestions)) from None
    return _tagged(_detail(parts, model))


def _summary(parts: Services, model: Model) -> dict[str, Any]:
    """app.schemas.ModelOut."""
    unit = parts.unit_price(model.cost_usd)
    return {
        "id": model.id,
        "name": model.name,
        "provider": model.provider,
        "operations": sorted(_IN_URL.get(operation, operation) for operation in model.operations),
        "capabilities": list(model.capabilities),
        "status": model.status,
        "configured": model.provider in parts.configured,
        "price": {"unit_microcredits": unit, "unit": credits_text(unit)},
    }


def _detail(parts: Services, model: Model) -> dict[str, Any]:
    """app.schemas.ModelDetail."""
    known = model.model_dump(mode="json", include={"inputs", "size", "cost_tiers"})
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
                "unit_microcredits": None if tier.usd is None else parts.unit_price(tier.usd),
                "add_microcredits": None if tier.usd_add is None else parts.unit_price(tier.usd_add),
            }
            for each, tier in zip(known["cost_tiers"], model.cost_tiers, strict=True)
        ],
        "orders": {
            _IN_URL.get(operation, operation): dict(parts.order_schema(model, operation))
            for operation in sorted(model.operations)
        },
        "replaced_by": model.replaced_by,
        "retires_on": model.retires_on.isoformat() if model.retires_on else None,
        "note": model.cost_note,
    }


def _tagged(body: dict[str, Any]) -> Response:
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    headers = {
        "ETag": f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"',
        "Cache-Control": "private, no-cache",
    }
    return not_modified(headers) if unchanged(headers["ETag"]) else json_answer(body, headers=headers)
