"""The result: rows of ours against a baseline, judged by a bound, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Of = Literal["ratio", "ours"]
COLOURS = {"pass": "green", "miss": "red", "": "dim"}


@dataclass(frozen=True, slots=True)
class Bound:
    """A target. ``of`` says what it binds: the ratio to the baseline, or our own figure."""

    of: Of
    at_least: float | None = None
    at_most: float | None = None
    binding: bool = True  # False: shown for orientation, never a miss

    def holds(self, value: float) -> bool:
        return not (
            (self.at_least is not None and value < self.at_least) or (self.at_most is not None and value > self.at_most)
        )

    def __str__(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{'' if self.binding else 'info '}{self.of} {sign} {limit:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """``ours`` and ``baseline`` are in ``unit``. ``more`` goes into the JSON alone."""

    what: str
    unit: str
    ours: float
    baseline: float | None = None
    baseline_is: str = ""
    bound: Bound | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.baseline if self.baseline else None

    @property
    def verdict(self) -> Literal["pass", "miss", ""]:
        """The verdict; empty without a target, or without a baseline."""
        if self.bound is None or not self.bound.binding:
            return ""
        value = self.ratio if self.bound.of == "ratio" else self.ours
        if value is None:
            return ""
        return "pass" if self.bound.holds(value) else "miss"


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="Darkroom, ratios within this run", title_justify="left")
    for name, justify in (("what", "left"), ("ours", "right"), ("baseline", "right"), ("ratio", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("target")
    table.add_column("")
    for row in rows:
        verdict = row.verdict
        table.add_row(
            row.what,
            f"{figure(row.ours)} {row.unit}",
            f"{figure(row.baseline)} {row.baseline_is}" if row.baseline is not None else "",
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            str(row.bound) if row.bound else "",
            f"[{COLOURS[verdict]}]{verdict}",
        )
    console.print(table)


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([_plain(row) for row in rows], indent=2, ensure_ascii=False)


def _plain(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "unit": row.unit,
        "ours": row.ours,
        "baseline": row.baseline,
        "baseline_is": row.baseline_is,
        "ratio": row.ratio,
        "target": str(row.bound) if row.bound else None,
        "verdict": row.verdict or None,
        **row.more,
    }


def figure(value: float) -> str:
    """Three significant digits: 1234, 56.7, 0.123."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
