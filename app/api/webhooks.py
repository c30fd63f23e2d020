"""Webhooks: an account's endpoints and secrets, and the log of what was delivered."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.responses import json_answer
from app.services import services
from app.shapes import render_webhooks as render
from app.shapes.schemas.base import Empty
from app.shapes.schemas.webhooks import (
    DeliveriesQuery,
    DeliveryList,
    DeliveryOut,
    RotateQuery,
    SecretOut,
    WebhookChange,
    WebhookIn,
    WebhookList,
    WebhookMade,
    WebhookOut,
)
from core.outbound.urls import UnsafeUrlError
from jobs import states
from jobs.errors import FieldFault
from webhooks import endpoints, messages, secrets
from webhooks.forms import ENDS
from webhooks.messages import Filters
from webhooks.receivers import refusal

bp = Blueprint("webhooks", __name__, url_prefix="/api/webhooks")


def _check(url: str) -> None:
    try:
        services().receivers.check_written(url)
    except UnsafeUrlError as error:
        raise InvalidRequestError([FieldFault("url", "url_not_allowed", refusal(error))]) from None


@bp.get("")
@describe(
    Endpoint(
        "List your webhooks",
        "webhooks",
        (Answer(200, "All of them, oldest first.", WebhookList),),
        scope="webhooks",
        errors=("invalid_request",),
        query=Empty,
    )
)
def list_webhooks() -> Response:
    read_query(Empty, request.args)
    found = services().connections.autocommit(endpoints.every, g.caller.account_id)
    return json_answer({"object": "list", "data": [render.webhook(each) for each in found]})


@bp.post("")
@describe(
    Endpoint(
        "Make a webhook",
        "webhooks",
        (Answer(201, "The webhook, and its secret, which is shown this once.", WebhookMade, headers=("Location",)),),
        scope="webhooks",
        errors=("malformed_json", "invalid_request", "too_many_webhooks"),
        query=Empty,
        body=WebhookIn,
        description="It is told of the events of all your tasks from now on.",
    )
)
def create() -> Response:
    read_query(Empty, request.args)
    asked = read_body(WebhookIn, request)
    _check(asked.url)
    made, secret = services().connections.autocommit(
        endpoints.create,
        g.caller.account_id,
        url=asked.url,
        events=_once(asked.events or ENDS),
        description=asked.description,
    )
    return json_answer({**render.webhook(made), "secret": secret.value}, 201, {"Location": f"/api/webhooks/{made.id}"})


def _once(events: list[str] | tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(events))


@bp.get("/secret")
@describe(
    Endpoint(
        "Your account's own secret",
        "webhooks",
        (Answer(200, "It signs what goes to the `webhook_url` of a task.", SecretOut),),
        scope="webhooks",
        errors=("invalid_request",),
        query=Empty,
    )
)
def account_secret() -> Response:
    read_query(Empty, request.args)
    return json_answer(render.secret(services().connections.autocommit(secrets.account_secret, g.caller.account_id)))


@bp.post("/secret/rotate")
@describe(
    Endpoint(
        "Replace your account's own secret",
        "webhooks",
        (Answer(200, "The new one; the old one signs as well for a while.", SecretOut),),
        scope="webhooks",
        errors=("invalid_request",),
        query=RotateQuery,
    )
)
def rotate_account_secret() -> Response:
    overlap_s = read_query(RotateQuery, request.args).overlap_s
    secret = services().connections.autocommit(secrets.rotate_account_secret, g.caller.account_id, overlap_s=overlap_s)
    return json_answer(render.secret(secret))


@bp.get("/deliveries")
@describe(
    Endpoint(
        "The delivery log, newest first",
        "webhooks",
        (Answer(200, "One page.", DeliveryList),),
        scope="webhooks",
        errors=("invalid_request",),
        query=DeliveriesQuery,
    )
)
def deliveries() -> Response:
    query = read_query(DeliveriesQuery, request.args)
    filters = Filters(
        state=query.state,
        event=query.event,
        endpoint_id=query.webhook_id,
        job_id=query.task_id,
        cursor=query.cursor,
        limit=query.limit + 1,
    )
    found = services().connections.autocommit(messages.every, g.caller.account_id, filters)
    page = found[: query.limit]
    return json_answer(
        {
            "object": "list",
            "data": [render.delivery(each) for each in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )


@bp.get("/deliveries/<delivery_id>")
@describe(
    Endpoint(
        "Read a delivery",
        "webhooks",
        (Answer(200, "The delivery with its attempts.", DeliveryOut),),
        scope="webhooks",
        errors=("not_found", "invalid_request"),
        query=Empty,
    )
)
def read_delivery(delivery_id: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(
        render.delivery(services().connections.autocommit(messages.find, g.caller.account_id, delivery_id))
    )


@bp.post("/deliveries/<delivery_id>/replay")
@describe(
    Endpoint(
        "Deliver again",
        "webhooks",
        (Answer(202, "It is due now, under the same id, by the whole schedule.", DeliveryOut),),
        scope="webhooks",
        errors=("not_found", "webhook_disabled", "invalid_request"),
        query=Empty,
    )
)
def replay(delivery_id: str) -> Response:
    read_query(Empty, request.args)
    found = services().connections.autocommit(messages.replay, g.caller.account_id, delivery_id)
    if found.job_id is not None:
        services().publish([states.tell(found.job_id)])
    return json_answer(render.delivery(found), 202)


@bp.get("/<webhook_id>")
@describe(
    Endpoint(
        "Read a webhook",
        "webhooks",
        (Answer(200, "The webhook without its secret.", WebhookOut),),
        scope="webhooks",
        errors=("not_found", "invalid_request"),
        query=Empty,
    )
)
def read(webhook_id: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(
        render.webhook(services().connections.autocommit(endpoints.find, g.caller.account_id, webhook_id))
    )


@bp.patch("/<webhook_id>")
@describe(
    Endpoint(
        "Change a webhook",
        "webhooks",
        (Answer(200, "The webhook as it is now.", WebhookOut),),
        scope="webhooks",
        errors=("not_found", "malformed_json", "invalid_request"),
        query=Empty,
        body=WebhookChange,
        description="What waits for delivery goes to the new address.",
    )
)
def change(webhook_id: str) -> Response:
    read_query(Empty, request.args)
    asked = read_body(WebhookChange, request)
    if asked.url is not None:
        _check(asked.url)
    changed = services().connections.autocommit(
        endpoints.update,
        g.caller.account_id,
        webhook_id,
        url=asked.url,
        events=None if asked.events is None else _once(asked.events),
        description=asked.description,
        enabled=asked.enabled,
    )
    return json_answer(render.webhook(changed))


@bp.delete("/<webhook_id>")
@describe(
    Endpoint(
        "Delete a webhook",
        "webhooks",
        (Answer(204, "Gone, and what waited for it is dropped.", media_types=()),),
        scope="webhooks",
        errors=("not_found", "invalid_request"),
        query=Empty,
    )
)
def delete(webhook_id: str) -> Response:
    read_query(Empty, request.args)
    services().connections.autocommit(endpoints.delete, g.caller.account_id, webhook_id)
    return Response(status=204)


@bp.post("/<webhook_id>/rotate")
@describe(
    Endpoint(
        "Replace a webhook's secret",
        "webhooks",
        (Answer(200, "The new secret, shown this once; the old one signs as well for a while.", SecretOut),),
        scope="webhooks",
        errors=("not_found", "invalid_request"),
        query=RotateQuery,
    )
)
def rotate(webhook_id: str) -> Response:
    overlap_s = read_query(RotateQuery, request.args).overlap_s
    secret = services().connections.autocommit(endpoints.rotate, g.caller.account_id, webhook_id, overlap_s=overlap_s)
    return json_answer(render.secret(secret))


@bp.post("/<webhook_id>/test")
@describe(
    Endpoint(
        "Send a test message",
        "webhooks",
        (Answer(202, "It is on its way: read the delivery to see how it went.", DeliveryOut),),
        scope="webhooks",
        errors=("not_found", "webhook_disabled", "invalid_request"),
        query=Empty,
    )
)
def test(webhook_id: str) -> Response:
    read_query(Empty, request.args)
    connections, account_id = services().connections, g.caller.account_id
    sent = connections.autocommit(endpoints.send_test, account_id, webhook_id)
    return json_answer(render.delivery(connections.autocommit(messages.find, account_id, sent)), 202)
