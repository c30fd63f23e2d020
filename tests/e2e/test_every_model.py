"""Every model of every provider, by each of its operations, ordered as a new client would.

The orders are made of ``GET /api/models/{id}`` alone: once with nothing but what its JSON Schema requires, as
JSON, and once with every field that goes together, as a form. They run at the same time through the real
processes against the emulators, which refuse a field that the upstream does not know.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import requests
from PIL import Image, ImageChops, ImageStat

from app.orders.operations import OPERATIONS
from providers.catalog.catalog import Model, load
from providers.configured import PROVIDERS
from tests.e2e import schema_orders
from tests.e2e.conftest import Service, in_order

Detail = dict[str, Any]
Task = dict[str, Any]
Way = Literal["plainest", "fullest"]

WITHIN_S = 90.0
# Mean difference of two halves, 0 to 255: a second encoding as JPEG or in another size stays far below.
SAME, CHANGED = 6.0, 15.0
_IN_URL = {name: url for url, name in OPERATIONS.items()}
_USABLE = [model for model in load().select() if PROVIDERS[model.provider].has_adapter]


def _ways(model: Model) -> tuple[Way, ...]:
    # The successor of a withdrawn model takes the plain order alone.
    return ("plainest",) if model.status == "unknown" else ("plainest", "fullest")


# For the names of the tests alone: the orders are made of what the service says.
EXPECTED = [
    (model.id, _IN_URL[operation], way)
    for model in _USABLE
    for operation in sorted(model.operations)
    for way in _ways(model)
]


@dataclass(frozen=True)
class Outcome:
    detail: Detail
    order: dict[str, Any]
    task: Task
    files: tuple[requests.Response, ...]


@dataclass(frozen=True)
class Run:
    """What became of all orders, and how often each upstream accepted one meanwhile."""

    outcomes: dict[tuple[str, str, Way], Outcome]
    accepted: Counter[str]


@pytest.fixture(scope="module")
def details(service: Service) -> dict[str, Detail]:
    """What the service says of each model that it can run, by id."""
    listed = service.http.get(service.url("/api/models?configured=true"), timeout=30).json()["data"]
    found = in_order(lambda model: service.http.get(service.url(f"/api/models/{model['id']}"), timeout=30), listed)
    return {answer.json()["id"]: answer.json() for answer in found}


@pytest.fixture(scope="module")
def run(service: Service, details: dict[str, Detail]) -> Run:
    """Every order is sent before the first is waited for."""
    # Drawing and decoding is most of the work, and large images and what is drawn for words are looked at elsewhere.
    service.sandbox("settings", prepared=True, edge_max_px=schema_orders.SIDE_PX)
    before = _accepted(service)
    sent = in_order(lambda each: _send(service, details[each[0]], *each[1:]), EXPECTED)
    tasks = in_order(lambda pair: service.ended(pair[1]["id"], WITHIN_S), sent)
    files = in_order(lambda task: _files(service, task), tasks)
    after = _accepted(service)
    service.sandbox("settings", prepared=False, edge_max_px=0)
    ran = zip(EXPECTED, sent, tasks, files, strict=True)
    outcomes = {key: Outcome(details[key[0]], order, task, kept) for key, (order, _), task, kept in ran}
    return Run(outcomes, after - before)


def _accepted(service: Service) -> Counter[str]:
    return Counter({name: tally["accepted"] for name, tally in service.counts().items()})


def _send(service: Service, detail: Detail, operation: str, way: Way) -> tuple[dict[str, Any], Task]:
    make = schema_orders.plainest if way == "plainest" else schema_orders.fullest
    order = {**make(detail["orders"][operation], f"{way} {operation} by {detail['id']}"), "model": detail["id"]}
    if way == "plainest":
        return order, service.submit(operation, **order)
    texts, files = schema_orders.as_form(order)
    # Without a file part, requests sends a urlencoded form.
    parts = files or {"metadata": (None, "{}")}
    answer = service.http.post(service.url(f"/api/images/{operation}"), data=texts, files=parts, timeout=60)
    assert answer.status_code == 202, (detail["id"], operation, answer.text)
    return order, dict(answer.json())


def _files(service: Service, task: Task) -> tuple[requests.Response, ...]:
    return tuple(service.http.get(service.url(image["url"]), timeout=60) for image in task["images"])


def test_the_service_offers_every_model_that_still_answers(details: dict[str, Detail]) -> None:
    offered = {(model, operation) for model, detail in details.items() for operation in detail["orders"]}
    assert offered == {(model, operation) for model, operation, _ in EXPECTED}
    assert {detail["provider"] for detail in details.values()} == set(PROVIDERS)


def test_every_route_has_a_model_in_the_run(details: dict[str, Detail]) -> None:
    assert {operation for detail in details.values() for operation in detail["orders"]} == set(OPERATIONS)


@pytest.mark.parametrize(("model", "operation", "way"), EXPECTED)
def test_an_order_by_the_schema_alone_succeeds(run: Run, model: str, operation: str, way: Way) -> None:
    outcome = run.outcomes[model, operation, way]
    task, price = outcome.task, outcome.task["price"]
    assert (task["status"], task["error"], task["operation"]) == ("succeeded", None, operation)
    if outcome.detail["status"] == "unknown":
        assert task["model"] in (model, outcome.detail["replaced_by"])
    else:
        assert task["model"] == model
        assert (price["captured_microcredits"], price["released_microcredits"]) == (price["quoted_microcredits"], 0)
    assert len(task["images"]) == task["n"] == task["attempts"] - (task["model"] != model) == 1
    for said, file in zip(task["images"], outcome.files, strict=True):
        assert file.status_code == 200
        assert file.headers["Content-Type"].partition(";")[0] == said["mime"]
        assert len(file.content) == said["size_bytes"]
        _RIGHT_KIND[outcome.detail["output"]](said, file, outcome.order)


def _is_an_image(said: dict[str, Any], file: requests.Response, order: dict[str, Any]) -> None:
    after = Image.open(io.BytesIO(file.content))
    after.load()
    assert after.size == (said["width"], said["height"])
    if "mask" in order:
        before = Image.open(io.BytesIO(schema_orders.bytes_of(order["images"][0])))
        left, right = _differences(before, after)
        assert left < SAME
        assert right > CHANGED


def _differences(before: Image.Image, after: Image.Image) -> tuple[float, float]:
    """How much each half has changed: the left one, which the mask keeps, and the right one, which it opens."""
    apart = ImageChops.difference(before.convert("L").resize(after.size), after.convert("L"))
    box = schema_orders.right_half(after.size)
    right = apart.crop(box)
    left = apart.crop((0, 0, box[0], box[3]))
    return ImageStat.Stat(left).mean[0], ImageStat.Stat(right).mean[0]


def _is_a_model(said: dict[str, Any], file: requests.Response, order: dict[str, Any]) -> None:
    assert (said["width"], said["height"]) == (None, None)
    if "geometry_file_format" not in order:
        assert (said["mime"], file.content[:4]) == ("model/gltf-binary", b"glTF")


def _is_a_text(said: dict[str, Any], file: requests.Response, order: dict[str, Any]) -> None:
    assert file.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert file.content.decode() == said["text"] != ""


_RIGHT_KIND = {"image": _is_an_image, "model_3d": _is_a_model, "text": _is_a_text}


def test_nothing_was_bought_twice_and_the_books_are_clean(service: Service, run: Run) -> None:
    ordered = Counter(outcome.task["provider"] for outcome in run.outcomes.values())
    assert run.accepted == ordered
    assert service.audit() == {"clean": True, "findings": []}
