"""What administrators do with the rules on abuse: each deed and its entry in the trail, in the caller's transaction.

The routes and the commands next to the database share these, and the documents they show.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection

from accounts import accounts, trail
from accounts.trail import Actor
from core.errors import ServiceError
from jobs.abuse import events, overrides
from jobs.abuse.events import Event
from jobs.abuse.judging import unit_of, window_text
from jobs.abuse.rules import Rule, Rules, RulesError, changed
from jobs.errors import FaultsError, FieldFault
from webhooks import operator


class RuleNotFoundError(ServiceError):
    """The installation has no rule of this name."""

    code = "rule_not_found"


class InvalidRuleError(FaultsError):
    """The rule would not be possible with these members."""

    code = "invalid_request"


Installed = Mapping[str, Rule]


def rules_of(connection: Connection, installed: Installed, account: str | None) -> list[dict[str, Any]]:
    """The rules as they hold for an account (name or id), or for the installation. Raises AccountNotFoundError."""
    account_id = None if account is None else accounts.find_account(connection, account).id
    own = {} if account_id is None else overrides.overrides(connection, account_id).get(account_id, {})
    rules = Rules(installed, {account_id: own} if account_id else {})
    return [_document(rules.of(name, account_id), own.get(name)) for name in installed]


def change_rule(  # noqa: PLR0917
    connection: Connection, actor: Actor, installed: Installed, name: str, account: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Have members of a rule hold for an account (name or id) alone; None: that of the installation holds again.

    Returns the rule as it holds now. Raises RuleNotFoundError, AccountNotFoundError, InvalidRuleError.
    """
    rule = _found(installed, name)
    account_id = accounts.find_account(connection, account).id
    before = overrides.find_override(connection, account_id, name) or {}
    after = {member: value for member, value in {**before, **changes}.items() if value is not None}
    try:
        now = changed(rule, after)
    except RulesError as error:
        raise InvalidRuleError([FieldFault("", "conflict", str(error))]) from None
    if after:
        overrides.put_override(connection, account_id, name, after)
    else:
        overrides.delete_override(connection, account_id, name)
    if after != before:
        trail.record(connection, actor, "rule.change", name, account_id=account_id, before=before, after=after)
    return _document(now, after or None)


def reset_rule(connection: Connection, actor: Actor, installed: Installed, name: str, account: str) -> dict[str, Any]:
    """Let the installation's rule hold for an account again. Raises RuleNotFoundError, AccountNotFoundError."""
    rule = _found(installed, name)
    account_id = accounts.find_account(connection, account).id
    before = overrides.find_override(connection, account_id, name)
    if before is not None:
        overrides.delete_override(connection, account_id, name)
        trail.record(connection, actor, "rule.reset", name, account_id=account_id, before=before, after={})
    return _document(rule, None)


def acknowledge(connection: Connection, actor: Actor, event_id: str, note: str) -> Event:
    """Note that someone has seen to what tripped; a second time changes nothing. Raises EventNotFoundError."""
    found, new = events.acknowledge(connection, event_id, by=actor.name, note=note)
    if new:
        after = {"rule": found.rule, "note": note}
        trail.record(connection, actor, "abuse.acknowledge", event_id, account_id=found.account_id, after=after)
    return found


def send_test(connection: Connection, targets: Collection[str]) -> dict[str, Any]:
    """Have each receiver of the operator get a test message. Raises NoReceiversError."""
    return {"object": "operator.test", "messages": operator.send_test(connection, targets)}


def _found(installed: Installed, name: str) -> Rule:
    if name not in installed:
        raise RuleNotFoundError(f"there is no rule {name[:50]!r}; there are {', '.join(installed)}")
    return installed[name]


def _document(rule: Rule, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """app.shapes.schemas.abuse.RuleOut."""
    return {
        "name": rule.name,
        "object": "abuse.rule",
        "kind": rule.kind,
        "window": window_text(rule),
        "per": rule.per,
        "unit": unit_of(rule),
        "at_least": rule.at_least,
        "budget": rule.budget,
        "percent": rule.percent,
        "times_usual": rule.times_usual,
        "action": rule.action,
        "enabled": rule.enabled,
        "own": None if own is None else dict(own),
    }
