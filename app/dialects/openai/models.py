"""OpenAI's models: what an order or a chat can name here.

The list itself has one route with Replicate's (app/dialects/replicate/models.py), for both are ``GET /v1/models``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g, request

from accounts.keys import Caller
from app import allowance
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import Services, services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.openai_chat import OpenAIModel
from core.errors import ServiceError
from providers.catalog.catalog import MAX_NAME_CHARS, Catalog, UnknownModelError

bp = Blueprint("openai_models", __name__, url_prefix="/v1/models")
NEAR = 3


class ModelNotFoundError(ServiceError):
    """No model that can be used here has this name."""

    code = "unknown_model"


@bp.get("/<model_id>")
@describe(
    Endpoint(
        "Read a model for OpenAI's clients",
        "openai",
        (Answer(200, "The model.", OpenAIModel),),
        errors=("unknown_model",),
        description="Takes an id or an alias; the answer has the model's own id.",
    )
)
def read_model(model_id: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(named(services(), g.caller, model_id))


def listed(parts: Services, caller: Caller) -> list[dict[str, Any]]:
    """Every live model of a configured provider, then the language models, as OpenAI's model objects: those that the
    key may use."""
    catalog = parts.catalog
    found = allowance.usable(caller, catalog.select(configured=parts.configured))
    images = [(model.id, model.provider) for model in found]
    texts = allowance.language_models(parts, caller).names()
    return [_object(catalog, name, owner) for name, owner in [*images, *texts.items()]]


def named(parts: Services, caller: Caller, name: str) -> dict[str, Any]:
    """The model object of a name. Raises ModelNotFoundError, with the nearest names, also for what the key may not
    use."""
    catalog, texts = parts.catalog, allowance.language_models(parts, caller)
    if provider := texts.provider_of(name):
        own = next(each for each, owner in texts.names().items() if owner == provider)
        return _object(catalog, own, provider)
    try:
        model = catalog.resolve(name).model
    except UnknownModelError:
        raise not_found(parts, caller, name) from None
    if model.provider not in parts.configured or not caller.may_use(model.id, model.provider):
        raise not_found(parts, caller, name)
    return _object(catalog, model.id, model.provider)


def not_found(parts: Services, caller: Caller, name: str, *, only: Sequence[str] = ()) -> ModelNotFoundError:
    """The error for a name, with those that can be used here (``only`` these) and come nearest."""
    known = only or [each["id"] for each in listed(parts, caller)]
    near = difflib.get_close_matches(name[:MAX_NAME_CHARS].lower(), known, n=NEAR, cutoff=0.5)
    near = near or list(only)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return ModelNotFoundError(
        f"no model {name[:MAX_NAME_CHARS]!r} can be used here{hint}",
        suggestions=near,
        errors=[{"field": "model", "code": "unknown_model", "message": "no model of this name can be used here"}],
    )


def _object(catalog: Catalog, name: str, owner: str) -> dict[str, Any]:
    # No model has a date of its own: this is when the catalogue was last compared with the upstreams' own words.
    checked = datetime.combine(catalog.checked, datetime.min.time(), UTC)
    return {"id": name, "object": "model", "created": int(checked.timestamp()), "owned_by": owner}
