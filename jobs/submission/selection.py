"""Selecting the model of an order that names none: the default model, else the first of a ranking that takes it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from jobs.documents import SelectionRule, StoredSelection
from jobs.errors import FieldFault, InvalidOrderError
from providers.catalog.catalog import Model
from providers.catalog.entries import spoken
from providers.catalog.ranking import Goal
from providers.orders.rules import CheckedOrder

# What an order may say instead of a model's name.
AUTO: Mapping[str, Goal] = MappingProxyType({"auto": "budget", "auto:budget": "budget", "auto:quality": "quality"})
_BEST: Mapping[Goal, str] = {"budget": "the cheapest", "quality": "the best by the catalogue's ranking"}
_RULES: Mapping[Goal, SelectionRule] = {"budget": "cheapest", "quality": "best"}
NAMED_AT_MOST = 3
# Faults of the order itself, where every model finds the same.
_OWN_FAULTS = frozenset({"required", "wrong_type", "too_long", "out_of_range", "conflict"})
# Some models draw without a prompt. An order without one gets no such model unless it names it.
NEEDS_PROMPT = frozenset({"generate", "text_to_3d"})


@dataclass(frozen=True, slots=True)
class Default:
    """The model that orders without one get where it takes them, and who says so."""

    model: Model
    rule: SelectionRule

    @property
    def reason(self) -> str:
        """A phrase for people."""
        whose = "this service" if self.rule == "operator_default" else "the catalogue"
        return f"the default model of {whose}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The model an order gets. ``asked`` is what it said instead of a name (None: nothing), ``rule`` and ``reason``
    say why this model, the latter as a phrase for people; None where the order named its model."""

    model: Model
    checked: CheckedOrder
    asked: str | None = None
    rule: SelectionRule | None = None
    reason: str | None = None
    warnings: Sequence[str] = ()

    def stored(self) -> StoredSelection | None:
        """What is kept with the job and shown by its task; None where the order named the model."""
        if self.rule is None or self.reason is None:
            return None
        return {"asked": self.asked, "model": self.model.id, "rule": self.rule, "reason": self.reason}


class Check(Protocol):
    """Checks the order by a model's rules. Raises InvalidOrderError."""

    def __call__(self, model: Model, *, lenient: bool) -> CheckedOrder: ...


def select(
    candidates: Sequence[Model],
    check: Check,
    *,
    operation: str,
    asked: str | None,
    goal: Goal,
    lenient: bool,
    default: Default | None = None,
) -> Selection:
    """The first candidate that takes the order as it is; with ``lenient``, else the first that takes part of it.

    ``default`` comes before all of them. Raises: InvalidOrderError saying what the nearest candidate finds.
    """
    if default is not None:
        candidates = [default.model, *(model for model in candidates if model.id != default.model.id)]
    if not candidates:
        words = f"no configured provider offers {spoken(operation)}"
        raise InvalidOrderError([FieldFault("model", "no_model_available", words)])
    refused: dict[str, list[FieldFault]] = {}
    for dropping in (False, True) if lenient else (False,):
        refused.clear()
        for model in candidates:
            try:
                checked = check(model, lenient=dropping)
            except InvalidOrderError as error:
                if operation in NEEDS_PROMPT and ("prompt", "required") in map(_about, error.faults):
                    raise
                refused[model.id] = list(error.faults)
            else:
                if default is not None and model is default.model:
                    return Selection(model, checked, asked, default.rule, default.reason)
                reason = _reason(goal, operation, len(candidates), list(refused))
                return Selection(model, checked, asked, _RULES[goal], reason)
    raise InvalidOrderError(_faults(operation, refused))


def _reason(goal: Goal, operation: str, count: int, refused: Sequence[str]) -> str:
    what = spoken(operation)
    words = f"{_BEST[goal]} of {count} models for {what}" if count > 1 else f"the only model for {what}"
    if not refused:
        return words
    more = f" and {len(refused) - NAMED_AT_MOST} more" if len(refused) > NAMED_AT_MOST else ""
    return f"{words} that takes this order; {', '.join(refused[:NAMED_AT_MOST])}{more} would not"


def _faults(operation: str, refused: Mapping[str, list[FieldFault]]) -> list[FieldFault]:
    """What is wrong for the nearest model; and, unless it is the order's own fault, that none takes it."""
    nearest = min(refused, key=lambda model_id: len(refused[model_id]))
    faults = refused[nearest]
    shared = set.intersection(*({_about(fault) for fault in faults} for faults in refused.values()))
    if all(fault.code in _OWN_FAULTS and _about(fault) in shared for fault in faults):
        return faults
    words = f"none of {len(refused)} models for {spoken(operation)} takes this order as it is; {nearest} comes nearest"
    if len(refused) == 1:
        words = f"{nearest} is the only model for {spoken(operation)}, and does not take this order as it is"
    return [FieldFault("model", "no_model_fits", words), *faults]


def told_of(faults: Sequence[FieldFault], strays: Sequence[FieldFault]) -> list[FieldFault]:
    """The faults of an order that no model takes, where ``strays`` are about fields that no model has: these are told
    as such, and where nothing else is wrong, nothing is said of the models."""
    by_field = {stray.field: stray for stray in strays}
    told = [by_field.get(fault.field, fault) for fault in faults]
    others = [fault for fault in told if fault.field not in by_field]
    return told[1:] if strays and [fault.code for fault in others] == ["no_model_fits"] else told


def _about(fault: FieldFault) -> tuple[str, str]:
    return fault.field, fault.code
