"""The sandbox's own endpoints. They need no key: keep the sandbox on the loopback interface."""

import os
from typing import Any

from flask import Blueprint, Response, jsonify, request

from sandbox.faults import Rule, can_happen_at
from sandbox.markers import PLACES, UnknownFault, parse
from sandbox.plumbing.model_lists import ListChange
from sandbox.plumbing.validation import Schema, closed
from sandbox.settings import BadSetting
from sandbox.state import current_state

bp = Blueprint("control", __name__, url_prefix="/control")


class BadControl(ValueError):  # noqa: N818 - reads as what it is
    """A control request that makes no sense."""


@bp.errorhandler(BadControl)
@bp.errorhandler(UnknownFault)
@bp.errorhandler(BadSetting)
def refuse(error: Exception) -> tuple[Response, int]:
    """A plain sentence, for a person to read."""
    return jsonify(error=str(error)), 400


@bp.get("/health")
def health() -> Response:
    """Which process this is: a chaos run compares ``pid`` with the process it started."""
    return jsonify(ok=True, pid=os.getpid(), emulators=sorted(current_state().stores))


@bp.get("/counts")
def counts() -> Response:
    """Tallies by provider; ``?keys=0`` leaves out the tables by key."""
    return jsonify(current_state().counts.describe(keys=request.args.get("keys", "1") != "0"))


@bp.get("/requests")
def requests() -> Response:
    """The latest requests and their form; ``?provider=`` and ``?limit=``."""
    limit = request.args.get("limit", 500, type=int)
    return jsonify(current_state().counts.requests(request.args.get("provider"), limit=max(1, limit)))


@bp.post("/reset")
def reset() -> Response:
    """Delete jobs, counts and faults; settings stay."""
    current_state().reset()
    return jsonify(ok=True)


@bp.get("/settings")
def settings() -> Response:
    """The settings in force."""
    return jsonify(current_state().settings.model_dump())


@bp.put("/settings")
def change_settings() -> Response:
    """Change some settings."""
    current_state().settings.change(_body())
    return jsonify(current_state().settings.model_dump())


@bp.post("/clock")
def advance() -> Response:
    """Put the sandbox's clock forward by ``advance_s``: work finishes, files expire."""
    seconds = _body().get("advance_s")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise BadControl("advance_s must be a number of seconds")
    current_state().clock.advance(float(seconds))
    return jsonify(now=current_state().clock.now())


@bp.post("/restart")
def restart() -> Response:
    """Let one emulator (``provider``) or all behave as if restarted; says how many jobs broke off."""
    only = _body().get("provider")
    stores = {name: store for name, store in current_state().stores.items() if only in (None, name)}
    return jsonify({name: store.restart() for name, store in stores.items()})


_LIST_CHANGE = Schema(
    closed(
        {
            "drop": {"type": "array", "items": {"type": "string"}},
            "merge": {"type": "object", "additionalProperties": {"type": "object"}},
            "add": {"type": "array", "items": {"type": "object"}},
        }
    )
)


@bp.put("/models/<provider>")
def change_models(provider: str) -> Response:
    """Let an upstream's list of models leave out (``drop``), change (``merge``) or add items; ``{}`` ends that."""
    document = _body()
    if provider not in current_state().stores:
        raise BadControl(f"there is no emulator {provider!r}")
    if problem := _LIST_CHANGE.problem(document):
        raise BadControl(f"{problem.field}: {problem.message}")
    change = ListChange(frozenset(document.get("drop", ())), document.get("merge", {}), tuple(document.get("add", ())))
    current_state().lists.changes[provider] = change
    return jsonify(ok=True)


@bp.get("/faults")
def faults() -> Response:
    """The rules and how often each fired."""
    return jsonify([rule.describe() for rule in current_state().faults.rules()])


@bp.post("/faults")
def add_fault() -> tuple[Response, int]:
    """Set a rule. ``faults`` is written as in a marker; the rest narrows down when it fires."""
    return jsonify(_rule(_body()).describe()), 201


@bp.delete("/faults")
def clear_faults() -> Response:
    """Drop every rule."""
    current_state().faults.clear()
    return jsonify(ok=True)


@bp.delete("/faults/<int:number>")
def drop_fault(number: int) -> tuple[Response, int]:
    """Drop one rule."""
    if not current_state().faults.remove(number):
        return jsonify(error=f"there is no fault {number}"), 404
    return jsonify(ok=True), 200


_TEXT = {"type": ["string", "null"]}
_RULE = Schema(
    closed(
        {
            "faults": {"type": "string"},
            "provider": _TEXT,
            "route": {"enum": [None, *PLACES]},
            "prompt_contains": _TEXT,
            "probability": {"type": "number"},
            "seed": {"type": "integer"},
            "count": {"type": ["integer", "null"]},
        }
    )
)


def _rule(wanted: dict[str, Any]) -> Rule:
    if problem := _RULE.problem(wanted):
        raise BadControl(f"{problem.field}: {problem.message}")
    narrowed = dict(wanted)
    script = parse(narrowed.pop("faults", ""))
    if not script:
        raise BadControl("faults must name at least one fault, for example '429 retry_after=3'")
    for fault in script:
        if not can_happen_at(fault, narrowed.get("route")):
            raise BadControl(f"{fault.name!r} cannot happen at route {narrowed['route']!r}")
    return current_state().faults.add(script, **narrowed)


def _body() -> dict[str, Any]:
    document = request.get_json(silent=True)
    if document is None and not request.get_data():
        return {}
    if not isinstance(document, dict):
        raise BadControl("the body must be a JSON object")
    return document
