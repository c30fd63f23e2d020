"""Judging every rule in turn: one worker of the fleet does it, by what the database knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog
from sqlalchemy import text

from core import key_values
from core.db import Database, Hot
from core.errors import DatabaseBusyError
from jobs.abuse import figures, overrides
from jobs.abuse.events import Event
from jobs.abuse.figures import Figure, Ordered, Usual
from jobs.abuse.judging import Trip, trips
from jobs.abuse.rules import Rule, Rules
from jobs.abuse.spend import Spend
from jobs.abuse.tallies import TallyKind
from jobs.abuse.tripping import trip

log = structlog.get_logger(__name__)

TURN: Final = "abuse"
# So many trips are written in a round; what is left trips in the next one, for it holds then, too.
TRIPS_A_ROUND: Final = 500

_NOW = text("SELECT clock_timestamp()")


@dataclass
class Evaluation:
    """Judges the rules for one worker. ``targets``: the operator's receivers (webhooks.operator)."""

    database: Database
    rules: Mapping[str, Rule]
    targets: Collection[str] = ()
    _spend: Spend = field(default_factory=Spend, init=False)
    _usual: tuple[datetime, dict[str, Usual]] | None = field(default=None, init=False)

    def evaluate_in_turn(self, *, owner: str, every_s: float) -> Sequence[Event] | None:
        """Judge every rule, if no worker has in ``every_s`` seconds; None where one has. Raises DatabaseAwayError."""
        with self.database.autocommit() as connection:
            # A little early, so that a worker's own timer does not miss every other turn.
            if not key_values.take_turn(connection, TURN, every_s=0.9 * every_s, value=owner):
                return None
            now = connection.execute(_NOW).scalar_one()
        return self.evaluate(now)

    def evaluate(self, now: datetime) -> Sequence[Event]:
        """Judge every rule as of ``now``; what tripped and had not in its window. Raises DatabaseAwayError."""
        with self.database.autocommit() as connection:
            rules = Rules(self.rules, overrides.overrides(connection))
        found = self._trips(rules, now)
        written = 0
        tripped: list[Event] = []
        for each in found:
            if written >= TRIPS_A_ROUND:
                log.warning("abuse_trips_left", left=len(found) - TRIPS_A_ROUND)
                break
            if event := trip(self.database, each, now, targets=self.targets):
                tripped.append(event)
                written += 1
        return tripped

    def _trips(self, rules: Rules, now: datetime) -> list[Trip]:
        found: list[Trip] = []
        readings = Readings(self._spend, now)
        for name, rule in rules.installation.items():
            if not rules.in_use(name):
                continue
            try:
                with self.database.hot() as hot:
                    usual = self._usual_days(hot, now) if _needs_usual(rules, name) else {}
                    figures_read = readings.of(hot, rule)
            except DatabaseBusyError as error:
                log.warning("abuse_rule_not_judged", rule=name, detail=error.detail)
            else:
                found += trips(rules, name, figures_read, usual, now)
        return found

    def _usual_days(self, hot: Hot, now: datetime) -> dict[str, Usual]:
        """The usual days of accounts, which are read once a day."""
        today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self._usual is None or self._usual[0] != today:
            self._usual = (today, figures.usual_days(hot, today))
        return self._usual[1]


def _needs_usual(rules: Rules, name: str) -> bool:
    own = rules.changed_names.get(name, ())
    return any(rules.of(name, account).times_usual is not None for account in (None, *own))


class Readings:
    """What happened, read once a round for all rules that look at the same."""

    def __init__(self, spend: Spend, now: datetime) -> None:
        self._spend = spend
        self._now = now
        self._ordered: dict[datetime, list[Ordered]] = {}
        self._read: dict[tuple[object, ...], list[Figure]] = {}

    def of(self, hot: Hot, rule: Rule) -> list[Figure]:
        """The figures that a rule looks at. Raises DatabaseBusyError."""
        same = (rule.kind, rule.window, rule.per, rule.measure)
        if same not in self._read:
            self._read[same] = self._figures(hot, rule)
        return self._read[same]

    def _figures(self, hot: Hot, rule: Rule) -> list[Figure]:
        since = rule.since(self._now)
        if rule.kind == "refusals":
            return figures.refused(hot, since, self._now, rule.per)
        if rule.kind == "bad_keys":
            kind: TallyKind = "wrong_address" if rule.per == "address" else "wrong_key"
            return figures.tallied(hot, kind, since, self._now)
        if rule.measure == "requests":
            return figures.tallied(hot, "requests", since, self._now)
        if isinstance(rule.window, str):
            return self._spend.of(hot, rule.window, since, self._now)
        measure = "spent" if rule.kind == "spend" else rule.measure or "jobs"
        known = self._known_ordered(hot, since)
        return figures.by(rule.per, {(each.account_id, each.key_id): getattr(each, measure) for each in known})

    def _known_ordered(self, hot: Hot, since: datetime) -> list[Ordered]:
        if since not in self._ordered:
            self._ordered[since] = figures.ordered(hot, since, self._now)
        return self._ordered[since]
