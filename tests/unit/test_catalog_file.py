"""A catalogue file that cannot be used says everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from providers.catalog.catalog import CatalogError, load

Raw = dict[str, Any]


def model(**changes: Any) -> Raw:
    return {
        "id": "brush",
        "name": "Brush",
        "provider": "easel",
        "path": "v1/brush",
        "operation": "generate",
        "capabilities": [],
        "cost_usd": 0.1,
        "inputs": {"prompt": "required", "images": {"min": 0, "max": 0}, "mask": "none"},
        "size": "none",
        "params": {},
        "output": "image",
        "source": ["S"],
        "verified": True,
    } | changes


def catalog_of(*models: Raw, **changes: Any) -> Raw:
    easel = {
        "title": "Easel",
        "kind": "sync",
        "recovery": "never",
        "check_interval_s": 1,
        "check_interval_max_s": 2,
        "deadline_s": 10,
        "call_timeout_s": 5,
        "batch_size": 1,
        "cancellable": False,
        "text": False,
        "env": ["EASEL_KEY"],
    }
    return {
        "schema_version": 1,
        "checked": "2026-11-20",
        "default_model": "brush",
        "sources": {"S": "a page"},
        "aliases": {"*": "brush"},
        "providers": {"easel": easel},
        "models": list(models),
    } | changes


def faults_of(tmp_path: Path, raw: Raw | str) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(CatalogError) as refused:
        load(path)
    return "\n".join(refused.value.faults)


def test_a_small_catalogue_of_ones_own_loads(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(catalog_of(model())), encoding="utf-8")
    assert load(path).resolve("easel/brush").model.name == "Brush"


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (model(colour="red"), "brush: colour: Extra inputs"),
        (model(provider="nobody"), "brush: provider nobody"),
        (model(operation="dance"), "brush: operation dance"),
        (model(status="asleep"), "brush: status"),
        (model(status="shutdown"), "brush: no living model"),
        (model(status="shutdown", replaced_by="brush"), "brush: no living model"),
        (model(status="retiring", replaced_by="brush"), "brush: retiring, but retires_on"),
        (model(replaced_by="pencil"), "brush: replaced_by pencil"),
        (model(source=["X"]), "brush: source X"),
        (model(cost_usd=-1), "brush: cost_usd"),
        (model(params={"n": {"type": "int", "enum": ["1"]}}), "brush: param n: enum"),
        (model(size={"size": {"rule": "guess"}}), "brush: size"),
    ],
)
def test_a_fault_names_its_entry(tmp_path: Path, broken: Raw, fault: str) -> None:
    assert fault in faults_of(tmp_path, catalog_of(broken))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"aliases": {"x*": "pencil"}}, "alias x*: target pencil"),
        ({"default_model": "pencil"}, "default_model pencil"),
        ({"schema_version": 2}, "schema_version 2"),
        ({"providers": {"easel": {"title": "Easel"}}}, "provider easel: kind"),
        ({"models": None}, "models: missing"),
        ({"extra": 1}, "head: extra"),
    ],
)
def test_a_fault_of_the_file_is_named(tmp_path: Path, changes: Raw, fault: str) -> None:
    assert fault in faults_of(tmp_path, catalog_of(model(), **changes))


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    told = faults_of(
        tmp_path,
        catalog_of(model(), model(), model(id="pen", operation="dance"), aliases={"p*": "pencil"}),
    )
    assert "brush: id given 2 times" in told
    assert "pen: operation dance" in told
    assert "alias p*" in told


@pytest.mark.parametrize(
    ("text", "fault"),
    [("a: [", "not YAML"), ("- a", "not a mapping"), ("a: 1\na: 2\n", "key given twice: a")],
)
def test_what_is_no_catalogue_at_all_says_so(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in faults_of(tmp_path, text)
