"""What a dialect changes of HTTP: its own errors, schemes and headers under its own paths, and nowhere else."""

from __future__ import annotations

import flask
import pytest
from app_doubles import Edge, make_edge

from app.http import dialect
from app.http.dialect import Dialect, Problem, Said
from app.http.endpoint import Answer, Endpoint, describe


def _say(problem: Problem) -> Said:
    return Said({"oops": problem["code"]}, 418, "application/json", {"X-Said": "yes"})


def _mark(response: flask.Response) -> None:
    response.headers["X-Finished"] = "yes"


OTHER = Dialect("other", ("/other/",), _say, schemes=("key", "bearer"), finish=_mark)
NARROWER = Dialect("narrower", ("/other/narrow/",), lambda problem: Said({"narrow": problem["code"]}, 400))


@pytest.fixture
def edge() -> Edge:
    edge = make_edge()
    dialect.install(edge.app, (OTHER, NARROWER))

    @describe(Endpoint("x", "orders", (Answer(200, "x"),)))
    def view() -> str:
        return flask.g.caller.account_id

    edge.app.add_url_rule("/other/thing", view_func=view)
    return edge


def test_an_error_is_said_in_the_words_of_the_dialect(edge: Edge) -> None:
    answer = edge.client.get("/other/nowhere")
    assert (answer.status_code, answer.json) == (418, {"oops": "not_found"})
    assert answer.content_type == "application/json"
    assert answer.headers["X-Said"] == answer.headers["X-Finished"] == "yes"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_longest_prefix_wins(edge: Edge) -> None:
    assert edge.client.get("/other/narrow/nowhere").json == {"narrow": "not_found"}


def test_other_paths_keep_our_own_words(edge: Edge) -> None:
    answer = edge.client.get("/api/images/tasks/x")
    assert answer.content_type == "application/problem+json"
    assert "X-Finished" not in answer.headers


@pytest.mark.parametrize("scheme", ["Key", "key", "Bearer"])
def test_a_dialects_schemes_open_its_routes(edge: Edge, scheme: str) -> None:
    assert edge.client.get("/other/thing", headers={"Authorization": f"{scheme} dk_a_secret"}).text == "acct_a"


def test_a_dialects_schemes_open_nothing_else(edge: Edge) -> None:
    assert edge.client.get("/other/thing", headers={"Authorization": "Token dk_a_secret"}).json == {
        "oops": "key_invalid"
    }
    assert edge.client.get("/api/quota", headers={"Authorization": "Key dk_a_secret"}).status_code == 401
