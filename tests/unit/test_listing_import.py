"""A vendor's list as entries: each of WaveSpeed's 348 models becomes one, or says why not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers.base import InputImage, UpstreamOrder
from providers.catalog.entries import Model
from providers.http.client import HttpResponse, WireRequest
from providers.listing.importing import Imported, entry_of, suggested_id
from providers.listing.listed import ListedField, ListedModel, NotImportableError
from providers.orders.costs import cost_usd
from providers.orders.needs import face_need, image_range, mask_need
from providers.orders.rules import check_order
from providers.upstreams.wavespeed.model_list import list_models
from providers.upstreams.wavespeed.requests import build_input
from sandbox.emulators.wavespeed.model_list import listed
from sandbox.emulators.wavespeed.models import MODELS, ROWS, check

IMAGE = InputImage(b"\x89PNG", "image/png", 64, 64)


class Account:
    """Answers the list without a network."""

    credential_id = "wavespeed/default"

    def ask(self, request: WireRequest, *, total_s: float, max_bytes: int) -> HttpResponse:
        assert (request.path, request.method) == ("/api/v3/models", "GET")
        assert total_s > 0 and max_bytes > 10_000_000
        body = json.dumps({"code": 200, "message": "success", "data": listed()})
        return HttpResponse(200, {}, body.encode())


LISTED = list_models(Account(), []).models


def outcome(name: str) -> Imported | str:
    try:
        return entry_of("wavespeed", LISTED[name])
    except NotImportableError as error:
        return str(error)


OUTCOMES: Mapping[str, Imported | str] = {name: outcome(name) for name in ROWS}
IMPORTED = {name: found for name, found in OUTCOMES.items() if isinstance(found, Imported)}


def model_of(name: str, imported: Imported) -> Model:
    plain = {"id": suggested_id(name), "source": [], "verified": False}
    return Model.model_validate({**plain, **imported.entry})


def test_each_model_gives_an_entry_or_a_reason() -> None:
    assert len(OUTCOMES) == 348
    reasons = Counter(found for found in OUTCOMES.values() if isinstance(found, str))
    assert reasons == {
        "it needs video: Darkroom takes images, and no video or sound": 21,
        "it needs mask_video: Darkroom takes images, and no video or sound": 1,
        "one call makes at least 2 images (num_images), and an order may ask for one": 2,
        "its price depends on resolution, which is no input of the model": 2,
        "its price depends on version, which is no input of the model": 1,
    }
    assert len(IMPORTED) == 321


@pytest.mark.parametrize("full", [False, True], ids=["least", "most"])
@pytest.mark.parametrize("name", IMPORTED)
def test_an_imported_model_sends_what_the_upstream_takes(name: str, full: bool) -> None:
    """The least order and one with every setting, as they go upstream, pass the vendor's own schema."""
    model = model_of(name, IMPORTED[name])
    for operation in sorted(model.operations):
        order = upstream_order(model, operation, full=full)
        check(MODELS[name].schema, build_input(order, lambda _image: "https://img.example/1.png"))


def upstream_order(model: Model, operation: str, *, full: bool) -> UpstreamOrder:
    fields: dict[str, Any] = {} if model.inputs.prompt == "none" else {"prompt": "a kite"}
    params = model.order_params(operation).items()
    fields |= {name: sample(model, name) for name, spec in params if full or spec.required}
    if full:
        fields |= {"n": model.max_per_call} | ({} if isinstance(model.size, str) else {"size": "1024x768"})
    count, face = image_range(model, operation)[full], face_need(model) != "none"
    mask = mask_need(model, operation)
    masked = mask == "required" or (full and mask == "optional")
    checked = check_order(model, operation, fields, image_count=count - face, has_mask=masked, has_face=face)
    assert cost_usd(model, checked) > 0
    return UpstreamOrder(
        operation,
        model,
        checked.prompt,
        n=checked.n,
        size=checked.size,
        params=checked.params,
        images=[IMAGE] * (count - face),
        mask=IMAGE if masked else None,
        face=IMAGE if face else None,
    )


def sample(model: Model, name: str) -> Any:
    spec = model.params[name]
    items = LISTED[model.path].fields or {}
    if spec.type == "list":
        return ["x"] if items[spec.field or name].of == "string" else [described(model, spec.field or name)]
    if spec.enum:
        return spec.enum[-1]
    number = spec.min if spec.min is not None else 1
    return spec.default if spec.default is not None else {"str": "x", "bool": True}.get(spec.type, number)


def described(model: Model, field: str) -> dict[str, Any]:
    """An object as the upstream wants it: the list says that it is one, and not of what."""
    properties = MODELS[model.path].document["properties"][field]["items"].get("properties", {})
    return {name: "x" if part["type"] == "string" else 1 for name, part in properties.items()}


def test_the_price_of_a_plain_order_is_the_vendors() -> None:
    found = {name: Decimal(str(imported.entry["cost_usd"])) for name, imported in IMPORTED.items()}
    assert found["bytedance/seedream-v5.0-lite"] == Decimal("0.035")
    assert found["google/nano-banana-2/edit"] == Decimal("0.07")
    assert found["clarity-ai/crystal-upscaler"] == Decimal("0.05")  # the base price is a megapixel's
    flat = [name for name, row in ROWS.items() if name in IMPORTED and "price_formula" not in row]
    assert len(flat) > 150
    assert all(found[name] == Decimal(str(ROWS[name]["base_price_usd"])) for name in flat)


# ---------------------------------------------------------------- single inputs


def listed_model(fields: dict[str, ListedField], *required: str, **facts: Any) -> ListedModel:
    told: dict[str, Any] = {"kind": "text-to-image", "price_usd": Decimal("0.02"), **facts}
    prompt = {"prompt": ListedField("string")}
    return ListedModel("acme/one", fields={**prompt, **fields}, required=frozenset({"prompt", *required}), **told)


def test_what_no_setting_can_hold_is_left_out_unless_it_is_needed() -> None:
    odd = ListedField("integer", enum=(1, 4), default=None)
    imported = entry_of("wavespeed", listed_model({"quality": odd}))
    assert imported.left_out == {"quality": "a choice of numbers that are not in a row"}
    with pytest.raises(NotImportableError, match="needs quality"):
        entry_of("wavespeed", listed_model({"quality": odd}, "quality"))


def test_a_field_that_an_order_uses_for_something_else_gets_another_name() -> None:
    imported = entry_of("wavespeed", listed_model({"model": ListedField("string", enum=("a", "b"))}))
    assert imported.entry["params"] == {"upstream_model": {"type": "str", "field": "model", "enum": ["a", "b"]}}


def test_a_required_text_with_a_default_always_goes_along() -> None:
    language = ListedField("string", enum=("en", "zh"), default="zh")
    entry = entry_of("wavespeed", listed_model({"lang": language}, "lang")).entry
    assert entry["constants"] == {"lang": "zh"}
    assert "required" not in entry["params"]["lang"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"price_usd": None}, "--price"),
        ({"formula": "base_price * seconds"}, "seconds, which is no input"),
        ({"formula": "$sum([1..9])"}, "not taken here"),
        ({"formula": '"free"'}, "no number"),
        ({"kind": "text-to-video"}, "no operation"),
        ({"kind": ""}, "does not say what a model is for"),
    ],
)
def test_a_model_that_cannot_be_sold_says_why(facts: dict[str, Any], words: str) -> None:
    with pytest.raises(NotImportableError, match=words):
        entry_of("wavespeed", listed_model({}, **facts))


def test_a_model_without_a_schema_or_with_two_lists_of_images_says_why() -> None:
    with pytest.raises(NotImportableError, match="without the schema"):
        entry_of("wavespeed", replace(listed_model({}), fields=None))
    images = ListedField("array")
    two = {"images": images, "reference_images": images}
    listed = listed_model(two, *two, kind="image-to-image")
    with pytest.raises(NotImportableError, match="several lists of images: images, reference_images"):
        entry_of("wavespeed", listed)
    assert entry_of("wavespeed", replace(listed, required=frozenset({"prompt", "images"})))


def test_a_count_that_is_several_by_itself_is_refused() -> None:
    with pytest.raises(NotImportableError, match="makes 4 images unless told otherwise"):
        entry_of("wavespeed", listed_model({"num_images": ListedField("integer", low=1, high=4, default=4)}))


def test_an_operators_price_goes_before_the_vendors() -> None:
    entry = entry_of("wavespeed", listed_model({}, formula="base_price * seconds"), price_usd=Decimal("0.5")).entry
    assert entry["cost_usd"] == 0.5
    assert "cost_formula" not in entry


def test_the_files_are_the_vendors_own() -> None:
    source = Path(__file__).parents[2] / "sandbox" / "emulators" / "wavespeed" / "models.jsonl"
    assert len(source.read_text(encoding="utf-8").splitlines()) == len(ROWS) == 348


@pytest.mark.parametrize(
    "name",
    [
        "v/../../x",
        "../x",
        "v/a?x=1#b",
        "v/a b",
        "v/a\nb: c",
        "v/<<",
        "v//x",
        "/v/x",
        "v/x/",
        "v/" + "n" * 300,
        "v/é",
        "",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    """The name is part of the address that every call goes to, with the account's key."""
    plain = ListedModel("v/x", kind="text-to-image", price_usd=Decimal(1), fields={"prompt": ListedField("string")})
    assert entry_of("wavespeed", plain).entry["path"] == "v/x"
    with pytest.raises(NotImportableError, match="its name has characters"):
        entry_of("wavespeed", replace(plain, name=name))


def test_an_enormous_schema_is_refused() -> None:
    """All processes read the file whenever it changes: entries of megabytes would hold them."""
    fields = {"prompt": ListedField("string"), **{f"f{number}": ListedField("string") for number in range(3000)}}
    with pytest.raises(NotImportableError, match="longer than 65536 characters"):
        entry_of("wavespeed", ListedModel("v/x", kind="text-to-image", price_usd=Decimal(1), fields=fields))


def test_a_title_has_no_control_characters() -> None:
    fields = {"prompt": ListedField("string")}
    listed = ListedModel(
        "v/x", title="A\x1b[2J\u202eB\nc: d", kind="text-to-image", price_usd=Decimal(1), fields=fields
    )
    assert entry_of("wavespeed", listed).entry["name"] == "A[2JBc: d"
