"""``/api/generation``: submit, follow by server-sent events, cancel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from flask import Blueprint, Response, current_app, g, request

from app.accepting import accept, cancel_job, ended_or_latest
from app.dialects.generation.words import PATH, Generations
from app.dialects.watching import Watching
from app.http import event_stream, links
from app.http.bodies import read_json_object, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer, preferred_wait_s
from app.http.strict_request import StrictRequest
from app.orders import forms, idempotency_key, request_body
from app.services import Services, services
from app.shapes.schemas.replaced import GenerationBody, GenerationOut, SessionQuery, StreamQuery
from app.shapes.schemas.tasks import is_job_id
from jobs.errors import FieldFault, JobNotFoundError
from jobs.reads.tasks import Task
from jobs.submission.order import Order
from providers.orders.near import did_you_mean

bp = Blueprint("generation", __name__)

REPLICATE, REPLICATE_MODEL = "replicate", "REPLICATE_MODEL_ID"
_STREAM = (
    Answer(
        200,
        "The generation at each change, as `data:` of events without a name, until it has ended.",
        media_types=(event_stream.MEDIA_TYPE, "application/json"),
    ),
    Answer(204, "It had ended, and this client knows: an EventSource does not connect again."),
)


@bp.post(PATH)
@describe(
    Endpoint(
        "Start a generation",
        "replaced",
        (Answer(200, "Accepted; with `Prefer: wait=n` it may have ended.", GenerationOut),),
        scope="jobs:write",
        pace="submit",
        errors=(
            *("malformed_json", "insufficient_credits", "spending_limit", "model_not_allowed", "host_not_allowed"),
            *("content_refused", "screening_unavailable"),
        ),
        body=GenerationBody,
        request_headers=("Idempotency-Key", "Prefer", "Cache-Control"),
        description="A bad order is 400 here, with every bad field in `error`.",
    )
)
def start() -> Response:
    service, generations = services(), _generations()
    order = _order(service, read_json_object(request))
    key = idempotency_key.read(request, order, key_id=g.caller.key_id)
    task = accept(service, g.caller, order, key=key, request_id=g.request_id).task
    del order
    cast("StrictRequest", request).let_go()  # what waits on holds no image
    return json_answer(generations.of(ended_or_latest(service, task, preferred_wait_s())), 200, {"X-Task-Id": task.id})


@bp.get(PATH)
@describe(
    Endpoint(
        "Follow a generation",
        "replaced",
        _STREAM,
        pace="read",
        errors=("not_found", "invalid_request"),
        query=SessionQuery,
        description="With `Accept: application/json` the generation as it is now.",
    )
)
def follow() -> Response:
    return _followed(read_query(SessionQuery, request.args).sessionId)


@bp.get(f"{PATH}/<session_id>")
@describe(
    Endpoint(
        "Follow a generation by its signed address",
        "replaced",
        _STREAM,
        pace="read",
        signed=True,
        errors=("not_found", "signature_invalid", "signature_expired"),
        query=StreamQuery,
        description="`metadata.streamUrl`: an EventSource of a browser cannot send a key.",
    )
)
def follow_signed(session_id: str) -> Response:
    return _followed(session_id)


@bp.delete(PATH)
@describe(
    Endpoint(
        "Cancel a generation",
        "replaced",
        (Answer(200, "The generation; it may end a little later.", GenerationOut),),
        scope="jobs:write",
        errors=("not_found", "invalid_request"),
        query=SessionQuery,
    )
)
def cancel() -> Response:
    service, generations, account_id = services(), _generations(), g.caller.account_id
    job_id = _job_id(read_query(SessionQuery, request.args).sessionId)
    cancel_job(service, account_id, job_id)
    return json_answer(generations.of(service.task_reads.task(account_id, job_id)))


def _generations() -> Generations:
    """Raises HostNotAllowedError, before anything is accepted."""
    here = links.here()
    here.absolute("/")
    return Generations(here, services().signer)


def _job_id(session_id: str) -> str:
    if not is_job_id(session_id):
        raise JobNotFoundError("there is no such generation")
    return session_id


def _followed(session_id: str) -> Response:
    service, account_id = services(), g.caller.account_id
    generations = _generations()
    task = service.task_reads.task(account_id, _job_id(session_id))
    if request.accept_mimetypes.best == "application/json":
        return json_answer(generations.of(task))
    if task.ended and request.headers.get("Last-Event-ID") == _mark(task):
        return Response(status=204, headers={"Cache-Control": "no-store"})
    service.waits.places.check(account_id)
    return event_stream.answer(_events(Watching(service, task), generations))


def _events(watching: Watching, generations: Generations) -> Iterator[bytes]:
    yield event_stream.opening()
    while True:
        task = watching.task
        # Without a name: the clients of this route listen to `message`.
        yield event_stream.record(generations.of(task), last_id=_mark(task))
        if task.ended:
            return
        while not watching.until(lambda found, seen=task: found.version != seen.version, event_stream.BEAT_S):  # type: ignore[misc]
            yield event_stream.comment()


def _mark(task: Task) -> str:
    return str(task.version)


def _order(service: Services, members: Mapping[str, Any]) -> Order:
    fields = dict(members)
    provider = fields.pop("provider", None)
    fields.setdefault("lenient", True)  # one form serves every provider
    order = request_body.of_members(fields, forms.kinds_of(service.catalog)).order("generate")
    faults = list(order.faults)
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        faults = [fault for fault in faults if fault.field != "prompt"]
        faults.append(FieldFault("prompt", "required", "must say what the image shall show"))
    if provider:
        faults += _provider_faults(service, provider)
    client = {"dialect": "generation", "provider": provider if isinstance(provider, str) else None}
    order = replace(order, faults=faults, client=client)
    if provider and not faults and not order.fields.get("model"):
        return replace(order, fields={**order.fields, "model": _model_at(service, provider, order)})
    return order


def _provider_faults(service: Services, provider: object) -> list[FieldFault]:
    if not isinstance(provider, str):
        return [FieldFault("provider", "wrong_type", "must be a text")]
    if provider in service.configured:
        return []
    near = did_you_mean(provider, service.configured)
    if provider in service.catalog.providers:
        return [FieldFault("provider", "provider_not_configured", "is not configured here")]
    return [FieldFault("provider", "not_allowed", f"no provider is called {provider[:64]!r}{near}")]


def _model_at(service: Services, provider: str, order: Order) -> str:
    """The operator's model of Replicate where there is one, else the cheapest that takes the order.

    Raises InvalidOrderError.
    """
    if provider == REPLICATE and (named := current_app.config.get(REPLICATE_MODEL)):
        return str(named)
    return service.submission.quoting.cheapest_at(provider, order).id
