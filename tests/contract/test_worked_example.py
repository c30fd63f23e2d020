"""providers/README.md does what it says: its entries and tables are checked, its example is built and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from providers import check
from providers.base import InputImage, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.catalog import Catalog
from providers.catalog.entries import Model
from providers.catalog.files import PACKAGED, common_file, provider_files
from providers.orders.costs import cost_usd
from providers.orders.rules import CheckedOrder, check_order
from providers.orders.sizes import choose_size
from providers.shared import order_fields

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "providers" / "README.md").read_text(encoding="utf-8")
# A comment says what becomes of the block below it.
ENTRY, FILE, PART = "entry", r"file: (?P<path>\S+)", r"into (?P<path>\S+) after: (?P<line>.+)"
# Folders of code, each with an empty __init__.py.
PACKAGES = ("providers/upstreams/pixmill", "sandbox/emulators/pixmill")
MODELS = "providers/upstreams/pixmill/models.yaml"
# Its own tests, the suite over all adapters for it alone, and those that hold registrations together.
SUITES = (
    *("tests/unit/test_providers_pixmill.py", "tests/unit/test_providers_registry.py", "tests/unit/test_catalog.py"),
    *("tests/unit/test_docs.py", "tests/contract/conformance", "tests/integration/test_pixmill_job.py"),
)
CHOSEN = "pixmill or test_providers_registry or test_catalog"
A_JOB = """
import pytest
from job_engine import CREDIT


@pytest.fixture
def upstreams(sandbox):
    return sandbox.environ("pixmill")


def test_a_job_of_two_pictures(engine, account, sandbox):
    job = engine.order(account, "a kite", model="pixmill-mill-1", n=2, publish=False).task.id
    engine.run(job)
    assert engine.job(job).status == "waiting"
    engine.poll("pixmill")
    assert engine.job(job).status == "succeeded"
    assert engine.one("SELECT count(*) FROM images") == 2
    assert engine.transfers(job)["capture"] == 4 * CREDIT
    assert sandbox.counts()["pixmill"]["accepted"] == 1
    engine.assert_books_balance()
"""


def blocks(mark: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each block of code under a comment of that form, with what the comment says."""
    for found in re.finditer(r"^<!-- ([^\n]+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if said := re.fullmatch(mark, found[1]):
            yield said, found[2]


def insert(root: Path, path: str, line: str, text: str) -> None:
    """Put ``text`` below the one line that reads so."""
    lines = (root / path).read_text(encoding="utf-8").splitlines(keepends=True)
    [place] = [number for number, each in enumerate(lines) if each.rstrip("\n") == line]
    lines.insert(place + 1, text)
    (root / path).write_text("".join(lines), encoding="utf-8")


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def append(root: Path, path: str, text: str) -> None:
    with (root / path).open("a", encoding="utf-8") as file:
        file.write(f"\n{text}")


def rows(*head: str) -> list[list[str]]:
    """The cells of the table with this head; code in them without its quotes."""
    found = re.search(rf"^\| {re.escape(' | '.join(head))} \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, f"no table {head}"
    return [[cell.strip(" `") for cell in row.strip("|").split(" | ")] for row in found[1].splitlines()]


# ---------------------------------------------------------------- models


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The catalogue with everything that the page adds to it."""
    root = tmp_path_factory.mktemp("catalogue")
    for path in (common_file(PACKAGED), *provider_files(PACKAGED).values()):
        copy = root / "providers" / path.relative_to(PACKAGED)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for said, text in blocks(FILE):
        if said["path"] == MODELS:
            write(root, MODELS, text)
    for _, text in blocks(ENTRY):
        append(root, MODELS, text)
    return catalog.load(root / "providers")


def ordered(model: Model, asked: dict[str, Any]) -> tuple[CheckedOrder, UpstreamOrder]:
    """The order of a row; its ``images`` are a number."""
    facts = dict(asked)
    operation, count, has_mask = (
        facts.pop("operation", model.operation),
        facts.pop("images", 0),
        facts.pop("mask", False),
    )
    checked = check_order(model, operation, facts, image_count=count, has_mask=has_mask)
    return checked, UpstreamOrder(
        operation=operation,
        model=model,
        prompt=checked.prompt,
        n=checked.n,
        size=checked.size,
        params=checked.params,
        images=[sample_image(f"image {number + 1}") for number in range(count)],
        mask=sample_image("mask") if has_mask else None,
    )


def sample_image(name: str) -> InputImage:
    return InputImage(name.encode(), "image/png", 64, 64)


def on_the_wire(order: UpstreamOrder) -> dict[str, Any]:
    return order_fields.wire_fields(order) | order_fields.reference_fields(order, lambda image: image.data.decode())


@pytest.mark.parametrize(("name", "asked", "sent", "usd"), rows("model", "order", "on the wire", "USD"))
def test_an_order_goes_out_as_the_page_says(taught: Catalog, name: str, asked: str, sent: str, usd: str) -> None:
    checked, order = ordered(taught.models[name], json.loads(asked))
    assert on_the_wire(order) == json.loads(sent)
    assert cost_usd(order.model, checked) == Decimal(usd)


@pytest.mark.parametrize(("rule", "asked", "sent"), rows("`size:` of the entry", "order", "on the wire"))
def test_a_size_rule_does_what_the_page_says(taught: Catalog, rule: str, asked: str, sent: str) -> None:
    said = taught.models["pixmill-mill-1"].model_dump(by_alias=True)
    model = Model.model_validate({**said, "size": yaml.safe_load(rule)})
    choice = choose_size(model, json.loads(asked))
    assert not choice.problems
    assert order_fields.size_fields(UpstreamOrder("generate", model, None, size=choice.used)) == json.loads(sent)


def test_a_model_that_is_gone_leads_on(taught: Catalog) -> None:
    assert taught.resolve("pixmill-mill-0").model.id == "pixmill-mill-1"


# ---------------------------------------------------------------- the upstream


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which someone has followed the page to the letter."""
    root = tmp_path_factory.mktemp("copy") / "darkroom"
    shutil.copytree(ROOT, root, ignore=left_behind)
    for said, text in blocks(FILE):
        write(root, said["path"], text)
    for package in PACKAGES:
        write(root, f"{package}/__init__.py", "")
    for said, text in blocks(PART):
        insert(root, said["path"], said["line"], text)
    _, least = next(blocks(ENTRY))
    append(root, MODELS, least)
    (root / "tests" / "integration" / "test_pixmill_job.py").write_text(A_JOB, encoding="utf-8")
    return root


def left_behind(_folder: str, names: list[str]) -> list[str]:
    made = {"var", "build", "__pycache__"}
    return [name for name in names if name in made or (name.startswith(".") and name not in {".env.example", ".ci"})]


def run(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([sys.executable, *argv], cwd=root, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    return ran


def test_the_example_is_written_as_the_rest(built: Path) -> None:
    written = [said["path"] for said, _ in blocks(FILE) if said["path"].endswith(".py")]
    run(built, "-m", "ruff", "check", "--no-cache", *written)
    run(built, "-m", "ruff", "format", "--check", "--no-cache", *written)


def test_the_example_lacks_nothing(built: Path) -> None:
    assert "pixmill" in check.names(built)
    run(built, "-m", "providers.check")


def test_the_example_passes_its_tests_and_runs_a_job(built: Path) -> None:
    told = run(built, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-k", CHOSEN, *SUITES).stdout
    assert "PASSED tests/integration/test_pixmill_job.py::test_a_job_of_two_pictures" in told
    assert len(re.findall(r"^PASSED tests/contract/conformance/.*pixmill", told, re.MULTILINE)) > 90
