"""The catalogue as Replicate's models, each with one version."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, g, request

from app.dialects.openai.models import listed
from app.dialects.replicate.names import ModelNotFoundError, Named, names_of
from app.dialects.replicate.predictions import TAG
from app.dialects.replicate.schemas import COG_VERSION, openapi_schema
from app.http import links
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import Services, services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.replicate import (
    ModelsQuery,
    ReplicateModelOut,
    ReplicateModelPage,
    VersionOut,
    VersionPage,
)
from core.wire import rfc3339
from providers.catalog.catalog import Catalog
from providers.orders.schema import order_schema

bp = Blueprint("replicate_models", __name__)

PATH = "/v1/models"
PAGE = 25


@bp.get(PATH)
@describe(
    Endpoint(
        "List models",
        TAG,
        (Answer(200, "Pages in `results` for Replicate's clients, all in `data` for OpenAI's.", ReplicateModelPage),),
        errors=("invalid_request", "host_not_allowed"),
        query=ModelsQuery,
    )
)
def list_models() -> Response:
    query, base = read_query(ModelsQuery, request.args), links.here().base
    parts = services()
    every = [named for named in names_of(parts.catalog).by_name.values() if _may_be_used(parts, named)]
    every.reverse()  # in the order of the catalogue
    start = query.cursor
    following = f"{base}{PATH}?cursor={start + PAGE}" if start + PAGE < len(every) else None
    page = {
        "next": following,
        "previous": f"{base}{PATH}?cursor={max(0, start - PAGE)}" if start else None,
        "results": [_shown(parts, named, base) for named in every[start : start + PAGE]],
    }
    return json_answer({**page, "object": "list", "data": listed(parts, g.caller)})


@bp.get(f"{PATH}/<owner>/<name>")
@describe(
    Endpoint(
        "Read a model",
        TAG,
        (Answer(200, "The model and its version.", ReplicateModelOut),),
        errors=("not_found", "host_not_allowed"),
    )
)
def read_model(owner: str, name: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(_shown(services(), _asked(owner, name), links.absolute("")))


@bp.get(f"{PATH}/<owner>/<name>/versions")
@describe(
    Endpoint(
        "List the versions of a model",
        TAG,
        (Answer(200, "A model has one.", VersionPage),),
        errors=("not_found",),
    )
)
def list_versions(owner: str, name: str) -> Response:
    read_query(Empty, request.args)
    version = _version(services().catalog, _asked(owner, name))
    return json_answer({"next": None, "previous": None, "results": [version]})


@bp.get(f"{PATH}/<owner>/<name>/versions/<version_id>")
@describe(
    Endpoint(
        "Read a version",
        TAG,
        (Answer(200, "The version, with the schema of its input and output.", VersionOut),),
        errors=("not_found",),
    )
)
def read_version(owner: str, name: str, version_id: str) -> Response:
    read_query(Empty, request.args)
    named = _asked(owner, name)
    if version_id.lower() != named.version:
        raise ModelNotFoundError(f"{named.full} has no version {version_id[:64]!r}; its version is {named.version}")
    return json_answer(_version(services().catalog, named))


def _asked(owner: str, name: str) -> Named:
    """Raises ModelNotFoundError, also for what the key may not use: Replicate tells no one of another's models."""
    named = names_of(services().catalog).model(f"{owner}/{name}")
    if not g.caller.may_use(named.model.id, named.model.provider):
        raise ModelNotFoundError(f"no model is called {named.full!r}")
    return named


def _may_be_used(parts: Services, named: Named) -> bool:
    model = named.model
    return model.provider in parts.configured and g.caller.may_use(model.id, model.provider)


def _shown(parts: Services, named: Named, base: str) -> dict[str, Any]:
    model = named.model
    return {
        "url": f"{base}/api/models/{model.id}",
        "owner": named.owner,
        "name": named.name,
        "description": f"{model.name}, by {model.provider}",
        "visibility": "public",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": _version(parts.catalog, named),
        **_for_openai(parts, named),
    }


def _for_openai(parts: Services, named: Named) -> dict[str, Any]:
    created = int(_checked(parts.catalog).timestamp())
    return {"id": named.model.id, "object": "model", "created": created, "owned_by": named.model.provider}


@lru_cache(maxsize=512)
def _version(catalog: Catalog, named: Named) -> Mapping[str, Any]:
    return {
        "id": named.version,
        "created_at": rfc3339(_checked(catalog)),
        "cog_version": COG_VERSION,
        "openapi_schema": openapi_schema(named, order_schema),
    }


def _checked(catalog: Catalog) -> datetime:
    """When the catalogue was last compared with the upstreams' own words: no model has a date of its own."""
    return datetime.combine(catalog.checked, datetime.min.time(), UTC)
