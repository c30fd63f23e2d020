"""Writing an entry into an operator's file: what stands there stays as it is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml

from providers.catalog import local_file
from providers.catalog.local_file import ModelExistsError, written
from providers.catalog.reading import CatalogError

ENTRY = {"like": "flux-2-pro", "path": "/v1/new", "size": {"rule": "x", "enum": ["1:1", "16:9"]}, "note": "yes"}
OWN = """\
# mine
default_model: fox   # of the house

models:
    fox:                # four spaces
        like: flux-2-pro
        # the end of fox

    owl: {like: gpt-image-2,
          cost_usd: 0.05}
# behind the models
aliases:
    f*: fox
"""


def test_a_file_that_is_not_there_begins_with_the_models() -> None:
    text = written("", "new", ENTRY)
    assert yaml.safe_load(text) == {"models": {"new": ENTRY}}


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        OWN.rstrip("\n"),
        "models:\n  fox: {like: flux-2-pro}",
        "models: # none yet\n",
        "models:\n",
        "models: {}\n",
        "models: {}\naliases: {a: gpt-image-2}\n",
        "# only a comment\n",
        "aliases: {a: gpt-image-2}\n",
        "aliases: {a: gpt-image-2}",
        "models:\n  # fox: {like: flux-2-pro}\naliases: {a: gpt-image-2}\n",
        "---\nmodels:\n  fox:\n    like: flux-2-pro\n",
        "models:\n  fox:\n    quirks: |\n      a long\n\n      text\n\n",
    ],
)
def test_everything_else_stays_line_by_line(text: str) -> None:
    after = written(text, "new", ENTRY)
    before = yaml.safe_load(text) or {}
    assert yaml.safe_load(after) == {**before, "models": {**(before.get("models") or {}), "new": ENTRY}}
    kept = [line.rstrip() for line in text.splitlines() if not line.startswith("models: {}")]
    left = iter(line.rstrip() for line in after.splitlines())
    assert all(any(line == other for other in left) for line in kept), after


def test_an_entry_is_replaced_only_when_that_is_asked_for() -> None:
    with pytest.raises(ModelExistsError):
        written(OWN, "fox", ENTRY)
    for model_id in ("fox", "owl"):
        after = written(OWN, model_id, ENTRY, replace=True)
        assert yaml.safe_load(after)["models"][model_id] == ENTRY
        assert list(yaml.safe_load(after)["models"]) == ["fox", "owl"]
        assert {"# mine", "# behind the models", "    f*: fox"} <= set(after.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "models: {fox: {like: flux-2-pro}}\n",
        "- a list\n",
        "models: [1]\n",
        "a: [\n",
        "models:\n  fox:\n    quirks: |\n      a text\n      # that ends like a comment\n",
    ],
)
def test_what_cannot_be_extended_is_refused(text: str) -> None:
    with pytest.raises(CatalogError):
        written(text, "new", ENTRY)


def test_the_whole_catalogue_is_checked_before_anything_is_written() -> None:
    with pytest.raises(CatalogError, match="cost_usd"):
        local_file.checked(Path("catalog.local.yaml"), "models:\n  new: {like: flux-2-pro, cost_usd: -1}\n")
    good = local_file.checked(Path("catalog.local.yaml"), "models:\n  new: {like: flux-2-pro, cost_usd: 1}\n")
    assert good.models["new"].cost_usd == 1


def test_the_file_is_replaced_at_once_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "var" / "catalog.local.yaml"
    local_file.put(path, "models: {}\n")
    path.chmod(0o600)
    before = path.stat().st_ino
    local_file.put(path, "# again\n")
    assert path.read_text() == "# again\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_ino != before  # a file of its own took its place, none was written over
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    local_file.put(link, "# by the link\n")
    assert link.is_symlink()
    assert path.read_text() == "# by the link\n"


def test_changes_of_two_processes_come_one_after_the_other(tmp_path: Path) -> None:
    """Each reads the file and writes it anew: at the same time, one of two entries would be lost."""
    path, order = tmp_path / "new" / "catalog.local.yaml", []

    def second() -> None:
        with local_file.held(path):
            order.append("second")

    with local_file.held(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
