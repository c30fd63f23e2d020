"""What upstreams report of their price: read where it is certain, harmless where it is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.base import Accepted, Finished, Running, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import TokenPrices
from providers.errors import ContentRefused, Failed, ProviderError
from providers.http.client import HttpResponse
from providers.orders.costs import cost_usd, expected_cost_microusd
from providers.orders.rules import check_order
from providers.reported_cost import ReportedCost
from providers.shared import usage
from providers.shared.wavespeed_tasks import read_prediction as read_wavespeed
from providers.upstreams.flux.adapter import read_accepted
from providers.upstreams.flux.answers import read_task
from providers.upstreams.gemini.answers import read_cost as gemini_cost
from providers.upstreams.gemini.answers import read_generated
from providers.upstreams.huggingface.answers import read_fal_result
from providers.upstreams.openai.adapter import read_cost as openai_cost
from providers.upstreams.replicate.answers import read_prediction
from providers.upstreams.stability.adapter import documented_cost
from providers.upstreams.xai.adapter import read_images
from providers.upstreams.xai.errors import classify, cost_of

CATALOG = catalog.load()
GPT = CATALOG.models["gpt-image-2"].token_usd
FLASH = CATALOG.models["gemini-3.1-flash-image"].token_usd
LINK = "https://example.com/1.png"
NAN, ENDLESS = float("nan"), float("inf")
BROKEN = [NAN, ENDLESS, -ENDLESS, -1, -0.5, 1e13, 10**30, True, "4", None, [], {}, "\x00"]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("found", BROKEN)
def test_what_is_not_an_amount_is_none(found: object) -> None:
    assert usage.number(found) is None
    assert usage.amount_usd(found, units_per_usd=100) is None
    assert usage.counts({"cost": found, "sure": 1}) in ({"sure": 1}, {"cost": found, "sure": 1})
    assert usage.counts(found) == {}


def test_counts_can_be_stored() -> None:
    told = {
        "input_tokens": 12,
        "seconds": 0.76,
        "nan": NAN,
        "details": [{"modality": "IMAGE", "tokenCount": 1120}, "x" * 100],
        "deep": {"deep": {"deep": {"deep": 1}}},
        "nul\x00": 1,
        "text": "a\x00b",
    }
    assert usage.counts(told) == {
        "input_tokens": 12,
        "seconds": 0.76,
        "details": [{"modality": "IMAGE", "tokenCount": 1120}],
    }
    assert len(usage.counts({f"n{number}": number for number in range(1000)})) == usage.MAX_NAMES


def test_money_is_rounded_up_to_whole_millionths() -> None:
    assert usage.reported({}, usd=usage.amount_usd(1, units_per_usd=10_000_000_000)) == ReportedCost(1)
    assert usage.reported({}, usd=usage.amount_usd(0.1, units_per_usd=1)) == ReportedCost(100_000)
    assert usage.reported({}, usd=usage.amount_usd(0, units_per_usd=1)) == ReportedCost(0)
    assert usage.reported({"cost": 1}, usd=usage.amount_usd(usage.MAX_AMOUNT, units_per_usd=1)) == ReportedCost(
        None, {"cost": 1}
    )
    assert usage.reported({}) is None


def test_tokens_of_a_kind_without_a_price_have_none() -> None:
    prices = TokenPrices(text_input=Decimal(5), image_output=Decimal(30))
    sure = usage.price_usd(usage.Tokens(text_input=1, image_output=1), prices)
    assert usage.reported({}, usd=sure) == ReportedCost(35)
    assert usage.price_usd(usage.Tokens(image_input=1, image_output=1), prices) is None
    assert usage.price_usd(usage.Tokens(image_output=1), None) is None
    assert usage.price_usd(usage.Tokens(), prices) is None
    assert usage.price_usd(None, prices) is None


# ---------------------------------------------------------------- each upstream's own words


def openai_usage(**facts: Any) -> dict[str, Any]:
    told = {
        "input_tokens": 334,
        "output_tokens": 1056,
        "total_tokens": 1390,
        "input_tokens_details": {"text_tokens": 14, "image_tokens": 320},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 1056},
    }
    return {name: value for name, value in {**told, **facts}.items() if value is not None}


def test_openai_counts_tokens() -> None:
    cost = openai_cost({"usage": openai_usage()}, GPT)
    assert cost is not None
    assert cost.microusd == 14 * 5 + 320 * 8 + 1056 * 30
    assert cost.usage == openai_usage()
    # The streamed form has no details of the output.
    assert openai_cost({"usage": openai_usage(output_tokens_details=None)}, GPT) is not None
    assert openai_cost({}, GPT) is None
    assert openai_cost({"usage": openai_usage()}, None) == ReportedCost(None, openai_usage())


@pytest.mark.parametrize(
    "answer",
    [
        {"usage": openai_usage(input_tokens_details=None)},
        {"usage": openai_usage(input_tokens=500)},
        {"usage": openai_usage(output_tokens=500)},
        {"usage": openai_usage(output_tokens_details={"text_tokens": 56, "image_tokens": 1000})},
        {"usage": openai_usage(output_tokens_details=7)},
        {"usage": openai_usage(input_tokens_details={"text_tokens": 14, "image_tokens": 320, "cached_tokens": 9})},
        {"usage": openai_usage(input_tokens_details={"text_tokens": 14.5, "image_tokens": 319.5})},
        {"usage": openai_usage(), "svg_usage": {"model": "gpt-5.5", "output_tokens": 700}},
    ],
)
def test_openai_tokens_without_a_known_price_are_only_counted(answer: dict[str, Any]) -> None:
    cost = openai_cost(answer, GPT)
    assert cost is not None
    assert cost.microusd is None
    assert cost.usage


def gemini_answer(**facts: Any) -> dict[str, Any]:
    told = {
        "promptTokenCount": 12,
        "candidatesTokenCount": 1132,
        "totalTokenCount": 1174,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
        "thoughtsTokenCount": 30,
    }
    return {"usageMetadata": {name: value for name, value in {**told, **facts}.items() if value is not None}}


def test_gemini_counts_tokens() -> None:
    cost = gemini_cost(json.dumps(gemini_answer()).encode(), FLASH)
    assert cost is not None
    assert cost.microusd == 6 + (12 + 30) * 3 + 1120 * 60
    assert cost.usage == gemini_answer()["usageMetadata"]
    unsure = gemini_cost(json.dumps(gemini_answer()).encode(), None)
    assert unsure == ReportedCost(None, cost.usage)


@pytest.mark.parametrize(
    "facts",
    [
        {"candidatesTokensDetails": None},
        {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 5000}]},
        {"totalTokenCount": 9},
        {"cachedContentTokenCount": 4},
        {"promptTokenCount": 12.5},
    ],
)
def test_gemini_tokens_without_a_known_price_are_only_counted(facts: dict[str, Any]) -> None:
    cost = gemini_cost(json.dumps(gemini_answer(**facts)).encode(), FLASH)
    assert cost is not None
    assert cost.microusd is None


def test_gemini_bills_an_answer_without_an_image() -> None:
    told = {"promptTokenCount": 10, "thoughtsTokenCount": 20, "totalTokenCount": 30}
    answer = {"candidates": [{"finishReason": "NO_IMAGE"}], "usageMetadata": told}
    with pytest.raises(Failed) as caught:
        read_generated(json.dumps(answer).encode(), FLASH)
    assert (caught.value.billed, caught.value.cost) == (True, ReportedCost(5 + 60, told))


def test_xai_names_ticks_in_success_and_error() -> None:
    answer = {"usage": {"cost_in_usd_ticks": 200_000_000, "total_tokens": 7}}
    assert cost_of(answer) == ReportedCost(20_000, answer["usage"])
    refused = {"code": "imagine:content-moderated", "error": "rejected", **answer}
    error = classify(400, {}, json.dumps(refused).encode())
    assert isinstance(error, ContentRefused)
    assert (error.charged, error.cost) == (True, ReportedCost(20_000, answer["usage"]))
    with pytest.raises(ContentRefused) as caught:
        read_images(json.dumps({"data": [{"respect_moderation": False}], **answer}).encode(), "https://api.x.ai")
    assert caught.value.cost == ReportedCost(20_000, answer["usage"])
    failed = classify(500, {}, json.dumps({"code": "x", "error": "y", **answer}).encode())
    assert isinstance(failed, Failed)
    assert (failed.billed, failed.cost) == (True, ReportedCost(20_000, answer["usage"]))


def flux_task(**facts: Any) -> HttpResponse:
    task = {"id": "t", "status": "Ready", "result": {"sample": LINK}, **facts}
    return HttpResponse(200, {}, json.dumps(task).encode())


def test_flux_names_credits_at_the_submit_and_settles_at_the_end() -> None:
    told = {"cost": 4.0, "input_mp": 0.0, "output_mp": 1.0}
    body = {"id": "t", "polling_url": "https://api.eu2.bfl.ai/v1/get_result?id=t", **told}
    assert read_accepted(json.dumps(body).encode()).cost == ReportedCost(40_000, told)
    assert read_accepted(json.dumps({**body, "cost": None}).encode()).cost is None
    done = read_task(flux_task(cost=1.4), "t")
    assert isinstance(done, Finished)
    assert done.cost == ReportedCost(14_000, {"cost": 1.4})
    unsettled = read_task(flux_task(), "t")
    assert isinstance(unsettled, Finished)
    assert unsettled.cost is None
    for status, kind in (
        ("Error", Failed),
        ("Content Moderated", ContentRefused),
        ("Request Moderated", ContentRefused),
    ):
        with pytest.raises(kind) as caught:
            read_task(flux_task(status=status, cost=4), "t")
        assert caught.value.cost == ReportedCost(40_000, {"cost": 4})


def test_replicate_reports_seconds_and_no_price() -> None:
    metrics = {"predict_time": 0.76, "total_time": 0.78, "image_count": 1}
    done = read_prediction({"status": "succeeded", "output": [LINK], "metrics": metrics})
    assert isinstance(done, Finished)
    assert done.cost == ReportedCost(None, metrics)
    for ended in ({"status": "failed", "error": "boom"}, {"status": "canceled"}, {"status": "succeeded"}):
        with pytest.raises(Failed) as caught:
            read_prediction({**ended, "metrics": metrics})
        assert caught.value.cost == ReportedCost(None, metrics)


def test_wavespeed_and_fal_report_how_long_it_took() -> None:
    told = {"executionTime": 2310, "timings": {"inference": 2298}}
    done = read_wavespeed({"id": "a", "status": "completed", "outputs": [LINK], **told}, "https://api.wavespeed.ai")
    assert isinstance(done, Finished)
    assert done.cost == ReportedCost(None, told)
    body = {"images": [{"url": LINK}], "timings": {"inference": 0.5}}
    assert read_fal_result(HttpResponse(200, {}, json.dumps(body).encode()), "https://x").cost == ReportedCost(
        None, {"timings": {"inference": 0.5}}
    )


def test_stability_documents_its_price() -> None:
    order = UpstreamOrder(operation="generate", model=CATALOG.models["sd3.5-large"], prompt="a kite")
    assert documented_cost(order) == ReportedCost(65_000, {"credits": 6.5, "source": "documented"})
    tiered = CATALOG.models["gpt-image-2"]  # by quality and shape: not one price for all orders
    assert documented_cost(UpstreamOrder(operation="generate", model=tiered, prompt="a kite")) is None


# ---------------------------------------------------------------- a broken number next to a paid result

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=80), inner, max_size=4),
    max_leaves=12,
)
NUMBER_OR_RUBBISH = st.one_of(st.floats(), st.integers(), JSON)
DETAILS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("text_tokens", "image_tokens", "cached_tokens"), NUMBER_OR_RUBBISH)
)
TOKENS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("input_tokens", "output_tokens", "promptTokenCount", "candidatesTokenCount"), NUMBER_OR_RUBBISH
        ),
        **dict.fromkeys(("input_tokens_details", "output_tokens_details"), st.one_of(DETAILS, JSON)),
        "thoughtsTokenCount": NUMBER_OR_RUBBISH,
        "totalTokenCount": NUMBER_OR_RUBBISH,
        "cost_in_usd_ticks": NUMBER_OR_RUBBISH,
        "candidatesTokensDetails": st.lists(
            st.fixed_dictionaries({"modality": st.just("IMAGE"), "tokenCount": NUMBER_OR_RUBBISH}), max_size=2
        ),
    },
)
READERS: dict[str, Callable[[Any], ReportedCost | None]] = {
    "openai": lambda told: openai_cost({"usage": told}, GPT),
    "gemini": lambda told: gemini_cost(json.dumps({"usageMetadata": told}).encode(), FLASH),
    "xai": lambda told: cost_of({"usage": told}),
    "flux": lambda told: read_accepted(json.dumps({"id": "t", "cost": told}).encode()).cost,
    "flux settled": lambda told: _cost_of(read_task(flux_task(cost=told), "t")),
    "replicate": lambda told: _cost_of(read_prediction({"status": "succeeded", "output": [LINK], "metrics": told})),
    "wavespeed": lambda told: _cost_of(
        read_wavespeed(
            {"id": "a", "status": "done", "outputs": [LINK], "executionTime": told, "timings": told}, "https://x"
        )
    ),
    "fal": lambda told: _cost_of(
        read_fal_result(
            HttpResponse(200, {}, json.dumps({"images": [{"url": LINK}], "timings": told}).encode()), "https://x"
        )
    ),
}


def _cost_of(found: object) -> ReportedCost | None:
    assert isinstance(found, Finished)
    assert found.images
    return found.cost


@settings(max_examples=150, deadline=None)
@given(st.one_of(TOKENS, NUMBER_OR_RUBBISH))
@pytest.mark.parametrize("reader", READERS)
def test_no_number_breaks_a_paid_result(reader: str, told: Any) -> None:
    cost = READERS[reader](told)
    if cost is None:
        return
    json.dumps(cost.usage, allow_nan=False)
    assert "\\u0000" not in json.dumps(cost.usage)
    assert cost.microusd is None or (isinstance(cost.microusd, int) and 0 <= cost.microusd <= usage.MAX_AMOUNT)


@pytest.mark.parametrize(
    ("found", "share"),
    [
        *((None, None), (0, 0.0), (0.5, 0.5), (1, 1.0), (1.0001, 1.0), (-0.0001, 0.0), (7, None), (-1, None)),
        *((NAN, None), (ENDLESS, None), (-ENDLESS, None)),
    ],
)
def test_progress_is_a_share_or_nothing(found: float | None, share: float | None) -> None:
    assert Running(progress=found).progress == share


def test_a_reported_cost_is_not_part_of_what_a_result_is() -> None:
    assert Accepted("t", cost=ReportedCost(1)) == Accepted("t", cost=ReportedCost(2)) == Accepted("t")
    assert len({Accepted("t", cost=ReportedCost(1, {"cost": 1})), Accepted("t")}) == 1


def test_an_error_without_a_bill_has_none() -> None:
    errors: list[ProviderError] = [Failed("x", retryable=True), ContentRefused()]
    assert [getattr(error, "cost", 1) for error in errors] == [None, None]


# ---------------------------------------------------------------- what we expect


@pytest.mark.parametrize(
    ("model_id", "fields", "microusd"),
    [
        ("gpt-image-2", {"quality": "high"}, 211_000),
        ("flux-2-pro", {"size": "2000x2000"}, 75_000),
        ("sd3.5-large", {}, 65_000),
        ("chatgpt2api-gpt-image-2", {}, 0),
    ],
)
def test_the_expected_cost_of_one_image(model_id: str, fields: dict[str, Any], microusd: int) -> None:
    model = CATALOG.models[model_id]
    assert expected_cost_microusd(model, check_order(model, "generate", {"prompt": "a fox", **fields})) == microusd


def test_the_expected_cost_is_rounded_up() -> None:
    model = CATALOG.models["hf-flux-schnell"].model_copy(update={"cost_usd": Decimal("0.0014000001"), "cost_tiers": ()})
    checked = check_order(model, "generate", {"prompt": "a fox"})
    assert cost_usd(model, checked) > Decimal("0.0014")
    assert expected_cost_microusd(model, checked) == 1401
