"""Requests against JSON Schema: which problems there are, in which order, and what a form's texts stand for."""

import gc

import pytest
from jsonschema import Draft202012Validator

from sandbox.emulators import all_emulators
from sandbox.emulators.openai import rules as openai_rules
from sandbox.emulators.replicate import models as replicate_models
from sandbox.emulators.wavespeed import models as wavespeed_models
from sandbox.emulators.xai import rules as xai_rules
from sandbox.plumbing.validation import Schema, closed, json_type, load_yaml

OPENAI_FORMS = ("generate", "edit", "edit_json")
FORM = closed(
    {
        "prompt": {"type": "string", "minLength": 1},
        "n": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
        "strength": {"type": "number", "maximum": 1},
        "format": {"type": "string", "enum": ["png", "jpeg"]},
        "raw": {"type": "boolean"},
        "images": {"type": "array", "maxItems": 2, "items": closed({"url": {"type": "string"}}, ["url"])},
    },
    ["prompt", "n"],
)


def found(schema: Schema, instance: object) -> list[tuple[str, str]]:
    return [(problem.field, problem.keyword) for problem in schema.problems(instance)]


def test_a_good_request_has_no_problem():
    good = {"prompt": "a kite", "n": 2, "strength": 1, "images": [{"url": "data:"}]}
    assert (found(Schema(FORM), good), Schema(FORM).problem(good), Schema(FORM).accepts(good)) == ([], None, True)


def test_a_problem_says_where_by_which_keyword_against_which_limit():
    problem = Schema(FORM).problem({"prompt": "x", "n": 9})
    assert (problem.path, problem.keyword, problem.limit, problem.value) == (("n",), "maximum", 4, 9)
    assert problem.schema["default"] == 1


def test_missing_and_unknown_properties_are_named_one_by_one():
    schema = Schema(FORM)
    assert found(schema, {"seed": 1, "cfg": 2}) == [
        ("prompt", "required"),
        ("n", "required"),
        ("seed", "additionalProperties"),
        ("cfg", "additionalProperties"),
    ]
    assert schema.problems({"prompt": "x", "n": 1, "cfg": 2})[0].value == 2


def test_a_deep_problem_has_a_path_and_the_property_it_is_in():
    problem = Schema(FORM).problem({"prompt": "x", "n": 1, "images": [{"url": "a"}, {"link": "b"}]})
    assert (problem.field, problem.top, problem.keyword) == ("images[1].url", "images", "required")


@pytest.mark.parametrize("n", [True, 1.0, 1.5, "1"])
def test_an_integer_is_neither_a_boolean_nor_a_fraction(n):
    assert found(Schema(FORM), {"prompt": "x", "n": n}) == [("n", "type")]


def test_a_path_has_one_problem_the_first_as_written():
    assert found(Schema(FORM), {"prompt": "x", "n": 1, "format": 3}) == [("format", "type")]


def test_the_order_is_that_of_the_schema_or_of_the_request():
    wrong = {"raw": 1, "odd": 1, "n": 9, "prompt": ""}
    assert [field for field, _ in found(Schema(FORM), wrong)] == ["odd", "prompt", "n", "raw"]
    by_request = Schema(FORM, first=("required",), by="request")
    assert [field for field, _ in found(by_request, wrong)] == ["raw", "odd", "n", "prompt"]
    assert [field for field, _ in found(by_request, {"raw": 1, "n": 1})] == ["prompt", "raw"]


def test_a_keyword_of_the_emulators_own_tells_its_problem():
    def even(limit: bool, value: object) -> str | None:
        return "is odd" if limit and isinstance(value, int) and value % 2 else None

    schema = Schema(closed({"seed": {"type": "integer", "even": True}}), checks={"even": even})
    assert schema.accepts({"seed": 2})
    assert [(p.keyword, p.message) for p in schema.problems({"seed": 3})] == [("even", "is odd")]
    assert found(schema, {"seed": "3"}) == [("seed", "type")]


def test_the_request_itself_may_be_of_a_wrong_type():
    problem = Schema(FORM).problem([1])
    assert (problem.field, problem.top, problem.keyword, json_type(problem.value)) == ("", "", "type", "array")


def test_a_form_is_typed_by_the_schema_and_what_cannot_be_stays_text():
    form = {"n": "3", "strength": "0.5", "raw": "True", "prompt": "12", "odd": "7"}
    assert Schema(FORM).typed(form) == {"n": 3, "strength": 0.5, "raw": True, "prompt": "12", "odd": "7"}
    assert Schema(FORM).typed({"n": "1.5", "raw": "yes"}) == {"n": "1.5", "raw": "yes"}


def test_defaults_fill_what_is_not_said():
    assert Schema(FORM).filled({"prompt": "x"}) == {"n": 1, "prompt": "x"}
    assert Schema(FORM).filled({"n": 3}) == {"n": 3}


def test_a_property_may_be_one_that_is_never_taken():
    schema = Schema(closed({"n": {"type": "integer", "default": 1}, "svg": {"unsupported": True}}))
    assert [(p.field, p.keyword, p.value) for p in schema.problems({"svg": 3})] == [("svg", "unsupported", 3)]
    assert (schema.filled({}), schema.typed({"svg": "3"})) == ({"n": 1}, {"svg": "3"})


def test_every_schema_of_an_emulator_is_a_json_schema():
    """Those made when the emulators are loaded, and those made for each model when it is first asked for."""
    loaded = all_emulators()
    per_model = [openai_rules._schema(form, name) for name in openai_rules.IMAGE_MODELS for form in OPENAI_FORMS]
    per_model += [
        xai_rules._schema(name, reference) for name in xai_rules.MODELS for reference in ("", "image", "images")
    ]
    per_model += [model.schema for model in replicate_models.MODELS.values()]
    per_model += [model.schema for model in wavespeed_models.MODELS.values()]
    gc.unfreeze()  # tests/parallel.py has frozen what was loaded, and frozen objects are not listed
    # By type(): isinstance asks a lazy proxy of another test for its class, and Celery's then reads the settings.
    made = [thing for thing in gc.get_objects() if issubclass(type(thing), Schema)]
    gc.freeze()
    assert len(made) > len(per_model) + len(loaded)
    for schema in made:
        Draft202012Validator.check_schema(schema.document)


def test_a_data_file_lies_next_to_its_module(tmp_path):
    (tmp_path / "forms.yaml").write_text("common: &c {a: 1}\nboth: {<<: *c, b: 2}\n", encoding="utf-8")
    assert load_yaml(str(tmp_path / "rules.py"), "forms.yaml")["both"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("value", "word"),
    [(None, "null"), (True, "boolean"), (1, "integer"), (1.0, "number"), ("", "string"), ([], "array"), ({}, "object")],
)
def test_values_have_the_types_of_json(value, word):
    assert json_type(value) == word
