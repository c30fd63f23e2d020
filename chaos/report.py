"""What a run found, as a table for people and a document for programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.verdict import Violation


@dataclass(frozen=True)
class Report:
    """Figures of one run. ``recovery_s`` is, by kind of fault, from its end to the first image ordered after it."""

    seed: int
    minutes: float
    ordered: int
    accepted: int
    refused: int
    ended: Mapping[str, int]  # by status
    failures: Mapping[str, int]  # by code
    images: int
    faults: Mapping[str, int]
    recovery_s: Mapping[str, Sequence[float]]
    takeover_s: Sequence[float]  # from a worker's death to its jobs being taken from it
    drain_s: float
    violations: Sequence[Violation]

    def count(self, *promises: str) -> int:
        return sum(1 for violation in self.violations if violation.promise in promises)

    @property
    def clean(self) -> bool:
        return not self.violations and self.accepted > 0

    def zeros(self) -> dict[str, int]:
        """What must be zero."""
        return {
            "lost": self.count("lost"),
            "double submits": self.count("double"),
            "drift": self.count("drift"),
            "stuck": self.count("stuck"),
            "images missing or broken": self.count("picture"),
            "one key, two answers": self.count("idempotency"),
            "callbacks missing, doubled or wrong": self.count("callback"),
            "streams that lost or repeated": self.count("stream"),
            "secrets in logs": self.count("secret"),
        }

    def document(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "clean": self.clean,
            "ordered": self.ordered,
            "accepted": self.accepted,
            "refused": self.refused,
            "ended": dict(self.ended),
            "failures": dict(self.failures),
            "pictures": self.images,
            **{name.replace(" ", "_").replace(",", ""): count for name, count in self.zeros().items()},
            "faults": dict(self.faults),
            "recovery_s": {kind: _percentiles(values) for kind, values in self.recovery_s.items()},
            "takeover_s": _percentiles(self.takeover_s),
            "drain_s": round(self.drain_s, 1),
            "violations": [vars(violation) for violation in self.violations],
        }

    def show(self, console: Console) -> None:
        console.print(self._figures(), self._recoveries())
        for violation in self.violations[:50]:
            console.print(f"[red]{violation.promise}[/] {violation.subject}: {violation.detail}", markup=True)
        verdict = "[green]clean[/]" if self.clean else "[red]NOT clean[/]"
        console.print(f"{verdict}: seed {self.seed}, {self.minutes:g} minutes, drained in {self.drain_s:.0f} s")

    def _figures(self) -> Table:
        table = Table("", "count", title="Jobs")
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.ended.items()))
        table.add_row("ordered", str(self.ordered))
        table.add_row("accepted", str(self.accepted))
        table.add_row("refused", str(self.refused))
        table.add_row("ended", f"{sum(self.ended.values())} ({ended})")
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self.failures.items()))
        table.add_row("failed because", codes or "-")
        table.add_row("images fetched, hashes compared", str(self.images))
        for name, count in self.zeros().items():
            table.add_row(f"{name} (0)", f"[red]{count}[/]" if count else "0")
        return table

    def _recoveries(self) -> Table:
        table = Table(
            "fault", "times", "p50", "p95", title="Seconds from the fault to the first image ordered after it"
        )
        for kind, times in sorted(self.faults.items()):
            figures = _percentiles(self.recovery_s.get(kind, ()))
            table.add_row(kind, str(times), str(figures.get("p50", "-")), str(figures.get("p95", "-")))
        figures = _percentiles(self.takeover_s)
        if figures:
            table.add_section()
            table.add_row(
                "jobs taken from a dead worker", str(len(self.takeover_s)), str(figures["p50"]), str(figures["p95"])
            )
        return table


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    if len(values) == 1:
        return {"p50": round(values[0], 1), "p95": round(values[0], 1), "max": round(values[0], 1)}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": round(statistics.median(values), 1), "p95": round(cuts[18], 1), "max": round(max(values), 1)}
