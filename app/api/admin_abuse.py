"""For administrators: the rules on abuse, what accounts have in place of them, and what tripped."""

from __future__ import annotations

from flask import Blueprint, Response, request
from sqlalchemy import Connection

from accounts import accounts
from app import abuse
from app.api.admin_accounts import actor
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.abuse import (
    AbuseEventList,
    AbuseEventOut,
    AbuseEventsQuery,
    AcknowledgeIn,
    OperatorTestOut,
    RuleChange,
    RuleList,
    RuleOut,
    RuleResetQuery,
    RulesQuery,
)
from app.shapes.schemas.base import Empty
from jobs.abuse import events
from jobs.abuse.events import Event, Filters

bp = Blueprint("admin_abuse", __name__, url_prefix="/api/admin/abuse")


@bp.get("/rules")
@describe(
    Endpoint(
        "List the rules on abuse",
        "admin",
        (Answer(200, "As they hold for the account, or for the installation.", RuleList),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=RulesQuery,
        description="The installation's are those of a file, which its processes read when they start.",
    )
)
def list_rules() -> Response:
    asked = read_query(RulesQuery, request.args).account
    found = services().connections.autocommit(abuse.rules_of, services().abuse_rules, asked)
    return json_answer({"object": "list", "data": found})


@bp.patch("/rules/<rule>")
@describe(
    Endpoint(
        "Change a rule on abuse for one account",
        "admin",
        (Answer(200, "The rule as it holds for the account from the next look on.", RuleOut),),
        scope="admin",
        errors=("rule_not_found", "account_not_found", "malformed_json", "invalid_request"),
        query=Empty,
        body=RuleChange,
    )
)
def change_rule(rule: str) -> Response:
    read_query(Empty, request.args)
    asked = read_body(RuleChange, request)
    changes = asked.model_dump(exclude={"account"}, exclude_unset=True)
    found = services().connections.transaction(
        abuse.change_rule, actor(), services().abuse_rules, rule, asked.account, changes
    )
    return json_answer(found)


@bp.delete("/rules/<rule>")
@describe(
    Endpoint(
        "Let the installation's rule hold for an account again",
        "admin",
        (Answer(200, "The rule as it holds for the account from the next look on.", RuleOut),),
        scope="admin",
        errors=("rule_not_found", "account_not_found", "invalid_request"),
        query=RuleResetQuery,
    )
)
def reset_rule(rule: str) -> Response:
    account = read_query(RuleResetQuery, request.args).account
    found = services().connections.transaction(abuse.reset_rule, actor(), services().abuse_rules, rule, account)
    return json_answer(found)


@bp.get("/events")
@describe(
    Endpoint(
        "List what tripped",
        "admin",
        (Answer(200, "One page, newest first.", AbuseEventList),),
        scope="admin",
        errors=("account_not_found", "invalid_request"),
        query=AbuseEventsQuery,
    )
)
def list_events() -> Response:
    query = read_query(AbuseEventsQuery, request.args)

    def read(connection: Connection) -> list[Event]:
        owner = accounts.find_account(connection, query.account).id if query.account is not None else None
        return events.events(
            connection, Filters(owner, query.rule, query.acknowledged, query.cursor, limit=query.limit + 1)
        )

    found = services().connections.autocommit(read)
    page = found[: query.limit]
    return json_answer(
        {
            "object": "list",
            "data": [events.document(each) for each in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )


@bp.get("/events/<event_id>")
@describe(
    Endpoint(
        "Read what tripped",
        "admin",
        (Answer(200, "The event.", AbuseEventOut),),
        scope="admin",
        errors=("event_not_found", "invalid_request"),
        query=Empty,
    )
)
def read_event(event_id: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(events.document(services().connections.autocommit(events.find_event, event_id)))


@bp.post("/events/<event_id>/acknowledge")
@describe(
    Endpoint(
        "Acknowledge what tripped",
        "admin",
        (Answer(200, "The event; who was first stays.", AbuseEventOut),),
        scope="admin",
        errors=("event_not_found", "malformed_json", "invalid_request"),
        query=Empty,
        body=AcknowledgeIn,
        description="Says that someone has seen to it, and ends its alert. A key that was paused stays paused.",
    )
)
def acknowledge_event(event_id: str) -> Response:
    read_query(Empty, request.args)
    note = read_body(AcknowledgeIn, request).note
    return json_answer(events.document(services().connections.transaction(abuse.acknowledge, actor(), event_id, note)))


@bp.post("/test")
@describe(
    Endpoint(
        "Send a test message to the operator's webhook",
        "admin",
        (Answer(202, "It is sent, and repeated, as a message about a rule would be.", OperatorTestOut),),
        scope="admin",
        errors=("no_operator_webhook", "invalid_request"),
        query=Empty,
    )
)
def send_test() -> Response:
    read_query(Empty, request.args)
    return json_answer(services().connections.transaction(abuse.send_test, services().operator_targets), 202)
