"""Option types that several commands share."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import click

MICROCREDITS_PER_CREDIT = 1_000_000
BIGINT_MAX = 2**63 - 1

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Duration(click.ParamType[int]):
    """``90``, ``90s``, ``15m``, ``12h``, ``30d`` or ``2w``, as whole seconds above zero."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", str(value).strip())
        seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
        if seconds <= 0:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 12h or 30d", param, ctx)
        return seconds


class Setting(click.ParamType[tuple[str, Any]]):
    """``name=value``: the value as JSON where it is JSON (``4``, ``true``, ``{...}``), else as text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        field, equals, text = str(value).partition("=")
        if not equals or not field.isidentifier():
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        try:
            return field, json.loads(text, parse_constant=_no_constant)
        except ValueError:
            return field, text


class Label(click.ParamType[tuple[str, str]]):
    """``name=value``, the value always text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        label, equals, text = str(value).partition("=")
        if not equals or not label:
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        return label, text


def _no_constant(name: str) -> Any:
    """NaN and Infinity are no JSON; as a value they are the text that was typed."""
    raise ValueError(name)


class Credits(click.ParamType[int]):
    """A decimal number of credits above zero, as exact micro-credits: ``5.3`` is 5300000."""

    name = "credits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            # Plain digits only: Decimal would also take 1e3, NaN and digits of other scripts.
            amount = Decimal(value) if re.fullmatch(r"[0-9]{1,13}(\.[0-9]+)?", str(value)) else Decimal(0)
        except InvalidOperation:  # pragma: no cover  (the pattern admits decimals alone)
            amount = Decimal(0)
        microcredits = amount * MICROCREDITS_PER_CREDIT
        if microcredits != microcredits.to_integral_value():
            self.fail(f"{value!r} is finer than a micro-credit (six decimals)", param, ctx)
        if not 0 < microcredits <= BIGINT_MAX:
            self.fail(f"{value!r} is not a positive number of credits such as 100 or 5.3", param, ctx)
        return int(microcredits)


NO_LIMIT = "none"


class Limit(Credits):
    """As :class:`Credits`, ``0`` for nothing at all, or ``none`` for no limit."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in (0, "0", NO_LIMIT):
            return NO_LIMIT if value == NO_LIMIT else 0
        return super().convert(value, param, ctx)


class LimitCount(click.ParamType[Any]):
    """A whole number above zero, or ``none`` for no limit."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == NO_LIMIT or isinstance(value, int):
            return value
        if not re.fullmatch(r"[1-9][0-9]{0,8}", str(value)):
            self.fail(f"{value!r} is no whole number from 1 to 999999999, and not {NO_LIMIT}", param, ctx)
        return int(value)


DURATION = Duration()
LIMIT = Limit()
LIMIT_COUNT = LimitCount()
SETTING = Setting()
LABEL = Label()
CREDITS = Credits()
