"""The rules: what an operator's file says of them, checked, and as they hold for one account."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

Kind = Literal["spend", "refusals", "bad_keys", "load"]
Action = Literal["log", "notify", "pause_key"]
Per = Literal["account", "key", "address"]
Measure = Literal["jobs", "images", "requests"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

MAX_RULES = 100
MAX_FILE_BYTES = 256 * 1024
MIN_WINDOW_S, MAX_WINDOW_S = 60, 6 * 3600
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
# What one account may have of its own.
OVERRIDABLE: Final = ("enabled", "action", "at_least", "budget", "percent", "times_usual")

_UNITS = {"s": 1, "m": 60, "h": 3600}


class RulesError(ValueError):
    """The rules cannot be used; the message names every fault."""


def _window(value: object) -> object:
    """Seconds of "90s", "10m" and "1h"; anything else is left to the check."""
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,6})([smh])", value)):
        return int(found[1]) * _UNITS[found[2]]
    return value


Amount = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class Rule(BaseModel):
    """One rule. ``window``: seconds up to now, or the day or month (UTC) so far. Amounts of ``spend`` are credits,
    the others counts.

    ``at_least``: the least figure that trips; next to ``times_usual`` the least one that growth is looked at from.
    ``percent`` of ``budget``, which is the account's own spending limit of that day or month where it is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind
    window: Annotated[
        Literal["day", "month"] | Annotated[int, Field(ge=MIN_WINDOW_S, le=MAX_WINDOW_S)], BeforeValidator(_window)
    ]
    per: Per
    measure: Measure | None = None
    at_least: Amount | None = None
    budget: Amount | None = None
    percent: Annotated[float, Field(gt=0, le=1000)] | None = None
    times_usual: Annotated[float, Field(gt=1, le=1e6)] | None = None
    action: Action = "notify"
    enabled: bool = True

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """With what its kind says of what is left out."""
        if not isinstance(given, Mapping):
            return given
        kind = given.get("kind")
        by_account = kind == "spend" or given.get("times_usual") is not None
        found = {"per": "account" if by_account else "key", **given}
        return {"measure": "jobs", **found} if kind == "load" else found

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        if faults := list(_faults(self)):
            raise ValueError("; ".join(faults))
        return self

    @property
    def calendar(self) -> bool:
        """Whether its window is the day or month (UTC) so far."""
        return isinstance(self.window, str)

    @property
    def window_s(self) -> int:
        """The seconds of a window that is counted back from now. Raises TypeError for a day or month."""
        if isinstance(self.window, str):
            raise TypeError("a day or month has no fixed length")
        return self.window

    def since(self, now: datetime) -> datetime:
        """From when on it counts."""
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.window == "day":
            return day
        return day.replace(day=1) if self.window == "month" else now - timedelta(seconds=self.window_s)

    def window_at(self, now: datetime) -> datetime:
        """The start of the window that a trip is counted to: one trip for each."""
        if self.calendar:
            return self.since(now)
        return datetime.fromtimestamp(int(now.timestamp()) // self.window_s * self.window_s, UTC)


def _faults(rule: Rule) -> Iterator[str]:
    """What does not fit together, a sentence each."""
    yield from _spend_faults(rule) if rule.kind == "spend" else _count_faults(rule)
    if rule.percent is None and rule.at_least is None:
        yield "say at_least" + (", or percent" if rule.kind == "spend" else "")
    if rule.times_usual is not None:
        if rule.kind not in ("spend", "load") or rule.measure == "requests":
            yield "times_usual is of spend, jobs and images: the usual of others is not known"
        elif rule.window == "month":
            yield "times_usual goes with a window of a day at most"
        if rule.per != "account":
            yield "times_usual is per account"
    if rule.per == "address" and rule.kind != "bad_keys":
        yield "per address is of bad_keys"
    if rule.measure is not None and rule.kind != "load":
        yield "measure is of load"
    if rule.measure == "requests" and rule.per != "key":
        yield "requests are counted per key"


def _spend_faults(rule: Rule) -> Iterator[str]:
    if rule.per != "account" and rule.calendar:
        yield "spend of a day or month is per account: a key has its own spending limits"
    if rule.percent is not None and not rule.calendar:
        yield "percent goes with the window day or month"
    if rule.percent is not None and (rule.at_least is not None or rule.times_usual is not None):
        yield "percent does not go with at_least or times_usual"
    if rule.budget is not None and rule.percent is None:
        yield "budget goes with percent"


def _count_faults(rule: Rule) -> Iterator[str]:
    if rule.calendar:
        yield f"the window of {rule.kind} is from {MIN_WINDOW_S} s to {MAX_WINDOW_S // 3600} h"
    if rule.percent is not None or rule.budget is not None:
        yield "percent and budget are of spend"
    if rule.kind == "bad_keys" and rule.per == "account":
        yield "bad_keys are per key or address"
    if rule.kind == "bad_keys" and rule.action == "pause_key":
        yield "bad_keys cannot pause a key: anyone who knows its id could have it paused"


@dataclass(frozen=True)
class Rules:
    """The installation's rules, and what accounts have in place of them: changes by account and name of the rule."""

    installation: Mapping[str, Rule]
    overrides: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def of(self, name: str, account_id: str | None) -> Rule:
        """A rule as it holds for an account; changes that no longer fit the rule are left out."""
        rule = self.installation[name]
        changes = self.overrides.get(account_id or "", {}).get(name)
        if not changes:
            return rule
        try:
            return changed(rule, changes)
        except RulesError:
            return rule

    @cached_property
    def changed_names(self) -> Mapping[str, frozenset[str]]:
        """The accounts that have something of their own in place of a rule."""
        names = {name for changes in self.overrides.values() for name in changes}
        return {
            name: frozenset(account for account, changes in self.overrides.items() if name in changes) for name in names
        }

    def in_use(self, name: str) -> bool:
        """Whether a rule may trip for any account."""
        return self.installation[name].enabled or bool(self.changed_names.get(name))


def changed(rule: Rule, changes: Mapping[str, Any]) -> Rule:
    """A rule with other members. Raises RulesError."""
    if unknown := sorted(set(changes) - set(OVERRIDABLE)):
        raise RulesError(f"{rule.name}: an account cannot have its own {', '.join(unknown)}")
    try:
        return Rule.model_validate({**rule.model_dump(), **changes})
    except ValidationError as error:
        raise RulesError("; ".join(_words(rule.name, error))) from None


def load(path: Path) -> dict[str, Rule]:
    """The installation's rules by name: the packaged ones, with those of the operator's file over them where there is
    one. Raises RulesError naming every fault."""
    packaged = yaml.safe_load(resources.files(__package__).joinpath("rules.yaml").read_text(encoding="utf-8"))
    return read(_members(packaged, "the packaged rules"), _own(path), str(path))


def read(packaged: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Rule]:
    """The rules of two documents, the second over the first. Raises RulesError naming every fault."""
    faults: list[str] = []
    found: dict[str, Rule] = {}
    for name in dict.fromkeys([*packaged, *own]):
        changes = own.get(name, {})
        if not isinstance(name, str) or not NAME.fullmatch(name):
            faults.append(f"{name!r}: a name has up to 50 lower-case letters, digits and dashes")
        elif not isinstance(changes, Mapping):
            faults.append(f"{name}: it must be a mapping")
        elif "name" in changes:
            faults.append(f"{name}: the name stands before the colon")
        else:
            try:
                found[name] = Rule.model_validate({**packaged.get(name, {}), **changes, "name": name})
            except ValidationError as error:
                faults += _words(name, error)
    if len(found) > MAX_RULES:
        faults.append(f"there are {len(found)} rules, and {MAX_RULES} at most")
    if faults:
        raise RulesError(f"{where}: {'; '.join(faults)}")
    return found


def _own(path: Path) -> Mapping[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise RulesError(f"{path}: it has more than {MAX_FILE_BYTES} bytes")
    try:
        return _members(yaml.safe_load(data) or {}, str(path))
    except yaml.YAMLError as error:
        raise RulesError(f"{path}: {error}") from None


def _members(document: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(document, Mapping) or set(document) - {"rules"}:
        raise RulesError(f"{where}: it has one member, rules")
    rules = document.get("rules") or {}
    if not isinstance(rules, Mapping):
        raise RulesError(f"{where}: rules must be a mapping, by name")
    return rules


def _words(name: str, error: ValidationError) -> list[str]:
    return [
        f"{'.'.join([name, *(str(part) for part in each['loc'][:1])])}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors(include_url=False, include_input=False)
    ]
