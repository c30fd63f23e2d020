"""The recipes of CONTRIBUTING.md: what is added in one place and forgotten in another is named here."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import click
import pytest
from flask import Flask

import app.api
from app.cli import COMMANDS
from app.shapes.schemas.orders import OrderBody
from core.settings import Settings
from core.version import VERSION
from jobs import lifecycle
from providers.configured import PROVIDERS
from sandbox.settings import Settings as SandboxSettings

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("app", "core", "jobs", "providers", "storage", "workers", "chaos", "sandbox")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """A section of a page, without the next one of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text_of(name), re.MULTILINE | re.DOTALL
    )
    assert found, f"{name} has no section {heading}"
    return found[1]


def first_cells(text: str) -> list[str]:
    """The first cell of every row of the tables in a text, without their heads."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", row)[1].strip() for row in rows]
    heads = {number - 1 for number, cell in enumerate(cells) if set(cell) == {"-"}}
    return [cell for number, cell in enumerate(cells) if number not in heads and set(cell) != {"-"}]


# ---------------------------------------------------------------- a setting


def listed_variables() -> set[str]:
    return set(re.findall(r"^([A-Z][A-Z0-9_]+)=", text_of(".env.example"), re.MULTILINE))


def test_every_setting_has_a_line_in_the_example() -> None:
    assert {str(field.alias) for field in Settings.model_fields.values()} - listed_variables() == set()


def read_from_the_environment() -> set[str]:
    """Every variable that code reads by name: os.environ, os.getenv, a click option, a constant that is such a name."""
    found: set[str] = set()
    for name in (*PRODUCT, "accounts", "quota", "webhooks", "migrations"):
        for path in (ROOT / name).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = {
                target.id: node.value.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                found |= {str(constants.get(each, each)) for each in read_by(node)}
    return {each for each in found if re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", each)}


def read_by(node: ast.AST) -> set[str]:
    """The names (or names of constants) of the variables that one expression reads from an environment."""
    match node:
        case ast.Call(func=ast.Attribute(attr="get", value=asked), args=[first, *_]) if is_environment(asked):
            return text_or_name(first)
        case ast.Subscript(value=asked, slice=first, ctx=ast.Load()) if is_environment(asked):
            return text_or_name(first)
        case ast.Call(func=ast.Name(id="value_of") | ast.Attribute(attr="getenv"), args=arguments):
            return text_or_name(arguments[-1])
        case ast.keyword(arg="envvar", value=first):
            return text_or_name(first)
    return set()


def is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in {"os.environ", "environ", "env", "self._environ"}


def text_or_name(node: ast.expr) -> set[str]:
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.Name(id=name):
            return {name}
    return set()


# Read, and not an operator's: where the tests stop a process.
NOT_AN_OPERATORS = {"DARKROOM_FAILPOINT"}
# Of compose alone: which services run, and which file of providers' variables they get; deploy/sandbox.env sets both.
OF_COMPOSE = {"COMPOSE_PROFILES", "DARKROOM_PROVIDERS_ENV"}


def test_every_variable_that_is_read_has_a_line_in_the_example() -> None:
    providers = {name for known in PROVIDERS.values() for name in known.names()}
    compose = set(re.findall(r"\$\{(\w+)", text_of("docker-compose.yml")))
    sandbox = {f"SANDBOX_{name.upper()}" for name in SandboxSettings.model_fields}
    read = read_from_the_environment() | sandbox
    assert {"DARKROOM_KEY", "DARKROOM_SERVER", "FLOWER_BASIC_AUTH", "OPENAI_API_KEY", "OPENAI_ORG_ID"} <= read
    assert (read | providers | compose) - NOT_AN_OPERATORS - OF_COMPOSE - listed_variables() == set()


def test_every_line_of_the_example_is_read_somewhere() -> None:
    files = [path for name in PRODUCT for suffix in ("*.py", "*.yaml") for path in (ROOT / name).rglob(suffix)]
    deployed = text_of("Procfile") + text_of("docker-compose.yml")
    read = deployed + "".join(path.read_text(encoding="utf-8") for path in files)
    # The limits of a provider are named after it by one rule, and so are nowhere written out.
    read += " ".join(f"SANDBOX_{name.upper()}" for name in SandboxSettings.model_fields)
    limits = {f"{name.upper()}_{limit}" for name in PROVIDERS for limit in ("MAX_ACTIVE", "MAX_PER_MINUTE")}
    assert {name for name in listed_variables() - limits if name not in read} == set()


# ---------------------------------------------------------------- a CLI option

COMMON = {"--json", "--quiet", "--server", "--key"}


def commands(name: str, command: click.Command) -> dict[str, set[str]]:
    """The long options of a command, or of each of a group's."""
    if isinstance(command, click.Group):
        parts = [commands(f"{name} {sub}", each) for sub, each in command.commands.items()]
        return {key: options for part in parts for key, options in part.items()}
    options = [each for each in command.params if isinstance(each, click.Option)]
    return {name: {word for option in options for word in option.opts if word.startswith("--")} - COMMON}


def all_commands() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, place in COMMANDS.items():
        module, attribute = place.target.split(":")
        found |= commands(name, getattr(importlib.import_module(module), attribute))
    return found


def told_commands() -> dict[str, set[str]]:
    """What the README's table says; one row may tell of several commands of a group together."""
    told: dict[str, set[str]] = {}
    table = section("README.md", "### By the command line")
    for names, options in re.findall(r"^\| (`.+?`) \| ?(.*?) ?\|$", table, re.MULTILINE):
        first, *others = re.findall(r"`([a-z ]+)`", names)
        group = first.partition(" ")[0]
        words = set(re.findall(r"`(--[a-z-]+)`", options))
        if "those of `generate`" in options:
            words |= told["generate"]
        for name in (first, *(f"{group} {other}" for other in others)):
            told[name] = words
    return told


def test_the_readme_lists_every_command_and_no_other() -> None:
    assert set(told_commands()) == set(all_commands())


def test_the_readme_lists_every_option_and_no_other() -> None:
    told, real = told_commands(), all_commands()
    groups = {name.partition(" ")[0] for name in real if " " in name}
    for group in groups:  # a row of a group tells the options of all its commands
        together = set().union(*(options for name, options in real.items() if name.startswith(f"{group} ")))
        real |= {name: together for name in real if name.startswith(f"{group} ")}
    assert told == real


# ---------------------------------------------------------------- a route

MODULES = [importlib.import_module(f"app.api.{each.name}") for each in pkgutil.iter_modules(app.api.__path__)]
WITH_ROUTES = [module for module in MODULES if hasattr(module, "bp")]


def served_routes() -> set[str]:
    application = Flask("routes", static_folder=None)
    for module in WITH_ROUTES:
        application.register_blueprint(module.bp)
    return {
        f"{method} {re.sub(r'<[a-z]+:', '<', rule.rule)}"
        for rule in application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


@pytest.mark.parametrize("module", WITH_ROUTES, ids=lambda module: module.__name__)
def test_a_module_with_routes_is_registered(module: object) -> None:
    imports = [node for node in ast.walk(ast.parse(text_of("app/factory.py"))) if isinstance(node, ast.ImportFrom)]
    taken = {alias.name for node in imports if node.module == "app.api" for alias in node.names}
    assert getattr(module, "__name__", "").rpartition(".")[2] in taken


def test_every_route_has_a_row_and_no_row_is_of_another() -> None:
    rows = section("docs/api-conventions.md", "## Routes")
    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", rows)) == served_routes()


# ---------------------------------------------------------------- a field of an order


def test_every_field_of_an_order_has_a_row_and_no_row_is_of_another() -> None:
    told = {
        name
        for cell in first_cells(section("docs/api-conventions.md", "## Submit"))
        for name in re.findall(r"`(\w+)`", cell)
    }
    named_in_text = {"lenient"}  # it is explained where it changes something
    assert told | named_in_text == set(OrderBody.model_fields)


# ---------------------------------------------------------------- a verb


def test_every_verb_has_a_row_in_the_life_of_a_job() -> None:
    verbs = {name for name in lifecycle.__all__ if name.islower()}
    told = set(re.findall(r"`(\w+)`", section("docs/architecture.md", "## 3. The life of a job")))
    assert verbs - told == set()


# ---------------------------------------------------------------- a decision

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def test_every_decision_has_its_row_and_a_number_of_its_own() -> None:
    rows = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+) \| (\S+) \|$", text_of("docs/decisions/README.md"), re.M)
    heads = [path.read_text(encoding="utf-8").split("\n", 3) for path in DECISIONS]
    written = [
        (path.name[:4], path.name, head[0].removeprefix(f"# {path.name[:4]}. "), head[2].removeprefix("Date: "))
        for path, head in zip(DECISIONS, heads, strict=True)
    ]
    assert rows == written
    assert [row[0] for row in rows] == [f"{number:04d}" for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_the_four_headings_in_their_order(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    order = ["Context", "Decision", "Rejected", "Consequences"]
    assert headings[:2] == order[:2]
    assert headings == [heading for heading in order if heading in headings]


# ---------------------------------------------------------------- a release


def test_the_package_takes_its_version_from_the_one_place() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "core.version.VERSION"}


def test_the_changelog_begins_with_the_present_version() -> None:
    newest = re.search(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert newest and newest[1] == VERSION
