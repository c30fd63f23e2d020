"""The output of a command, and its exit code.

Results go to stdout, everything about them (progress, warnings, errors) to stderr, so that output can be piped. With
``--json`` stdout has one JSON document, or one per line where a command streams; an error is then a document as well
as a line on stderr.

Text from a server is shown only after :func:`plain`, because a prompt or an error message may contain terminal
escapes. This module loads neither rich nor requests at import, because ``darkroom --help`` uses it.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any

import click

JSON_ASKED = "darkroom.json"


class Exit(IntEnum):
    """What scripts may rely on. The meanings below are what ``darkroom --help`` prints."""

    OK = 0
    FAILED = 1
    USAGE = 2
    AWAY = 3
    NOT_ALLOWED = 4
    INSUFFICIENT_CREDITS = 5
    CANCELLED = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


EXIT_MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "the job failed, the request was refused, or an audit found something",
    Exit.USAGE: "the command, an option or a local file is not right; nothing was sent",
    Exit.AWAY: "the server or the database is away, or something else answers at its address",
    Exit.NOT_ALLOWED: "no key, a wrong key, or a key without the needed scope",
    Exit.INSUFFICIENT_CREDITS: "the balance does not cover the price",
    Exit.CANCELLED: "the job was cancelled",
    Exit.TIMED_OUT: "--timeout passed before the job ended; the job goes on",
    Exit.INTERRUPTED: "Ctrl-C; an accepted job goes on",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad field of a request."""

    field: str
    code: str
    message: str


class CommandError(Exception):
    """Why a command ends without its result; ``darkroom`` prints it and exits with ``exit_code``.

    ``code`` is stable (a server's problem code, or one of ours), ``hint`` says what to do next;
    ``printed`` means that stdout already has a JSON document with it.
    """

    def __init__(
        self,
        exit_code: Exit,
        code: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        hint: str = "",
        facts: Mapping[str, Any] | None = None,
        printed: bool = False,
    ) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.hint = hint
        self.facts = dict(facts or {})
        self.printed = printed

    def lines(self) -> list[str]:
        """The error for people: what, each bad field, which request, what to do."""
        # The detail of a refused order repeats its faults; each is worth one line, not two.
        what = f"darkroom: {plain(self.code)}" + ("" if self.faults else f": {plain(self.detail)}")
        lines = [what, *(f"  {plain(f.field)}: {plain(f.message)} ({plain(f.code)})" for f in self.faults)]
        if request_id := self.facts.get("request_id"):
            lines.append(f"  request {plain(str(request_id))}")
        return [*lines, *([f"  {plain(self.hint)}"] if self.hint else [])]

    def document(self) -> dict[str, Any]:
        """The error for scripts."""
        faults = [{"field": f.field, "code": f.code, "message": f.message} for f in self.faults]
        facts = {"errors": faults, **self.facts} if faults else self.facts
        return {"error": {"code": self.code, "detail": self.detail, "exit_code": int(self.exit_code), **facts}}


@dataclass(frozen=True, slots=True)
class Output:
    """The mode of this run's output: ``as_json`` for scripts, ``quiet`` for results and errors only."""

    as_json: bool = False
    quiet: bool = False

    @property
    def lively(self) -> bool:
        """Whether the output is a terminal that can redraw a line."""
        return not self.as_json and not self.quiet and sys.stdout.isatty() and sys.stderr.isatty()

    def document(self, value: Any) -> None:
        """One JSON document on one line; nothing without ``--json``."""
        if self.as_json:
            # ASCII, so that no locale can refuse it and no escape reaches a terminal.
            click.echo(json.dumps(value, ensure_ascii=True, default=_jsonable))

    def error(self, error: CommandError) -> None:
        """Lines on stderr, and with ``--json`` a document on stdout unless there is one already (``printed``)."""
        for line in error.lines():
            click.echo(line, err=True)
        if not error.printed:
            with suppress(OSError):  # stdout may be what failed; stderr has the error
                self.document(error.document())

    def line(self, text: str) -> None:
        """A result for people (and for ``$(...)``); silent with ``--json``."""
        if not self.as_json:
            click.echo(plain(text))

    def note(self, text: str) -> None:
        """Something about the result; stays off stdout and gives way to ``--quiet``."""
        if not self.as_json and not self.quiet:
            click.echo(plain(text), err=True)

    def warn(self, text: str) -> None:
        """Something that must be seen in every mode."""
        click.echo(f"warning: {plain(text)}", err=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Rows for people; complete cells, however wide, when the output is not a terminal."""
        if not self.as_json:
            _print_table(columns, rows)


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain("" if cell is None else str(cell))) for cell in row))
    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else 4096).print(table)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json`` and ``--quiet``; the command receives an :class:`Output` first."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
    @click.option("--quiet", "-q", is_flag=True, help="Print results and errors only.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        click.get_current_context().meta[JSON_ASKED] = as_json
        return command(Output(as_json=as_json, quiet=quiet), *args, **kwargs)

    return wrapped


def plain(text: str) -> str:
    """Text without control characters (terminal escapes among them), tabs and line ends apart."""
    return "".join(c if c in "\n\t" or (c.isprintable() or c == "\u200d") else "\ufffd" for c in text)


def one_line(text: str, width: int) -> str:
    """The beginning of a text on one line of at most ``width`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def size_text(size_bytes: int) -> str:
    """``'812 kB'``: thousands, as file managers count."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1_000_000 else f"{size_bytes / 1000:.0f} kB"


def elapsed_text(seconds: float) -> str:
    """``'1:05'`` minutes and seconds, ``'2:00:00'`` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def credits_of(microcredits: object) -> str:
    """Micro-credits as a decimal number of credits; empty where the server gives none."""
    if not isinstance(microcredits, int):
        return ""
    return f"{(Decimal(microcredits) / 1_000_000).normalize():f}"


def from_os_error(error: OSError) -> CommandError:
    """A local fault (disk full, no permission, no such folder) as one line."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    where = f"{error.filename}: " if error.filename else ""
    return CommandError(Exit.FAILED, "local_fault", f"{where}{reason}")


def _jsonable(value: object) -> str:
    """Times and paths as text."""
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat()) if isoformat else str(value)
