"""Comparing figures with rules: what trips, and by which numbers. Pure; ``Readings`` are read before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict

from core.wire import rfc3339
from jobs.abuse.figures import Figure, Usual
from jobs.abuse.rules import Rule, Rules
from quota.prices import MICROCREDITS_PER_CREDIT

DAY_S = 86_400


class Figures(TypedDict):
    """The numbers by which a rule tripped, as they are kept and told. ``usual``: of the same length of time."""

    value: float
    threshold: float
    unit: str
    window: str
    since: str
    usual: NotRequired[float]
    budget: NotRequired[float]


@dataclass(frozen=True, slots=True)
class Trip:
    """A rule that holds for a figure: ``rule`` is as it is for that account."""

    rule: Rule
    figure: Figure
    figures: Figures


def trips(
    rules: Rules, name: str, readings: Sequence[Figure], usual: dict[str, Usual], now: datetime
) -> Iterator[Trip]:
    """What trips of the figures that were read for a rule."""
    for figure in readings:
        rule = rules.of(name, figure.account_id)
        if not rule.enabled:
            continue
        known = threshold(rule, figure, usual.get(figure.account_id or ""))
        if known is not None and figure.value > 0 and figure.value >= known:
            yield Trip(rule, figure, _figures(rule, figure, known, usual.get(figure.account_id or ""), now))


def threshold(rule: Rule, figure: Figure, usual: Usual | None) -> float | None:
    """From which figure on the rule trips, in the figure's own unit; None: never, for there is nothing to compare
    with."""
    worth = _worth(rule)
    if rule.percent is not None:
        budget = figure.budget if rule.budget is None else rule.budget * worth
        return None if budget is None else budget * rule.percent / 100
    least = (rule.at_least or 0) * worth
    if rule.times_usual is None:
        return least
    return None if usual is None else max(least, rule.times_usual * usual_of(rule, usual))


def usual_of(rule: Rule, usual: Usual) -> float:
    """What is usual in a window of the rule: a part of the account's day."""
    of_day = usual.captured if rule.kind == "spend" else usual.images if rule.measure == "images" else usual.jobs
    return of_day if rule.calendar else of_day * rule.window_s / DAY_S


def _worth(rule: Rule) -> int:
    return MICROCREDITS_PER_CREDIT if rule.kind == "spend" else 1


def _figures(rule: Rule, figure: Figure, known: float, usual: Usual | None, now: datetime) -> Figures:
    worth = _worth(rule)
    found: Figures = {
        "value": round(figure.value / worth, 6),
        "threshold": round(known / worth, 6),
        "unit": unit_of(rule),
        "window": window_text(rule),
        "since": rfc3339(rule.since(now)) or "",
    }
    if rule.times_usual is not None and usual is not None:
        found["usual"] = round(usual_of(rule, usual) / worth, 6)
    budget = figure.budget if rule.budget is None else rule.budget * worth
    if rule.percent is not None and budget is not None:
        found["budget"] = round(budget / worth, 6)
    return found


def unit_of(rule: Rule) -> str:
    """What a rule counts."""
    return {"spend": "credits", "refusals": "refusals", "bad_keys": "wrong keys"}.get(rule.kind) or rule.measure or ""


def window_text(rule: Rule) -> str:
    """The window as the operator's file says it."""
    if rule.calendar:
        return str(rule.window)
    for unit, seconds in (("h", 3600), ("m", 60)):
        if rule.window_s % seconds == 0:
            return f"{rule.window_s // seconds}{unit}"
    return f"{rule.window_s}s"
