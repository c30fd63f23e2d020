"""Keys that may use some models alone: what their lists show, and who writes for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import app_doubles
import pytest
from app_doubles import CATALOG, KEYS, MINE, Edge, make_edge

from app.enhancement import Enhancer

CONFIGURED = ("openai", "gemini", "replicate", "wavespeed")
TEXTS = {"openai": "gpt-5.4-mini", "gemini": "gemini-3-flash"}
OPENAI = "gpt-image-2"
SAYS = [{"role": "user", "content": "hello"}]


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Edge:
    made: list[Edge] = []

    def enhancer(models: Any, load: Any) -> Enhancer:
        return Enhancer(TEXTS, lambda name: made[0].writer)

    monkeypatch.setattr(app_doubles, "Enhancer", enhancer)
    made.append(make_edge(configured=CONFIGURED))
    return made[0]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the key of the tests its lists."""

    def change(*, models: set[str] | None = None, providers: set[str] | None = None) -> None:
        lists = {"models": models and frozenset(models), "providers": providers and frozenset(providers)}
        monkeypatch.setitem(KEYS, "dk_a_secret", replace(KEYS["dk_a_secret"], **lists))

    return change


def get(edge: Edge, path: str, **query: Any) -> Any:
    return edge.client.get(path, query_string=query, headers=MINE)


def of_gemini() -> set[str]:
    return {model.id for model in CATALOG.select(provider="gemini")}


def shown(edge: Edge) -> dict[str, set[str]]:
    """The image models of each list, by our ids."""
    replicate: set[str] = set()
    cursor = 0
    while True:
        page = get(edge, "/v1/models", cursor=cursor).json
        replicate |= {each["id"] for each in page["results"]}
        if page["next"] is None:
            break
        cursor = int(page["next"].rpartition("=")[2])
    openai = {each["id"] for each in page["data"]} - set(TEXTS.values())
    native = {each["id"] for each in get(edge, "/api/models", configured="true").json["data"]}
    return {"native": native, "openai": openai, "replicate": replicate}


def test_a_key_without_lists_sees_every_model(edge: Edge) -> None:
    every = {model.id for model in CATALOG.select(configured=CONFIGURED)}
    assert shown(edge) == dict.fromkeys(("native", "openai", "replicate"), every)


@pytest.mark.parametrize(
    ("lists", "wanted"),
    [
        ({"providers": {"gemini"}}, of_gemini()),
        ({"models": {OPENAI}}, {OPENAI}),
        ({"models": {OPENAI, *of_gemini()}, "providers": {"gemini", "openai"}}, {OPENAI, *of_gemini()}),
        ({"models": {OPENAI}, "providers": {"gemini"}}, set()),
    ],
)
def test_every_list_shows_what_the_key_may_use(edge: Edge, limit: Any, lists: Any, wanted: set[str]) -> None:
    limit(**lists)
    assert shown(edge) == dict.fromkeys(("native", "openai", "replicate"), wanted)
    recommended = get(edge, "/api/models/recommend", operation="generate").json["data"]
    assert {each["model"]["id"] for each in recommended} <= wanted
    assert bool(recommended) == bool(wanted)


def test_another_key_gets_another_list_under_another_tag(edge: Edge, limit: Any) -> None:
    before = get(edge, "/api/models").headers["ETag"]
    limit(models={OPENAI})
    again = edge.client.get("/api/models", headers={**MINE, "If-None-Match": before})
    assert (again.status_code, len(again.json["data"])) == (200, 1)


def test_a_model_that_the_key_may_not_use_is_not_found_by_clients_of_others(edge: Edge, limit: Any) -> None:
    paths = [f"/v1/models/{OPENAI}", f"/v1/models/openai/{OPENAI}", f"/v1/models/openai/{OPENAI}/versions"]
    assert [get(edge, path).status_code for path in paths] == [200, 200, 200]
    limit(providers={"gemini"})
    answers = [get(edge, path) for path in paths]
    assert [each.status_code for each in answers] == [404, 404, 404]
    assert answers[0].json["error"]["code"] == "model_not_found"
    assert OPENAI not in str(answers[0].json["error"].get("suggestions"))
    assert get(edge, f"/api/models/{OPENAI}").status_code == 200  # its limits are no secret


def test_a_name_of_fals_takes_a_model_that_the_key_may_use(edge: Edge, limit: Any) -> None:
    for lists, model in (({}, "gpt-image-2"), ({"providers": {"wavespeed"}}, "ws-gpt-image-2")):
        limit(**lists)
        answer = edge.client.post(
            "/fal/queue/fal-ai/gpt-image-2", json={"prompt": "a fox"}, headers={"Authorization": "Key dk_a_secret"}
        )
        assert answer.status_code == 200
        assert edge.submission.orders[-1][2]["model"] == model


ASKED: dict[str, Callable[[Edge, str | None], Any]] = {
    "native": lambda edge, model: edge.client.post(
        "/api/prompts/enhance", json={"prompt": "a fox", **({"model": model} if model else {})}, headers=MINE
    ),
    "openai": lambda edge, model: edge.client.post(
        "/v1/chat/completions", json={"messages": SAYS, **({"model": model} if model else {})}, headers=MINE
    ),
}


@pytest.mark.parametrize("form", ASKED)
@pytest.mark.parametrize("lists", [{"providers": {"gemini"}}, {"models": of_gemini()}])
def test_a_text_is_written_by_a_provider_that_the_key_may_use(edge: Edge, limit: Any, form: str, lists: Any) -> None:
    loaded: list[str] = []
    enhancer = edge.app.extensions["darkroom"].enhancer
    load = enhancer._load
    enhancer._load = lambda name: loaded.append(name) or load(name)
    assert ASKED[form](edge, None).status_code == 200
    limit(**lists)
    assert ASKED[form](edge, None).status_code == 200
    assert loaded == ["openai", "gemini"]
    refused = ASKED[form](edge, TEXTS["openai"])
    assert refused.status_code == 403
    assert refused.json["error"]["code"] == ("model_not_allowed" if form == "native" else "model_not_found")
    assert len(loaded) == 2, "nothing was asked of the provider"


@pytest.mark.parametrize("form", ASKED)
def test_a_key_whose_providers_write_nothing_gets_no_text(edge: Edge, limit: Any, form: str) -> None:
    limit(providers={"replicate"})
    for model in (None, TEXTS["gemini"]):
        refused = ASKED[form](edge, model)
        assert refused.status_code == 403
        if form == "openai":
            assert refused.headers["x-should-retry"] == "false"
    assert edge.writer.asked == []
