"""The upstreams as callers and operators see them: set up, healthy, paused, busy."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Blueprint, Response, g, request

from app import administration
from app.api.admin_accounts import actor
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.orders.operations import IN_URL
from app.services import Services, services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.providers import PauseQuery, ProviderList, ProviderOut
from core.errors import ServiceError
from core.wire import rfc3339
from jobs.dispatch import health
from jobs.dispatch.circuit import State
from jobs.dispatch.health import ProviderState
from providers.catalog.entries import ProviderSpec

log = structlog.get_logger(__name__)

bp = Blueprint("providers", __name__, url_prefix="/api")


class ProviderNotFoundError(ServiceError):
    """The catalogue has no provider of this name."""

    code = "not_found"


@bp.get("/providers")
@describe(Endpoint("List providers", "providers", (Answer(200, "As of now.", ProviderList),), query=Empty))
def list_providers() -> Response:
    read_query(Empty, request.args)
    parts = services()
    states = {state.name: state for state in parts.connections.autocommit(health.overview)}
    data = [_shown(parts, spec, states.get(name)) for name, spec in sorted(parts.catalog.providers.items())]
    return json_answer({"object": "list", "data": data})


@bp.post("/admin/providers/<name>/pause")
@describe(
    Endpoint(
        "Pause a provider",
        "admin",
        (Answer(200, "Nothing new is sent to it from now on.", ProviderOut),),
        scope="admin",
        errors=("not_found",),
        query=PauseQuery,
        description="What is in flight is followed to its end. Waiting tasks keep their latest start.",
    )
)
def pause(name: str) -> Response:
    return _pause(name, name)


@bp.post("/admin/providers/<name>/credentials/<label>/pause")
@describe(
    Endpoint(
        "Pause a credential of a provider",
        "admin",
        (Answer(200, "Nothing new is sent with it from now on.", ProviderOut),),
        scope="admin",
        errors=("not_found",),
        query=PauseQuery,
        description="`label` is what follows the slash of its id. The provider's other credentials take over.",
    )
)
def pause_credential(name: str, label: str) -> Response:
    return _pause(name, f"{name}/{label}")


def _pause(name: str, target: str) -> Response:
    spec, reason = _spec(name), read_query(PauseQuery, request.args).reason
    services().connections.transaction(administration.pause, actor(), target, reason or "")
    log.warning("paused", target=target, reason=reason, key_id=g.caller.key_id)
    return _answer(spec)


@bp.post("/admin/providers/<name>/resume")
@describe(
    Endpoint(
        "Resume a provider",
        "admin",
        (Answer(200, "Waiting tasks go on within half a minute.", ProviderOut),),
        scope="admin",
        errors=("not_found",),
        query=Empty,
        description="Also closes its circuit. A credential that is paused by itself stays so.",
    )
)
def resume(name: str) -> Response:
    return _resume(name, name)


@bp.post("/admin/providers/<name>/credentials/<label>/resume")
@describe(
    Endpoint(
        "Resume a credential of a provider",
        "admin",
        (Answer(200, "It is used again within half a minute.", ProviderOut),),
        scope="admin",
        errors=("not_found",),
        query=Empty,
        description="A pause of the provider itself stays.",
    )
)
def resume_credential(name: str, label: str) -> Response:
    return _resume(name, f"{name}/{label}")


def _resume(name: str, target: str) -> Response:
    read_query(Empty, request.args)
    spec = _spec(name)
    services().connections.transaction(administration.resume, actor(), target)
    log.warning("resumed", target=target, key_id=g.caller.key_id)
    return _answer(spec)


def _spec(name: str) -> ProviderSpec:
    try:
        return services().catalog.providers[name]
    except KeyError:
        raise ProviderNotFoundError("there is no provider of this name") from None


def _answer(spec: ProviderSpec) -> Response:
    parts = services()
    state = next((each for each in parts.connections.autocommit(health.overview) if each.name == spec.name), None)
    return json_answer(_shown(parts, spec, state))


def _shown(parts: Services, spec: ProviderSpec, state: ProviderState | None) -> dict[str, Any]:
    """app.shapes.schemas.providers.ProviderOut; a provider that no worker has announced yet has no state."""
    configured = spec.name in parts.configured
    paused = state is not None and state.paused_at is not None
    circuit = state.circuit if state else State.CLOSED
    return {
        "name": spec.name,
        "object": "provider",
        "title": spec.title,
        "description": spec.description,
        "configured": configured,
        "healthy": configured and circuit is State.CLOSED,
        "paused": paused,
        "paused_at": rfc3339(state.paused_at) if state else None,
        "pause_reason": state.pause_reason if state else None,
        "credentials": [
            {
                "id": each.id,
                "paused": each.paused_at is not None,
                "paused_at": rfc3339(each.paused_at),
                "pause_reason": each.pause_reason,
            }
            for each in (state.accounts if state else ())
        ],
        "circuit": {
            "state": str(circuit),
            "opened_at": rfc3339(state.opened_at) if state else None,
            "next_probe_at": rfc3339(state.next_probe_at) if state else None,
        },
        "not_before": rfc3339(state.not_before) if state else None,
        "active": state.active if state else 0,
        "limits": {
            "max_active": state.max_active if state else None,
            "max_per_minute": state.max_per_minute if state else None,
            "submitted_last_minute": state.submitted_last_minute if state else None,
        },
        "capabilities": _capabilities(parts, spec),
    }


def _capabilities(parts: Services, spec: ProviderSpec) -> dict[str, Any]:
    models = parts.catalog.select(None, provider=spec.name)
    operations = {IN_URL.get(operation, operation) for model in models for operation in model.operations}
    return {
        "kind": spec.kind,
        "cancel": spec.cancellable,
        "text": spec.name in parts.enhancer.models,
        "prompt_model": parts.enhancer.models.get(spec.name),
        "operations": sorted(operations),
        "models": len(models),
    }
