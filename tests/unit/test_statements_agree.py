"""Statements are written as a whole, so some parts exist twice; this compares the parts that must be equal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import jobs
from jobs.dispatch import permits
from jobs.documents import StepData
from jobs.lifecycle import calls
from jobs.lifecycle.end import END
from jobs.lifecycle.park import PARK
from jobs.lifecycle.start import START


def part(sql: str, name: str) -> str:
    """Return the body of one part of a WITH, without comments and with white space folded."""
    begin = re.search(rf"^(?:WITH )?{name} AS \(", sql, re.MULTILINE)
    assert begin, f"there is no part {name}"
    depth, at = 1, begin.end()
    while depth:
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        at += 1
    return " ".join(re.sub(r"--[^\n]*", "", sql[begin.end() : at - 1]).split())


@pytest.mark.parametrize("name", ["bound", "permit", "token", "tokens_taken"])
def test_a_first_attempt_and_a_retry_take_permits_by_the_same_sql(name: str) -> None:
    assert part(START.sql, name) == part(permits.TAKE, name)


def test_a_first_attempt_and_a_retry_count_what_they_took_by_the_same_sql() -> None:
    assert part(START.sql, "took").replace("pick.base_url, ", "") == part(permits.TAKE, "took")


@pytest.mark.parametrize("name", ["said", "image", "freed"])
def test_park_and_end_record_calls_by_the_same_sql(name: str) -> None:
    parked, ended = part(PARK.sql, name), part(END.sql, name)
    assert ended.removesuffix(" RETURNING permits.number") == parked


def test_every_statement_that_records_an_outcome_writes_all_its_columns() -> None:
    """RECORD and PARK may also change a call's deadline; an end does not."""

    def columns(sql: str) -> set[str]:
        return set(re.findall(r"\b([a-z_]+) = ", part(sql, "call").split("FROM said")[0]))

    assert columns(PARK.sql) == columns(calls.RECORD.sql)
    assert columns(PARK.sql) - columns(END.sql) == {"give_up_at"}


def test_every_key_of_a_timeline_step_is_documented() -> None:
    """What the statements of ``jobs`` put into ``job_events.data`` against ``StepData``."""
    written: set[str] = set()
    for source in Path(jobs.__path__[0]).rglob("*.py"):
        for inserted in source.read_text(encoding="utf-8").split("INSERT INTO job_events")[1:]:
            event = re.split(r"^\)|^SELECT|^\"\"\"", inserted, maxsplit=1, flags=re.MULTILINE)[0]
            for data in event.split("jsonb_build_object(")[1:]:
                written |= set(re.findall(r"'(\w+)',", re.split(r"\bFROM\b", data)[0]))
    assert written == StepData.__annotations__.keys()
