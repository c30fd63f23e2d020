"""The tables of the sandbox's README say what the code does."""

import json
import re
from pathlib import Path

import sandbox
from sandbox.control import bp
from sandbox.emulators import all_emulators
from sandbox.markers import ANSWER_FAULTS, CHAT_FAULTS, OUTCOME_FAULTS, PLACES, Fault
from sandbox.settings import Settings
from sandbox.wsgi import create_app

README = (Path(sandbox.__file__).parent / "README.md").read_text(encoding="utf-8")


def tables(first: str) -> list[list[str]]:
    """The rows of all tables with this first heading."""
    rest, rows = README, []
    while f"| {first} |" in rest:
        rest = rest[rest.index(f"| {first} |") :]
        block = rest.split("\n\n")[0]
        rows += [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:]]
        rest = rest[len(block) :]
    return rows


def named(cell: str) -> list[str]:
    """The names in backticks of a cell, without values and options."""
    return [re.split(r"[= ]", name)[0] for name in re.findall(r"`([^`]+)`", cell)]


def test_every_emulator_is_listed_with_its_prefix():
    shown = {named(name)[0]: url for name, url, _ in tables("emulator")}
    assert sorted(shown) == sorted(emulator.name for emulator in all_emulators())
    for emulator in all_emulators():
        assert f"HOST:PORT{emulator.prefix}" in shown[emulator.name]


def test_every_setting_is_listed_with_its_default():
    shown = {named(name)[0]: default for name, default, _ in tables("name")}
    defaults = Settings().model_dump()
    assert list(shown) == list(defaults)
    assert {name: json.loads(default) for name, default in shown.items()} == defaults


def test_every_fault_is_listed_and_said_to_accept_or_not():
    rows = tables("fault")
    shown = {name: "*" in cells[0] for cells in rows for name in named(cells[0])}
    statuses = {"400", "599"}
    texts = named(re.search(r"\*\*Text streams\*\*:(.*)", README)[1])
    assert set(shown) - statuses | set(texts) == ANSWER_FAULTS | OUTCOME_FAULTS | CHAT_FAULTS
    for name in ANSWER_FAULTS:
        assert shown[name] == Fault(name).accepts, name


def test_every_place_is_listed():
    said = README[README.index("or where `at=` says:") :].split(". ")[0]
    assert tuple(named(said)[1:]) == PLACES


def test_every_control_route_is_listed():
    app = create_app(Settings())
    routes = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith(f"{bp.name}.")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    shown = set()
    for cells in tables("call"):
        call = cells[0].replace("`", "")
        path = re.sub(r"\?.*", "", call.split(" ")[-1])
        for method in re.findall(r"GET|POST|PUT|DELETE", call):
            shown |= {(method, path.replace("[/id]", ""))}
            shown |= {(method, path.replace("[/id]", "/<int:number>"))} if method == "DELETE" else set()
    assert shown == routes
