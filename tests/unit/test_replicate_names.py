"""Our models under Replicate's names, and their versions."""

from __future__ import annotations

import pytest
from replicate.identifier import ModelVersionIdentifier

from app.dialects.replicate.names import ModelNotFoundError, Names, UnknownVersionError, names_of
from app.dialects.replicate.schemas import openapi_schema
from providers.catalog import catalog
from providers.orders.schema import order_schema

SDXL = "39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b"


@pytest.fixture(scope="module")
def names() -> Names:
    return names_of(catalog.load())


def test_every_model_on_offer_has_a_name_that_clients_can_parse_and_a_version_of_its_own(names: Names) -> None:
    for named in names.by_name.values():
        parsed = ModelVersionIdentifier.parse(f"{named.full}:{named.version}")
        assert (parsed.owner, parsed.name, parsed.version) == (named.owner, named.name, named.version)
    assert len(names.by_version) == len(names.by_name) == len(names.catalog.select())


def test_replicates_own_models_keep_their_names_and_pinned_versions(names: Names) -> None:
    assert names.model("black-forest-labs/flux-schnell").model.id == "replicate-flux-schnell"
    assert names.version(SDXL).full == "stability-ai/sdxl"
    assert names.model("openai/gpt-image-2").model.id == "gpt-image-2"


@pytest.mark.parametrize("text", ["gpt-image-2", "openai/gpt-image-2", "OpenAI/GPT-Image-2", "gpt-image-2-2026-04-21"])
def test_our_ids_aliases_and_spellings_name_a_version_too(names: Names, text: str) -> None:
    assert names.version(text).model.id == "gpt-image-2"


def test_a_version_counts_only_with_its_own_model(names: Names) -> None:
    assert names.version(f"stability-ai/sdxl:{SDXL}").full == "stability-ai/sdxl"
    with pytest.raises(UnknownVersionError, match="black-forest-labs/flux-schnell has no version"):
        names.version(f"black-forest-labs/flux-schnell:{SDXL}")


def test_an_unknown_name_is_answered_with_the_nearest(names: Names) -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean black-forest-labs/flux-schnell"):
        names.model("black-forest-labs/flux-schnel")
    with pytest.raises(UnknownVersionError, match="no model is called 'ffff'"):
        names.version("ffff")


def test_every_schema_says_what_clients_look_for(names: Names) -> None:
    for named in names.by_name.values():
        schemas = openapi_schema(named, order_schema)["components"]["schemas"]
        assert set(schemas["Input"].get("required", ())) <= schemas["Input"]["properties"].keys(), named.full
        assert ("num_outputs" in schemas["Input"]["properties"]) is not named.single
    one = openapi_schema(names.model("black-forest-labs/flux-2-pro"), order_schema)["components"]["schemas"]
    assert one["Output"] == {"title": "Output", "type": "string", "format": "uri"}
    assert one["Input"]["properties"]["input_images"]["type"] == "array"
    sdxl = openapi_schema(names.model("stability-ai/sdxl"), order_schema)["components"]["schemas"]
    assert {"image", "mask", "scheduler", "num_inference_steps", "prompt_strength"} <= sdxl["Input"][
        "properties"
    ].keys()
    assert sdxl["Output"]["type"] == "array"
