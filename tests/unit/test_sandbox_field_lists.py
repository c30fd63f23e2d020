"""Requests listed by their fields: names of a library, stars for what is required, fields of their own."""

import pytest

from sandbox.emulators.field_lists import schema_of

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
LIBRARY = {"prompt": {"prompt": TEXT}, "SIZE": {"width": WHOLE, "height": WHOLE}}


def test_names_stand_for_their_fields_in_the_order_listed():
    document = schema_of(["SIZE", "prompt"], LIBRARY)
    assert document == {
        "type": "object",
        "additionalProperties": False,
        "properties": {"width": WHOLE, "height": WHOLE, "prompt": TEXT},
    }
    assert list(document["properties"]) == ["width", "height", "prompt"]


def test_a_star_marks_every_field_of_a_name_as_required():
    document = schema_of(["prompt", "SIZE*", {"seed*": WHOLE, "style": TEXT}], LIBRARY)
    assert document["required"] == ["width", "height", "seed"]
    assert list(document["properties"]) == ["prompt", "width", "height", "seed", "style"]


def test_an_inner_list_only_breaks_the_line():
    assert schema_of([["prompt*"], ["SIZE", {"seed": WHOLE}]], LIBRARY) == schema_of(
        ["prompt*", "SIZE", {"seed": WHOLE}], LIBRARY
    )


def test_a_field_listed_twice_is_as_it_was_listed_last():
    assert schema_of(["SIZE", {"width": TEXT}], LIBRARY)["properties"] == {"width": TEXT, "height": WHOLE}


def test_a_name_that_is_not_in_the_library_is_an_error():
    with pytest.raises(KeyError):
        schema_of(["prompts"], LIBRARY)
