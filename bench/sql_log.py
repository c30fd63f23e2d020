"""PostgreSQL's own account of its work: a server that logs every statement, and who sent it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.embedded.postgres import EmbeddedPostgres
from core.embedded.processes import Program

SHOWN_CHARS = 160
_ASKED = re.compile(r"bench\|(?P<application>[^|]*)\|(?P<pid>\d+)\|LOG:  (?:statement|execute [^:]*): (?P<sql>.*)")


class LoggingPostgres(EmbeddedPostgres):
    """The embedded server with ``<folder>/log`` switched on: one entry for every statement, without its values."""

    def program(self) -> Program:
        program = super().program()
        # The last of two settings of one name counts.
        settings = ("log_line_prefix=bench|%a|%p|", "log_statement=all", "log_parameter_max_length=0")
        return replace(program, argv=[*program.argv, *(word for each in settings for word in ("-c", each))])


@dataclass(frozen=True, slots=True)
class Asked:
    """One statement as the server saw it. ``application``: web, worker, clock ... as they call themselves."""

    application: str
    session: int
    sql: str


@dataclass(slots=True)
class Bill:
    """How many statements, by text, and in how many transactions."""

    statements: Counter[str] = field(default_factory=Counter)
    commits: int = 0


def read(log: Path, start: int = 0) -> Iterator[Asked]:
    """The statements of a log from byte ``start`` on."""
    with log.open("rb") as file:
        file.seek(start)
        yield from parse(line.decode(errors="replace").rstrip("\n") for line in file)


def parse(lines: Iterable[str]) -> Iterator[Asked]:
    """The lines of a longer statement begin with a tab."""
    entry: list[str] = []
    for line in lines:
        if line.startswith("\t"):
            entry.append(line.strip())
            continue
        yield from _asked(entry)
        entry = [line]
    yield from _asked(entry)


def _asked(entry: list[str]) -> Iterator[Asked]:
    found = _ASKED.fullmatch(" ".join(entry))
    if found:
        yield Asked(found["application"], int(found["pid"]), found["sql"].strip())


def bill(asked: Iterable[Asked]) -> Bill:
    """BEGIN and COMMIT enclose a transaction; a single statement is its own transaction."""
    done, open_ones = Bill(), set()
    for each in asked:
        match each.sql.upper().split()[:1]:
            case ["BEGIN"]:
                open_ones.add(each.session)
            case ["COMMIT"]:
                done.commits += 1
                open_ones.discard(each.session)
            case ["ROLLBACK"]:
                open_ones.discard(each.session)
            case _:
                done.statements[each.sql[:SHOWN_CHARS]] += 1
                done.commits += each.session not in open_ones
    return done
