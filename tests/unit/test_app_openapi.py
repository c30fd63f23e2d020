"""The document that describes the API is one that tools can read."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from app_doubles import make_edge


@pytest.fixture(scope="module")
def document() -> Any:
    return make_edge().client.get("/openapi.json").json


def test_every_reference_leads_somewhere(document: Any) -> None:
    """Two schemas of one class name are told apart by their modules, and what names them by the class leads nowhere."""
    for kind, name in set(re.findall(r'"#/components/(\w+)/([^"]+)"', json.dumps(document))):
        assert name in document["components"][kind]


def test_every_operation_has_a_name_of_its_own(document: Any) -> None:
    names = Counter(each["operationId"] for path in document["paths"].values() for each in path.values())
    assert [name for name, count in names.items() if count > 1] == []


def test_what_may_be_a_file_is_described_as_one(document: Any) -> None:
    content = document["paths"]["/api/images/{operation}"]["post"]["responses"]["200"]["content"]
    assert [kind for kind, each in content.items() if "$ref" in each["schema"]] == ["application/json"]
