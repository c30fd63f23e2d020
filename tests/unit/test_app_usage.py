"""Usage over HTTP: who sees what, in which form, and what is refused; and ``darkroom usage`` over the same answers."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from app_doubles import KEYS, MINE, Edge, make_edge
from click.testing import CliRunner, Result

from accounts import accounts
from accounts.accounts import Account, AccountNotFoundError
from accounts.keys import Caller
from app.cli import main
from app.cli.client.connection import Client
from app.shapes.schemas.usage import UsageOut
from jobs.reads import usage as usages
from jobs.reads.usage import Amounts, TooManyGroupsError, Usage

ADMIN = {"Authorization": "Bearer dk_admin_secret"}
METERED = {"Authorization": "Bearer dk_metered_secret"}
SINCE, UNTIL = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 22, 7, tzinfo=UTC)
SOLD = Amounts(2, 3, 15_900_000, 5_300_000, 4, 40_000, 12_345, 1)


def group(**said: str) -> Usage:
    return Usage(**{**dict.fromkeys(usages.DIMENSIONS), **said}, amounts=SOLD)


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Edge:
    edge = make_edge()
    edge.asked = []  # type: ignore[attr-defined]
    monkeypatch.setitem(KEYS, "dk_metered_secret", Caller("acct_a", "a", "k1", frozenset({"usage:read"})))

    def find(name: str) -> Account:
        if name not in ("b", "acct_b"):
            raise AccountNotFoundError(f"there is no account {name!r}")
        return Account("acct_b", "b", 1, SINCE, None)

    def read(**asked: Any) -> list[Usage]:
        edge.asked.append(asked)  # type: ignore[attr-defined]
        return [group(day="2026-11-20", model="gpt-image-2", key=""), group(day="2026-11-21", model="m", key="k1")]

    edge.rows.answers |= {
        usages.period: lambda since, until: (since or SINCE, until or UNTIL),
        usages.usage: read,
        accounts.find_account: find,
    }
    return edge


def got(edge: Edge, query: str = "", **headers: str) -> Any:
    return edge.client.get(f"/api/usage{query}", headers={**ADMIN, **headers})


def asked(edge: Edge) -> dict[str, Any]:
    return edge.asked[-1]  # type: ignore[attr-defined,no-any-return]


# ---------------------------------------------------------------- who


def test_it_needs_the_scope(edge: Edge) -> None:
    refused = edge.client.get("/api/usage", headers=MINE)
    assert (refused.status_code, refused.json["code"]) == (403, "scope_missing")
    assert edge.asked == []  # type: ignore[attr-defined]


def test_an_account_sees_what_it_bought_and_no_cost(edge: Edge) -> None:
    answer = edge.client.get("/api/usage?group_by=day,model,key", headers=METERED)
    UsageOut.model_validate_json(answer.data)
    assert asked(edge) == {
        "from_at": SINCE, "to_at": UNTIL, "by": ("day", "model", "key"), "account_id": "acct_a", "costs": False,
    }  # fmt: skip
    body = answer.json
    assert (body["account"], body["from"], body["group_by"]) == (
        "acct_a", "2026-11-01T00:00:00.000Z", ["day", "model", "key"],
    )  # fmt: skip
    first, second = body["data"]
    assert (first["day"], first["key_id"], second["key_id"], first["outcome"]) == ("2026-11-20", None, "k1", None)
    assert (first["captured_microcredits"], first["captured"], first["released"]) == (15_900_000, "15.9", "5.3")
    assert body["totals"]["jobs"] == 4 and body["totals"]["images"] == 6
    assert first["cost"] is None and body["totals"]["cost"] is None


def test_an_administrator_sees_cost_and_margin(edge: Edge) -> None:
    answer = got(edge)
    UsageOut.model_validate_json(answer.data)
    assert asked(edge)["costs"]
    # 52,345 micro-USD are 5.2345 credits of 1 US cent.
    assert answer.json["data"][0]["cost"] == {
        "calls": 4, "uncosted_calls": 1, "reported_microusd": 40_000, "computed_microusd": 12_345,
        "cost_microusd": 52_345, "margin_microcredits": 10_665_500, "margin": "10.6655",
    }  # fmt: skip
    assert answer.json["totals"]["cost"]["margin_microcredits"] == 2 * 10_665_500


@pytest.mark.parametrize(("account", "seen"), [("b", "acct_b"), ("acct_b", "acct_b"), ("all", None), ("a", "acct_a")])
def test_an_administrator_may_ask_for_any_account(edge: Edge, account: str, seen: str | None) -> None:
    answer = got(edge, f"?account={account}")
    assert asked(edge)["account_id"] == seen
    assert answer.json["account"] == (seen or "all")


def test_others_may_ask_for_their_own_alone(edge: Edge) -> None:
    for name in ("a", "acct_a"):
        assert edge.client.get(f"/api/usage?account={name}", headers=METERED).status_code == 200
    for name in ("b", "acct_b", "none"):
        refused = edge.client.get(f"/api/usage?account={name}", headers=METERED)
        assert (refused.status_code, refused.json["code"]) == (404, "not_found")
    refused = edge.client.get("/api/usage?account=all", headers=METERED)
    assert (refused.status_code, refused.json["code"], refused.json["scope"]) == (403, "scope_missing", "admin")
    assert {each["account_id"] for each in edge.asked} == {"acct_a"}  # type: ignore[attr-defined]
    assert got(edge, "?account=none").status_code == 404


# ---------------------------------------------------------------- what


@pytest.mark.parametrize(
    ("text", "moment"),
    [("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
     ("2026-10-01T02:00:00%2B02:00", datetime(2026, 10, 1, tzinfo=UTC))],
)  # fmt: skip
def test_a_day_or_a_moment(edge: Edge, text: str, moment: datetime) -> None:
    got(edge, f"?from={text}")
    assert asked(edge)["from_at"] == moment


def test_every_fault_is_named_at_once(edge: Edge) -> None:
    refused = got(edge, "?from=2026&to=2026-13-01&group_by=modell,day,day,size&format=xml&by=day")
    assert refused.status_code == 422
    faults = {each["field"]: each["message"] for each in refused.json["errors"]}
    assert faults.keys() == {"from", "to", "group_by", "format", "by"}
    assert "2026-11-20" in faults["from"] and "2026-11-20" in faults["to"]
    for word in ("'modell'", "'size'", "'day' is named more than once"):
        assert word in faults["group_by"]


@pytest.mark.parametrize("edge_of_time", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00"])
def test_a_moment_that_no_calendar_has_everywhere_is_refused(edge: Edge, edge_of_time: str) -> None:
    assert got(edge, f"?from={edge_of_time}").json["errors"][0]["field"] == "from"


@pytest.mark.parametrize("to", ["2026-10-01", "2026-09-30T23:59:59Z"])
def test_an_end_before_the_beginning_is_refused(edge: Edge, to: str) -> None:
    refused = got(edge, f"?from=2026-10-01&to={to}")
    assert [each["field"] for each in refused.json["errors"]] == ["to"]


def test_too_many_groups_are_refused(edge: Edge) -> None:
    def many(**_asked: Any) -> list[Usage]:
        raise TooManyGroupsError

    edge.rows.answers[usages.usage] = many
    refused = got(edge, "?group_by=day,account,key")
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "group_by")


# ---------------------------------------------------------------- as CSV


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [("", "*/*", "application/json"), ("", "text/csv", "text/csv"), ("&format=csv", "*/*", "text/csv"),
     ("", "application/json;q=0.5, text/csv", "text/csv"), ("&format=json", "*/*", "application/json")],
)  # fmt: skip
def test_the_form_is_that_asked_for(edge: Edge, query: str, accept: str, media_type: str) -> None:
    assert got(edge, f"?group_by=model{query}", Accept=accept).mimetype == media_type


def test_a_form_that_the_caller_does_not_read_is_refused(edge: Edge) -> None:
    assert got(edge, "?format=csv", Accept="application/json").status_code == 406
    assert got(edge, "", Accept="image/png").status_code == 406


def test_csv_has_the_groups_first_then_the_amounts(edge: Edge) -> None:
    answer = got(edge, "?group_by=key,day&format=csv")
    first, second = csv.DictReader(answer.text.splitlines())
    assert list(first)[:4] == ["key_id", "day", "jobs", "images"]
    assert (first["key_id"], second["key_id"], second["day"]) == ("", "k1", "2026-11-21")
    assert (first["captured"], first["cost_microusd"], first["margin"]) == ("15.9", "52345", "10.6655")
    assert 'filename="usage-2026-11-01-2026-11-22.csv"' in answer.headers["Content-Disposition"]
    own = edge.client.get("/api/usage?format=csv", headers=METERED).text
    assert "cost" not in own and "margin" not in own and "captured" in own


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command whose requests the app answers."""
    from contextlib import contextmanager

    @contextmanager
    def answered(_self: Client, _method: str, path: str, params: Any = None, **_more: Any) -> Any:
        answer = edge.client.get(path, query_string=params, headers=ADMIN)
        assert answer.status_code == 200, answer.text
        answer.content = answer.data  # type: ignore[attr-defined]
        yield answer

    monkeypatch.setattr(Client, "open", answered)
    monkeypatch.setattr("app.cli.client.connection._json_object", lambda answer: answer.json)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["usage", "--server", "http://127.0.0.1:1", "--key", "dk_x", *arguments])

    return run


def test_the_command_shows_groups_and_their_sum(edge: Edge, run: Any) -> None:
    result = run("--from", "2026-11-01", "--to", "2026-12-01", "--by", "model,key", "--account", "all")
    assert result.exit_code == 0, result.output
    assert asked(edge)["account_id"] is None and asked(edge)["by"] == ("model", "key")
    assert asked(edge)["to_at"] == datetime(2026, 12, 1, tzinfo=UTC)
    heads, _, first, _, total = [line.split() for line in result.stdout.splitlines()]
    assert heads == ["model", "key", "jobs", "images", "captured", "released", "cost", "USD", "margin"]
    assert first == ["gpt-image-2", "unknown", "2", "3", "15.9", "5.3", "0.0523", "10.6655"]
    assert total[0] == "total" and total[-1] == "21.331"
    assert "the cost of 2 calls is not known" in result.stderr


def test_the_command_prints_csv_or_json(run: Any) -> None:
    lines = run("--by", "day", "--csv").stdout.splitlines()
    assert lines[0].startswith("day,jobs,images,captured_microcredits") and len(lines) == 3
    assert json.loads(run("--json").stdout)["object"] == "usage"
    assert run("--json", "--csv").exit_code == 2
