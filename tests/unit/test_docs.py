"""What the pages for people say, held to the code: codes, targets, variables, commands, links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import AliasChoices

from app.cli import COMMANDS
from app.http.errors import CODES
from core.settings import Settings, may_be_a_file
from jobs.failures import SENTENCES
from providers.configured import PROVIDERS, Variables

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "jobs", "providers", "storage", "quota", "accounts")


def ours(path: Path) -> bool:
    """Not in a folder that is made, hidden or ignored."""
    parts = path.relative_to(ROOT).parts
    return not any(part in ("var", "build", "node_modules") or part.startswith((".", "_")) for part in parts)


PAGES = sorted(path for path in ROOT.rglob("*.md") if ours(path))
FOR_PEOPLE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """The cells of every row of a section's table in docs/errors.md, without its head."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text_of("docs/errors.md"), re.MULTILINE | re.DOTALL)
    assert found, f"docs/errors.md has no section {section}"
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def codes_in(section: str) -> list[str]:
    return [code for cells in rows(section) for code in re.findall(r"`([a-z_]+)`", cells[0])]


def code_spans(text: str) -> str:
    """What stands in code: fenced and indented blocks, and spans."""
    fenced = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}.*$", text, re.MULTILINE)
    return "\n".join([*fenced, *indented, *re.findall(r"`[^`\n]+`", text)])


def words_in_code() -> set[str]:
    """Every text literal of the product that could be a code."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and re.fullmatch(r"[a-z_]+", value)}


def faults_told() -> Iterator[str]:
    """The code of every field fault that the product writes out."""
    tellers = {"FieldFault", "Problem", "fault", "_fault", "_bad"}
    for name in PACKAGES:
        for path in (ROOT / name).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and len(node.args) >= 2):
                    continue
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                code = node.args[1]
                if called in tellers and isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value


# ---------------------------------------------------------------- docs/errors.md


def test_every_code_of_an_answer_has_exactly_one_row_with_its_status() -> None:
    told = {cells[0].strip("`"): cells[1] for cells in rows("Answers")}
    assert told == {code: str(kind.status) for code, kind in CODES.items()}
    assert len(rows("Answers")) == len(CODES)


def test_every_failure_with_a_sentence_has_a_row_and_no_row_tells_of_another() -> None:
    told = codes_in("Failed jobs")
    assert len(told) == len(set(told))
    assert set(SENTENCES) <= set(told)
    assert set(told) <= set(SENTENCES) | words_in_code()


def test_every_field_fault_has_a_row_and_no_row_tells_of_another() -> None:
    told = codes_in("Fields")
    assert len(told) == len(set(told))
    assert set(faults_told()) <= set(told)
    assert set(told) <= words_in_code()


def test_every_outcome_of_a_cancel_has_a_row() -> None:
    assert set(codes_in("Cancelled jobs")) == {"freed_in_queue", "stopped_upstream", "too_late", "upstream_uncertain"}


# ---------------------------------------------------------------- README and the rest


def test_the_readme_has_a_row_for_every_folder() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and ours(path) and not path.suffix}
    told = set(re.findall(r"^\| `([a-z]+)/` \|", text_of("README.md"), re.MULTILINE))
    assert told == folders


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", code_spans(page.read_text(encoding="utf-8"))))
    assert named <= targets


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    named = set(
        re.findall(
            r"(?<![\w/.-])(?:\.venv/bin/)?darkroom ([a-z]+)(?![\w.])", code_spans(page.read_text(encoding="utf-8"))
        )
    )
    assert named <= set(COMMANDS)


# A capability of Linux, a constant of workers/flower, what fal's clients call the states of their queue,
# and what they read of the environment.
NOT_VARIABLES = {"CAP_DAC_READ_SEARCH", "LIVES_ON"} | {
    *("IN_QUEUE", "IN_PROGRESS", "CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"),
    # Of chat applications that draw by OpenAI's API, and of its SDKs.
    *("IMAGE_GEN_OAI_BASEURL", "IMAGE_GEN_OAI_API_KEY", "IMAGE_GEN_OAI_MODEL"),
    *("IMAGES_OPENAI_API_BASE_URL", "IMAGES_OPENAI_API_KEY", "OPENAI_BASE_URL"),
    *("FAL_KEY", "FAL_RUN_HOST", "FAL_QUEUE_RUN_HOST", "SSL_CERT_FILE"),  # of fal's Python client
}


def known_variables() -> set[str]:
    listed = set(re.findall(r"^([A-Z][A-Z0-9_]+)=", text_of(".env.example"), re.MULTILINE))
    deployed = set(re.findall(r"[A-Z][A-Z0-9_]+", text_of("docker-compose.yml") + text_of("Procfile")))
    commands = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "app" / "cli").rglob("*.py"))
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    earlier_names = {str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices}
    files = {f"{name}_FILE" for name in listed if may_be_a_file(name)}
    options = {
        name for told in re.findall(r"envvar=(\[.*?\]|\".*?\")", commands) for name in re.findall("[A-Z_]+", told)
    }
    return listed | files | deployed | earlier_names | options


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_variables_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", page.read_text(encoding="utf-8")))
    assert named <= known_variables() | NOT_VARIABLES


@pytest.mark.parametrize("provider", [name for name, each in PROVIDERS.items() if each.has_adapter])
def test_a_providers_variables_are_explained(provider: str) -> None:
    variables: Variables = PROVIDERS[provider]
    listed = set(re.findall(r"^([A-Z][A-Z0-9_]+)=", text_of(".env.example"), re.MULTILINE))
    assert set(variables.names()) - listed == set(), "no line in .env.example"
    table = text_of("README.md").partition("| provider | set in `.env` |")[2].partition("\n\n")[0]
    assert [group for group in variables.needed if not any(f"`{name}`" in table for name in group)] == [], "no row"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("https://")]
    dead = [target for target in targets if not leads(page, target)]
    assert dead == []


def leads(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    goal = (page.parent / name).resolve() if name else page
    if not goal.is_relative_to(ROOT) or not goal.exists():
        return False
    return not anchor or anchor in anchors(goal)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_one_machine_or_where_packages_come_from(page: Path) -> None:
    private = r"(?<![\w.$}])/(?:home|root|work|opt|tmp|Users|mnt)/|pypi|pythonhosted|index-url|registry\.[\w-]+\."
    assert re.findall(private, page.read_text(encoding="utf-8")) == []


def paths_in(page: Path) -> set[str]:
    """Every Python file that a page names, by its path or as a test."""
    return set(
        re.findall(r"(?<![\w/<.-])((?:[a-z_]+/)+[a-z0-9_]+\.py|test_[a-z0-9_]+\.py)", page.read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_code_that_a_page_names_exist(page: Path) -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    gone = {name for name in paths_in(page) if not (ROOT / name).exists() and name not in tests}
    assert gone == set()


def test_the_demo_prints_what_the_readme_shows() -> None:
    shown = text_of("README.md").partition("What `make demo` prints:")[2].partition("## Run it")[0]
    told = [line.strip() for line in re.findall(r"^ +\d:\d\d  (.+)$", shown, re.MULTILINE)]
    program = text_of("app/cli/service/demo.py")
    assert len(told) > 10
    # What comes before the first value of a line is text of the program.
    fixed = [re.split(r"[(\"\d]|http|job_|hold|capture|succeeded", line)[0].strip() for line in told]
    assert [text for text in fixed if text not in program] == []


def test_the_layout_shows_every_room() -> None:
    """The tree in docs/architecture.md section 2 against the folders: none missing, none invented."""
    [tree] = re.findall(r"^## 2\. Layout\n\n((?:    .*\n)+)", text_of("docs/architecture.md"), re.MULTILINE)
    drawn: dict[str, set[str]] = {}
    top = ""
    for line in tree.splitlines():
        name = re.match(r" {4}( {2})?((?:\w+/(?:<name>/)? ?)+)", line)
        assert name, line
        if name[1]:
            drawn[top] |= {each.split("/")[0] for each in name[2].split()}
        else:
            top = name[2].split("/")[0]
            drawn[top] = set()
            drawn |= {each.rstrip("/"): set() for each in re.findall(r"(?<=  )\w+/(?=  |$)", line)}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and ours(path)}
    assert drawn.keys() == folders - {"build"}
    for top in ("app", "jobs", "providers"):
        rooms = {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}
        assert drawn[top] == rooms - {"web"}, top
