"""Providers over HTTP and on the command line: what is shown, and who may pause."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from app_doubles import CATALOG, MINE, NOW, Edge, done_task, job_id, make_edge, make_task
from click.testing import CliRunner, Result

from accounts import trail
from app import administration
from app.cli import main
from app.cli.operator import database as cli_database
from app.shapes.schemas.providers import ProviderList, ProviderOut
from app.shapes.schemas.tasks import TaskOut
from core.errors import DatabaseAwayError
from jobs.dispatch import health
from jobs.dispatch.circuit import State
from jobs.dispatch.health import CredentialState, ProviderState
from jobs.errors import CredentialNotFoundError
from jobs.reads.waiting import PAUSED, WaitingFor
from jobs.submission.wait_model import Wait

ADMIN = {"Authorization": "Bearer dk_admin_secret"}


def state(name: str = "openai", **changes: Any) -> ProviderState:
    values: dict[str, Any] = {
        "name": name,
        "paused_at": None,
        "circuit": State.CLOSED,
        "failures": 0,
        "opened_at": None,
        "next_probe_at": None,
        "credentials": 1,
        "active": 3,
        "max_active": 20,
        "max_per_minute": None,
        "submitted_last_minute": None,
        "not_before": None,
    }
    return ProviderState(**{**values, **changes})


class Fleet:
    """What the rows say of providers; pausing is remembered."""

    def __init__(self, edge: Edge) -> None:
        self.known = {"openai": state()}
        self.away: Exception | None = None
        edge.rows.answers |= {
            health.overview: self.overview,
            administration.pause: lambda _actor, target, reason: self.pause(target, reason),
            administration.resume: lambda _actor, target: self.resume(target),
        }

    def overview(self) -> list[ProviderState]:
        if self.away:
            raise self.away
        return list(self.known.values())

    def pause(self, target: str, reason: str = "") -> None:
        name, _, label = target.partition("/")
        paused = {"paused_at": NOW, "pause_reason": reason or None}
        if not label:
            self.known[name] = state(name, **paused)
        elif label == "2":
            self.known[name] = state(name, accounts=[CredentialState(target, **paused)])
        else:
            raise CredentialNotFoundError("no worker has announced it")

    def resume(self, target: str) -> None:
        name = target.partition("/")[0]
        self.known[name] = state(name)


@pytest.fixture
def edge() -> Edge:
    return make_edge()


@pytest.fixture
def fleet(edge: Edge) -> Fleet:
    return Fleet(edge)


def shown(edge: Edge) -> dict[str, Any]:
    answer = edge.client.get("/api/providers", headers=MINE)
    assert answer.status_code == 200
    ProviderList.model_validate_json(answer.data)
    return {each["name"]: each for each in answer.json["data"]}


# ---------------------------------------------------------------- GET /api/providers


def test_every_provider_of_the_catalogue_is_listed_with_what_it_can(edge: Edge, fleet: Fleet) -> None:
    found = shown(edge)
    assert set(found) == set(CATALOG.providers)
    openai = found["openai"]
    assert (openai["configured"], openai["healthy"], openai["paused"], openai["active"]) == (True, True, False, 3)
    assert openai["limits"] == {"max_active": 20, "max_per_minute": None, "submitted_last_minute": None}
    assert openai["capabilities"]["kind"] == "sync"
    assert {"generate", "edit"} <= set(openai["capabilities"]["operations"])
    assert all(len(each["description"]) > 40 and each["description"].endswith(".") for each in found.values())
    unused = found["replicate"]
    assert (unused["configured"], unused["healthy"], unused["active"]) == (False, False, 0)


@pytest.mark.parametrize("circuit", [State.OPEN, State.HALF_OPEN])
def test_a_provider_with_an_open_circuit_is_not_healthy(edge: Edge, fleet: Fleet, circuit: State) -> None:
    fleet.known["openai"] = state(circuit=circuit, opened_at=NOW, next_probe_at=NOW)
    openai = shown(edge)["openai"]
    assert (openai["healthy"], openai["circuit"]["state"]) == (False, str(circuit))
    assert openai["circuit"]["opened_at"] == "2026-11-20T12:00:00.000Z"


def test_a_database_away_is_a_503_and_parameters_are_refused(edge: Edge, fleet: Fleet) -> None:
    assert edge.client.get("/api/providers?x=1", headers=MINE).status_code == 422
    fleet.away = DatabaseAwayError("the database cannot be reached")
    answer = edge.client.get("/api/providers", headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")


# ---------------------------------------------------------------- pause and resume


def test_an_admin_pauses_and_resumes(edge: Edge, fleet: Fleet) -> None:
    paused = edge.client.post("/api/admin/providers/openai/pause", headers=ADMIN)
    assert paused.status_code == 200
    assert ProviderOut.model_validate_json(paused.data).paused
    assert shown(edge)["openai"]["paused"]
    resumed = edge.client.post("/api/admin/providers/openai/resume", headers=ADMIN)
    assert (resumed.status_code, resumed.json["paused"]) == (200, False)


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_only_an_admin_may(edge: Edge, fleet: Fleet, verb: str) -> None:
    path = f"/api/admin/providers/openai/{verb}"
    assert edge.client.post(path).status_code == 401
    refused = edge.client.post(path, headers=MINE)
    assert (refused.status_code, refused.json["code"]) == (403, "scope_missing")
    assert edge.client.get(path, headers=ADMIN).status_code == 405
    assert fleet.known == {"openai": state()}


def test_an_unknown_provider_is_not_found(edge: Edge, fleet: Fleet) -> None:
    answer = edge.client.post("/api/admin/providers/nobody/pause", headers=ADMIN)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert set(fleet.known) == {"openai"}


# ---------------------------------------------------------------- the wait of a task


def test_a_queued_task_tells_its_wait_and_no_other_does() -> None:
    edge = make_edge()
    renderer = edge.app.extensions["darkroom_renderer"]
    edge.app.extensions["darkroom_renderer"] = type(renderer)(renderer.signer, "", lambda _task: Wait(4.0, 9.5))
    edge.rows.add(make_task())
    edge.rows.add(done_task(2))
    queued = edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE)
    assert queued.json["wait_estimate_s"] == {"p50": 4.0, "p90": 9.5}
    TaskOut.model_validate_json(queued.data)
    assert edge.client.get(f"/api/images/tasks/{job_id(2)}", headers=MINE).json["wait_estimate_s"] is None


def test_an_unknown_wait_is_null(edge: Edge) -> None:
    edge.rows.add(make_task())
    assert edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE).json["wait_estimate_s"] is None


def test_a_credential_is_paused_and_resumed_by_its_own_route(edge: Edge, fleet: Fleet) -> None:
    url = "/api/admin/providers/openai/credentials/2"
    assert edge.client.post(f"{url}/pause", headers=MINE).status_code == 403
    answer = edge.client.post(f"{url}/pause?reason=out%20of%20money", headers=ADMIN)
    ProviderOut.model_validate_json(answer.data)
    expected = {"id": "openai/2", "paused": True, "paused_at": "2026-11-20T12:00:00.000Z"}
    assert answer.json["credentials"] == [{**expected, "pause_reason": "out of money"}]
    assert not answer.json["paused"]
    assert edge.client.post(f"{url}/resume", headers=ADMIN).json["credentials"] == []
    assert edge.client.post("/api/admin/providers/openai/credentials/9/pause", headers=ADMIN).status_code == 404


def test_a_queued_task_says_that_it_waits_behind_a_pause(edge: Edge) -> None:
    renderer = edge.app.extensions["darkroom_renderer"]
    edge.app.extensions["darkroom_renderer"] = replace(renderer, waiting=lambda _task: WaitingFor(PAUSED))
    edge.rows.add(make_task())
    answer = edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE)
    TaskOut.model_validate_json(answer.data)
    paused = {"reason": "paused", "message": "an operator has paused the provider", "retry_at": None, "until": None}
    assert answer.json["waiting_for"] == paused
    listed = edge.client.get("/api/images/tasks", headers=MINE).json["data"][0]
    assert listed["waiting_for"] == paused


# ---------------------------------------------------------------- darkroom providers


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reached the database's functions; the list they read begins with openai alone."""
    called: list[Any] = []

    class Fake:
        @contextmanager
        def transaction(self) -> Iterator[Any]:
            yield "connection"

    @contextmanager
    def opened() -> Iterator[Fake]:
        yield Fake()

    monkeypatch.setattr(cli_database, "open_database", opened)
    second = CredentialState("openai/2", NOW, "out of money")
    openai = state(paused_at=NOW, accounts=[CredentialState("openai/default", None, None), second])
    monkeypatch.setattr(health, "overview", lambda _: [openai, state("flux", credentials=0)])
    monkeypatch.setattr(trail, "record", lambda *_, **__: None)
    for verb in ("pause", "resume"):
        monkeypatch.setattr(health, verb, lambda _, *target, verb=verb: called.append((verb, *target)))
    return called


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["providers", *arguments])


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_the_list_shows_pause_circuit_and_limits(rows: list[Any], arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    [openai] = [line for line in result.stdout.splitlines() if line.startswith("openai")]
    assert "3 of 20" in openai
    assert "paused since" in openai


def test_the_list_as_json(rows: list[Any]) -> None:
    openai, flux = json.loads(run("list", "--json").stdout)["data"]
    assert (openai["name"], openai["circuit"], openai["configured"], openai["max_active"]) == (
        "openai",
        "closed",
        True,
        20,
    )
    assert not flux["configured"]


def test_pausing_and_resuming_by_name(rows: list[Any]) -> None:
    assert run("pause", "openai").stdout == "paused openai\n"
    assert run("resume", "openai").stdout == "resumed openai\n"
    assert rows == [("pause", "openai", ""), ("resume", "openai")]


def test_pausing_a_credential_with_its_reason(rows: list[Any]) -> None:
    assert run("pause", "openai/2", "--reason", "out of money").stdout == "paused openai/2\n"
    assert run("resume", "openai/2").stdout == "resumed openai/2\n"
    assert rows == [("pause", "openai/2", "out of money"), ("resume", "openai/2")]


def test_a_paused_credential_is_listed_with_its_reason_and_named_when_its_provider_resumes(rows: list[Any]) -> None:
    [openai] = [line for line in run().stdout.splitlines() if line.startswith("openai")]
    assert "openai/2 paused since" in openai and "(out of money)" in openai and "openai/default" not in openai
    assert "openai/2 is paused by itself" in run("resume", "openai").stderr


def test_a_misspelt_name_pauses_nothing(rows: list[Any]) -> None:
    result = run("pause", "opnai")
    assert (result.exit_code, rows) == (2, [])
    assert "openai" in result.stderr
