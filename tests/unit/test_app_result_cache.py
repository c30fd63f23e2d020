"""What callers say and see of the result cache: whether an earlier task may answer, that it did, and at which price."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from app_doubles import CATALOG, MINE, Edge, done_task, job_id, make_edge

from accounts.keys import Caller
from app.shapes.schemas.orders import Estimate
from app.shapes.schemas.quota import QuotaOut
from app.shapes.schemas.tasks import TaskOut
from jobs.lifecycle import NewJob, Submitted
from jobs.submission.order import Order
from jobs.submission.result_cache import CacheTerms, ResultCache, is_seeded
from providers.catalog.catalog import Model

NATIVE = "/api/images/generate"
CORE = "stable-image-core"
ORDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "native": (NATIVE, {"prompt": "a fox"}),
    "openai": ("/v1/images/generations", {"prompt": "a fox", "model": "gpt-image-2"}),
    "openai async": ("/v1/images/generations/async", {"prompt": "a fox", "model": "gpt-image-2"}),
    "fal queue": ("/fal/queue/fal-ai/flux-2-pro", {"prompt": "a fox"}),
    "fal": ("/fal/run/fal-ai/flux-2-pro", {"prompt": "a fox"}),
    "replicate": ("/v1/predictions", {"version": "flux-2-pro", "input": {"prompt": "a fox"}}),
    "generation": ("/api/generation", {"prompt": "a fox", "provider": "openai"}),
    "image generate": ("/image/generate", {"prompt": "a fox", "customer_id": 1}),
    "chatgpt2api": ("/api/image-tasks/generations", {"prompt": "a fox", "client_task_id": "t-1"}),
}


@pytest.fixture(scope="module")
def shared() -> Edge:
    return make_edge(
        configured=("openai", "flux", "stability", "chatgpt2api"),
        DARKROOM_RESULT_CACHE=True,
        DARKROOM_RESULT_CACHE_HOURS=2,
        DARKROOM_RESULT_CACHE_PRICE_PERCENT=12.5,
    )


@pytest.fixture
def heard(shared: Edge, monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """The orders that an earlier task answers: all of them."""
    orders: list[Order] = []

    def answered(caller: Caller, _key: object, job: NewJob, order: Order, _model: Model) -> Submitted:
        orders.append(order)
        client = dict(job.client or {})
        task = done_task(cached_from=job_id(77), account_id=caller.account_id, client=client)
        return Submitted(task, [])

    monkeypatch.setattr(shared.submission, "_answered", answered)
    return orders


@pytest.mark.parametrize("name", ORDERS)
def test_an_answer_of_every_api_says_that_an_earlier_task_gave_it(shared: Edge, heard: list[Order], name: str) -> None:
    path, body = ORDERS[name]
    answer = shared.client.post(path, json=body, headers={**MINE, "Cache-Control": "no-cache, No-Store"})
    assert answer.status_code < 300, answer.text
    assert answer.headers["X-Darkroom-Cache"] == "hit"
    assert [order.cache_control for order in heard] == [{"no-cache", "no-store"}]
    assert heard[0].wants_fresh
    assert heard[0].keeps_out_of_cache


def test_the_task_names_the_earlier_one(shared: Edge, heard: list[Order]) -> None:
    answer = shared.client.post(NATIVE, json={"prompt": "a fox"}, headers={**MINE, "Prefer": "wait=5"})
    assert (answer.status_code, TaskOut.model_validate(answer.json).cached_from) == (200, job_id(77))
    assert not heard[0].wants_fresh
    assert not heard[0].keeps_out_of_cache


def test_an_order_that_is_made_has_no_mark(shared: Edge) -> None:
    answer = shared.client.post(NATIVE, json={"prompt": "a fox", "use_cache": False}, headers=MINE)
    assert (answer.status_code, answer.json["cached_from"]) == (202, None)
    assert "X-Darkroom-Cache" not in answer.headers


def test_use_cache_is_a_truth_value_and_goes_to_no_upstream(shared: Edge, heard: list[Order]) -> None:
    refused = shared.client.post(NATIVE, json={"prompt": "a fox", "use_cache": "no"}, headers=MINE)
    assert [(each["field"], each["code"]) for each in refused.json["errors"]] == [("use_cache", "wrong_type")]
    shared.client.post(NATIVE, json={"prompt": "a fox", "use_cache": False}, headers=MINE)
    assert heard[0].wants_fresh


@pytest.mark.parametrize(
    ("order", "cached"),
    [
        ({"seed": 5, "n": 2}, (375_000, 750_000)),
        ({"n": 2}, None),
        ({"seed": 0}, None),  # a random one at this upstream
        ({"seed": 5, "use_cache": False}, None),
    ],
)
def test_an_estimate_says_what_an_answer_of_an_earlier_task_costs(
    shared: Edge, monkeypatch: pytest.MonkeyPatch, order: dict[str, Any], cached: tuple[int, int] | None
) -> None:
    terms = CacheTerms(3600, Decimal("12.5"))
    monkeypatch.setattr(shared.submission, "_cache", ResultCache(None, None, terms))  # type: ignore[arg-type]
    body = {"prompt": "a fox", "model": CORE, **order}
    said = Estimate.model_validate(shared.client.post("/api/images/estimate", json=body, headers=MINE).json)
    found = said.cached_price
    assert (None if found is None else (found.unit_microcredits, found.total_microcredits)) == cached
    assert said.price.unit_microcredits == 3_000_000


def test_the_quota_states_the_terms(shared: Edge) -> None:
    said = QuotaOut.model_validate(shared.client.get("/api/quota", headers=MINE).json)
    assert said.result_cache is not None
    assert (said.result_cache.max_age_s, said.result_cache.price_percent) == (7200, 12.5)
    off = make_edge().client.get("/api/quota", headers=MINE).json
    assert QuotaOut.model_validate(off).result_cache is None


@pytest.mark.parametrize(
    ("model", "seed", "counts"),
    [
        (CORE, 7, True),
        (CORE, 0, False),  # the model's default: a random one
        ("flux-2-pro", 0, True),
        ("ws-flux-dev", -1, False),
        ("gemini-3-pro-image", -5, False),
        ("flux-2-pro", None, False),
    ],
)
def test_a_seed_is_one_that_the_caller_fixed(model: str, seed: int | None, counts: bool) -> None:
    assert is_seeded(CATALOG.resolve(model).model, {} if seed is None else {"seed": seed}) is counts


def test_a_price_is_rounded_up_to_a_whole_microcredit() -> None:
    assert CacheTerms(1, Decimal("0.001")).unit_price_microcredits(530_001) == 6
