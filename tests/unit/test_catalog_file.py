"""A catalogue that cannot be used says everything that is wrong with it, and in which file."""

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


def written(root: Path, raw: Raw) -> Path:
    """The catalogue as its files: what holds for all, and a folder for each provider; all models are the first's."""
    common = {name: value for name, value in raw.items() if name not in {"providers", "models"}}
    write(root / "catalog" / "catalog.yaml", common)
    for place, (name, block) in enumerate(raw["providers"].items()):
        models = [] if place else raw["models"]
        write(root / "upstreams" / name / "models.yaml", {"provider": block, "models": models})
    return root


def write(path: Path, content: Raw | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")


def faults_in(root: Path) -> tuple[str, ...]:
    with pytest.raises(CatalogError) as refused:
        load(root)
    return refused.value.faults


def faults_of(tmp_path: Path, raw: Raw) -> str:
    return "\n".join(faults_in(written(tmp_path, raw)))


def test_a_small_catalogue_of_ones_own_loads(tmp_path: Path) -> None:
    assert load(written(tmp_path, catalog_of(model()))).resolve("easel/brush").model.name == "Brush"


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
        (model(params={"n": {"type": "float", "enum": ["1"]}}), "brush: param n: enum needs"),
        (model(params={"n": {"type": "int", "enum": ["one"]}}), "brush: param n: enum of an int"),
        (model(params={"n": {"type": "str", "items": {"x": {"type": "int"}}}}), "brush: param n: items needs"),
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


@pytest.mark.parametrize("place", ["catalog/catalog.yaml", "upstreams/easel/models.yaml"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [("a: [", "not YAML"), ("- a", "not a mapping"), ("a: 1\na: 2\n", "key given twice: a")],
)
def test_what_is_no_catalogue_at_all_says_so(tmp_path: Path, place: str, text: str, fault: str) -> None:
    root = written(tmp_path, catalog_of(model()))
    write(root / place, text)
    [told] = faults_in(root)
    assert told.startswith(f"{place}: ")
    assert fault in told


# ---------------------------------------------------------------- several files


EASEL: Raw = catalog_of()["providers"]["easel"]


def studio(root: Path, *order: str) -> Path:
    """A catalogue of three providers with a model each, listed in that order."""
    written(root, catalog_of(model(), order={"providers": list(order), "models": list(reversed(order))}))
    for name in ("anvil", "chisel"):
        bust = model(id=f"{name}-bust", provider=name, path=f"v1/{name}")
        write(root / "upstreams" / name / "models.yaml", {"provider": EASEL, "models": [bust]})
    return root


def test_lists_follow_the_order_given_and_the_rest_comes_last_by_name(tmp_path: Path) -> None:
    listed = load(studio(tmp_path / "two", "easel", "chisel"))
    assert list(listed.providers) == ["easel", "chisel", "anvil"]
    assert list(listed.models) == ["chisel-bust", "brush", "anvil-bust"]
    assert list(load(studio(tmp_path / "none")).providers) == ["anvil", "chisel", "easel"]


def test_every_fault_of_every_file_comes_with_its_file(tmp_path: Path) -> None:
    root = studio(tmp_path, "easel", "lathe")
    bust = model(id="brush", provider="anvil", colour="red")
    write(root / "upstreams" / "anvil" / "models.yaml", {"provider": {**EASEL, "kind": "slow"}, "models": [bust]})
    wrong = [model(id="brush", provider="chisel"), model(id="saw", provider="easel")]
    sources = {"S": "another page", "T": "its own page"}
    write(root / "upstreams" / "chisel" / "models.yaml", {"provider": EASEL, "models": wrong, "sources": sources})
    told = faults_in(root)
    for file, fault in (
        ("catalog/catalog.yaml", "head: order.providers: lathe has no folder"),
        ("upstreams/anvil/models.yaml", "provider anvil: kind: "),
        ("upstreams/anvil/models.yaml", "brush: colour: Extra inputs"),
        ("upstreams/chisel/models.yaml", "saw: provider easel is not that of the folder"),
        ("upstreams/chisel/models.yaml", "source S: the key is taken in another file"),
        ("upstreams/chisel/models.yaml", "brush: id given 2 times"),
        ("upstreams/easel/models.yaml", "brush: id given 2 times"),
    ):
        assert [line for line in told if line.startswith(f"{file}: {fault}")], (file, fault, told)


def test_a_file_without_a_provider_says_so(tmp_path: Path) -> None:
    root = written(tmp_path, catalog_of(model()))
    write(root / "upstreams" / "easel" / "models.yaml", {"models": [model()]})
    assert "upstreams/easel/models.yaml: provider: missing, or not a mapping" in faults_in(root)


def test_the_version_names_the_content_of_every_file(tmp_path: Path) -> None:
    versions = set()
    for name in ("same", "same again", "common", "provider"):
        root = studio(tmp_path / name)
        changed = {"common": "catalog/catalog.yaml", "provider": "upstreams/anvil/models.yaml"}.get(name)
        if changed:
            write(root / changed, (root / changed).read_text(encoding="utf-8") + "# a comment\n")
        versions.add(load(root).version)
    assert len(versions) == 3
