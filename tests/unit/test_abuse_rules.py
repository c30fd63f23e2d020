"""The file of rules on abuse: what it may say, and that every fault is named."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from app.cli.operator.abuse import ACTIONS
from app.shapes.schemas.abuse import ActionName
from jobs.abuse import rules
from jobs.abuse.rules import Rule, Rules, RulesError
from tests.unit.test_docs import ROOT

NOW = datetime(2026, 11, 18, 12, 34, 56, tzinfo=UTC)


def own(tmp_path: Path, text: str) -> dict[str, Rule]:
    file = tmp_path / "abuse.yaml"
    file.write_text(text)
    return rules.load(file)


def test_the_file_changes_switches_off_and_adds_to_the_packaged_rules(tmp_path: Path) -> None:
    packaged = rules.load(tmp_path / "none.yaml")
    found = own(
        tmp_path,
        """
rules:
  refusals: {at_least: 7, action: pause_key}
  load-growth: {enabled: false}
  burst: {kind: load, measure: requests, window: 90s, at_least: 5000}
""",
    )
    assert set(found) == {*packaged, "burst"}
    assert (found["refusals"].at_least, found["refusals"].action, found["refusals"].window) == (7, "pause_key", 3600)
    assert not found["load-growth"].enabled
    assert (found["burst"].per, found["burst"].window, found["burst"].action) == ("key", 90, "notify")
    assert own(tmp_path, "") == packaged


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RulesError) as caught:
        own(
            tmp_path,
            """
rules:
  Bad Name: {}
  text: hello
  refusals: {window: day}
  spend-growth: {action: shout}
  new: {kind: load, window: 5s, at_least: 1, colour: red}
""",
        )
    words = str(caught.value)
    for part in (
        "'Bad Name'",
        "text: it must be",
        "refusals: the window",
        "spend-growth.action",
        "new.window",
        "colour",
    ):
        assert part in words


@pytest.mark.parametrize("text", ["- a", "rules: [1]", "rule: {}", "{", "rules: {a: {name: b}}"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RulesError):
        own(tmp_path, text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "spend", "window": "day"}, "say at_least, or percent"),
        ({"kind": "spend", "window": "1h", "percent": 80}, "percent goes with the window"),
        ({"kind": "spend", "window": "day", "percent": 80, "at_least": 1}, "percent does not go with"),
        ({"kind": "spend", "window": "day", "budget": 8, "at_least": 1}, "budget goes with percent"),
        ({"kind": "spend", "window": "day", "per": "key", "at_least": 1}, "per account"),
        ({"kind": "spend", "window": "month", "times_usual": 2, "at_least": 1}, "a day at most"),
        ({"kind": "load", "window": "day", "at_least": 1}, "the window of load"),
        ({"kind": "load", "window": "1m", "at_least": 1, "percent": 8}, "of spend"),
        ({"kind": "load", "window": "1m", "per": "key", "times_usual": 2, "at_least": 1}, "times_usual is per account"),
        ({"kind": "load", "window": "1m", "per": "address", "at_least": 1}, "per address is of bad_keys"),
        ({"kind": "load", "measure": "requests", "per": "account", "window": "1m", "at_least": 1}, "counted per key"),
        ({"kind": "refusals", "window": "1m", "measure": "jobs", "at_least": 1}, "measure is of load"),
        ({"kind": "refusals", "window": "1m", "times_usual": 2, "at_least": 1}, "is not known"),
        ({"kind": "bad_keys", "window": "1m", "per": "account", "at_least": 1}, "per key or address"),
        ({"kind": "bad_keys", "window": "1m", "at_least": 1, "action": "pause_key"}, "cannot pause a key"),
    ],
)
def test_what_does_not_fit_together_is_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RulesError, match=words):
        rules.read({}, {"one": given}, "file")


@pytest.mark.parametrize(
    ("window", "since", "window_at"),
    [
        ("day", (2026, 11, 18), (2026, 11, 18)),
        ("month", (2026, 11, 1), (2026, 11, 1)),
        ("10m", (2026, 11, 18, 12, 24, 56), (2026, 11, 18, 12, 30)),
        ("6h", (2026, 11, 18, 6, 34, 56), (2026, 11, 18, 12)),
    ],
)
def test_windows(window: str, since: tuple[int, ...], window_at: tuple[int, ...]) -> None:
    rule = Rule.model_validate({"name": "r", "kind": "spend", "per": "account", "window": window, "at_least": 1})
    assert rule.since(NOW) == datetime(*since, tzinfo=UTC)  # type: ignore[misc, arg-type]
    assert rule.window_at(NOW) == datetime(*window_at, tzinfo=UTC)  # type: ignore[misc, arg-type]


def test_an_accounts_changes_that_no_longer_fit_are_left_out() -> None:
    rule = Rule.model_validate({"name": "r", "kind": "spend", "window": "day", "percent": 80})
    found = Rules({"r": rule}, {"acct_a": {"r": {"at_least": 5}}, "acct_b": {"r": {"percent": 50}}})
    assert found.of("r", "acct_a") == rule
    assert found.of("r", "acct_b").percent == 50
    assert found.of("r", None) == rule


def test_the_page_tells_of_every_packaged_rule_and_every_member(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "abuse.md").read_text()
    told = {
        name for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE) for name in re.findall(r"`([a-z0-9_-]+)`", row)
    }
    assert told == {*rules.load(tmp_path / "none.yaml"), *Rule.model_fields} - {"name"}


def test_the_command_and_the_api_know_the_same_actions() -> None:
    assert ACTIONS == rules.ACTIONS == get_args(ActionName)
