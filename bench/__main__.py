"""``python -m bench``: measure, and print the table (docs/benchmarks.md says how to read it)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from bench import (
    convoy,
    cost,
    edge,
    estimates,
    expiry,
    flood,
    growth,
    inflight,
    life,
    openai_route,
    permits,
    simulation,
    usage,
    waiting,
)
from bench.table import Row, as_json, show

PARTS = (
    *("edge", "openai", "life", "cost", "convoy", "flood", "permits", "inflight", "waiting", "expiry", "estimates"),
    *("simulation", "usage"),
    "growth",
)
DEFAULT = tuple(part for part in PARTS if part != "growth")
EXPIRED_ROWS, EXPIRED_ROWS_BIG = 5_000, 100_000
ESTIMATED_JOBS = 250
COSTED_JOBS = 100
FLOOD, BIG_FLOOD = 3_000, 20_000
PERMITS_FLOOD = 2_000
IN_FLIGHT, BIG_IN_FLIGHT = 2_000, 50_000
FINISHED, BIG_FINISHED = 100_000, 1_000_000
QUEUED, BIG_QUEUED = 5_000, 50_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns 1 when a row misses its target, for scripts."""
    options = _parser().parse_args(arguments)
    progress = Console(stderr=True)
    rows: list[Row] = []
    with _folder(options.var) as folder:
        for name, measure in _parts(options, folder):
            with progress.status(f"measuring: {name} ..."):
                rows += measure()
    if options.json:
        print(as_json(rows))
    else:
        show(rows, Console(width=None if sys.stdout.isatty() else 160))
    return 1 if any(row.verdict == "miss" for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part alone (may be repeated)")
    parser.add_argument("--jobs", type=int, default=300, help="jobs in a round of whole lives (default: 300)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each contender at the edge (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of such a round (default: 1.5)")
    parser.add_argument(
        "--big", action="store_true", help="the sizes of the targets, and growth as well; takes half an hour"
    )
    parser.add_argument(
        "--finished", type=int, help="finished jobs for growth and usage (default: 100000; --big: 1000000)"
    )
    parser.add_argument("--queued", type=int, help="queued jobs for growth (default: 5000; --big: 50000)")
    parser.add_argument("--flood", type=int, help="orders of the flooding account (default: 3000; --big: 20000)")
    parser.add_argument("--in-flight", type=int, help="images in progress at once (default: 2000; --big: 50000)")
    parser.add_argument("--var", type=Path, help="keep data and logs of the measured services in this folder")
    return parser


def _parts(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    wanted = options.only or (PARTS if options.big else DEFAULT)
    parts: dict[str, Callable[[], list[Row]]] = {
        "edge": lambda: edge.measure(folder, rounds=options.rounds, seconds=options.seconds),
        "openai": lambda: openai_route.measure(folder, seconds=2 * options.seconds),
        "life": lambda: life.measure(folder, jobs=options.jobs),
        "cost": lambda: cost.measure(folder, jobs=min(options.jobs, COSTED_JOBS)),
        "flood": lambda: flood.measure(folder, jobs=options.flood or (BIG_FLOOD if options.big else FLOOD)),
        "permits": lambda: permits.measure(folder, jobs=options.flood or PERMITS_FLOOD),
        "convoy": lambda: convoy.measure(folder),
        "growth": lambda: growth.measure(
            folder,
            finished=options.finished or (BIG_FINISHED if options.big else FINISHED),
            queued=options.queued or (BIG_QUEUED if options.big else QUEUED),
            jobs=options.jobs,
            rounds=options.rounds,
            seconds=options.seconds,
        ),
        "inflight": lambda: inflight.measure(
            folder, jobs=options.in_flight or (BIG_IN_FLIGHT if options.big else IN_FLIGHT)
        ),
        "waiting": lambda: waiting.measure(folder),
        "expiry": lambda: expiry.measure(folder, rows=EXPIRED_ROWS_BIG if options.big else EXPIRED_ROWS),
        "usage": lambda: usage.measure(folder, jobs=options.finished or (BIG_FINISHED if options.big else FINISHED)),
        "estimates": lambda: estimates.measure(folder, jobs=min(options.jobs, ESTIMATED_JOBS)),
        "simulation": simulation.measure,
    }
    yield from ((name, part) for name, part in parts.items() if name in wanted)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
