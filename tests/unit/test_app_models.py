"""The catalogue over HTTP: filters, recommendations, and schemas that are the rules themselves."""

from __future__ import annotations

from typing import Any

import pytest

from app.orders.operations import OPERATIONS
from app.shapes.schemas.models import ModelDetail, ModelList, Recommendations
from providers.catalog.catalog import load
from providers.orders.schema import order_schema
from tests.unit.app_doubles import MINE, Edge, make_edge

CATALOG = load()


@pytest.fixture(scope="module")
def edge() -> Edge:
    return make_edge(DARKROOM_RATE_LIMIT_ACCOUNT="100000/minute")


def get(edge: Edge, url: str) -> Any:
    return edge.client.get(url, headers=MINE)


def ids(edge: Edge, query: str) -> set[str]:
    answer = get(edge, f"/api/models?{query}")
    assert answer.status_code == 200
    return {model.id for model in ModelList.model_validate_json(answer.data).data}


def reasons(edge: Edge, query: str) -> dict[str, str]:
    """Model by reason."""
    answer = get(edge, f"/api/models/recommend?{query}")
    assert answer.status_code == 200, answer.json
    found = Recommendations.model_validate_json(answer.data)
    return {reason.code: each.model.id for each in found.data for reason in each.reasons}


@pytest.mark.parametrize("model_id", list(CATALOG.models))
def test_the_schema_served_is_the_one_that_validates(edge: Edge, model_id: str) -> None:
    model = CATALOG.models[model_id]
    served = ModelDetail.model_validate_json(get(edge, f"/api/models/{model_id}").data)
    assert {OPERATIONS[name]: schema for name, schema in served.orders.items()} == {
        operation: order_schema(model, operation) for operation in model.operations
    }


def test_a_model_that_is_gone_says_who_stands_in(edge: Edge) -> None:
    gone = get(edge, "/api/models/dall-e-3").json
    assert (gone["status"], gone["replaced_by"]) == ("shutdown", "gpt-image-2")
    assert gone["warnings"] == ["dall-e-3 is switched off by its vendor since 2026-05-12; gpt-image-2 is used instead"]
    assert get(edge, "/api/models/core").json["warnings"] == []


def test_a_retiring_model_is_offered_and_says_until_when(edge: Edge) -> None:
    shown = get(edge, "/api/models/gemini-2.5-flash-image").json
    assert (shown["status"], shown["retires_on"]) == ("retiring", "2027-03-15")
    assert shown["warnings"] == ["gemini-2.5-flash-image ends on 2027-03-15; gemini-3.1-flash-lite-image follows it"]
    [listed] = [each for each in get(edge, "/api/models?status=retiring").json["data"] if each["id"] == shown["id"]]
    assert listed["retires_on"] == "2027-03-15"
    assert "gemini-2.5-flash-image" in ids(edge, "")  # it still answers


def test_prices_by_quality_and_size_are_listed(edge: Edge) -> None:
    tiers = get(edge, "/api/models/gpt-image-2").json["tiers"]
    shown = {tuple(tier["when"].values()): tier["unit_microcredits"] for tier in tiers}
    assert shown["generate", "high", "3840x2160"] == 40_100_000
    assert shown["edit", "low", "1024x1024"] == 1_500_000
    assert len(tiers) == 36


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=redirected", {"grok-imagine-image-quality"}),
        ("operation=caption", {"image-captioner"}),
        ("operation=to-3d&provider=stability", {"stable-fast-3d", "stable-point-aware-3d"}),
        ("capability=low_poly&operation=text-to-3d", {"hunyuan3d-v3-text"}),
        ("operation=upscale&max_price=1", {"image-upscaler", "seedvr2-image"}),
        ("provider=flux&configured=true", set()),
        ("status=shutdown&configured=true&operation=variations", {"dall-e-2"}),
    ],
)
def test_filters_narrow_together(edge: Edge, query: str, expected: set[str]) -> None:
    assert ids(edge, query) == expected


def test_all_is_the_whole_catalogue(edge: Edge) -> None:
    assert ids(edge, "status=all") == set(CATALOG.models)


@pytest.mark.parametrize("route", ["/api/models?", "/api/models/recommend?"])
@pytest.mark.parametrize(
    "bad", ["operation=dance", "provider=nobody", "capability=magic", "max_price=cheap", "colour=red", "mask=perhaps"]
)
def test_a_filter_that_no_model_meets_is_refused_by_name(edge: Edge, route: str, bad: str) -> None:
    plain = "operation=edit&" if not bad.startswith("operation") and "recommend" in route else ""
    answer = get(edge, f"{route}{plain}{bad}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == [bad.partition("=")[0]]


def test_every_bad_filter_is_named(edge: Edge) -> None:
    told = get(edge, "/api/models?operation=dance&provider=nobody&capability=magic").json["errors"]
    assert {error["field"] for error in told} == {"operation", "provider", "capability"}
    assert "openai" in next(error["message"] for error in told if error["field"] == "provider")
    [near] = get(edge, "/api/models?operation=upscle").json["errors"]
    assert near["message"].startswith("must be one of caption, ")
    assert near["message"].endswith("; did you mean upscale?")
    assert get(edge, "/api/models?status=asleep").status_code == 422


def test_recommendations_give_reasons(edge: Edge) -> None:
    found = reasons(edge, "operation=generate")
    assert found["default"] == found["best_quality"] == "gpt-image-2"
    assert {"cheapest", "best_quality"} <= found.keys()


def test_recommendations_heed_what_will_come_along() -> None:
    wide = make_edge()
    object.__setattr__(wide.app.extensions["darkroom"], "configured", ("openai", "huggingface", "wavespeed"))
    object.__setattr__(
        wide.app.extensions["darkroom"],
        "service_s",
        lambda models: {model.id: 2.5 for model in models if model.id == "qwen-edit"},
    )
    plain = reasons(wide, "operation=edit")
    assert plain["fastest"] == "qwen-edit"
    assert plain["takes_mask"] == plain["transparent"] == "gpt-image-2"
    masked = reasons(wide, "operation=edit&mask=true")
    assert set(masked.values()) & {"qwen-edit", "hf-flux-2-dev-edit"} == set()
    assert "takes_mask" not in masked  # all of them do
    assert reasons(wide, "operation=edit&images=3&max_price=3")["cheapest"] == "ws-flux-2-klein-4b-edit"
    assert reasons(wide, "operation=caption&provider=openai") == {}


def test_a_recommendation_needs_an_operation(edge: Edge) -> None:
    assert get(edge, "/api/models/recommend").json["errors"][0]["field"] == "operation"
