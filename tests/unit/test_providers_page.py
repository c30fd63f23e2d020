"""The tables of providers/README.md, held to the code: files, providers, codes of errors, shared helpers."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from core import outbound
from core.outbound.urls import UnsafeUrlError
from providers import errors
from providers.catalog import catalog
from providers.catalog.entries import ProviderSpec, Recovery

PACKAGE = Path(__file__).resolve().parents[2] / "providers"
PAGE = (PACKAGE / "README.md").read_text(encoding="utf-8")
UNSAFE = "UnsafeUrlError"
# Those that say what follows; a narrower class stands in the row of the one it derives from.
FOLLOWS = (errors.NotRun, errors.Failed, errors.Refused, errors.Misconfigured, errors.Uncertain)
A_CODE = re.compile(r"(upstream|result|url)_[a-z]+(_[a-z]+)*|mask_not_png|extra_not_allowed|content_refused")
# Words of the same form that are no codes: fields of the wire and of ours.
NO_CODES = {"upstream_id", "url_field"}
# In the table of helpers: a field of an order, one of an error, and the class that downloads otherwise.
SAID_BY_THE_WAY = {"extra", "detail", "UpstreamAccount"}


def table(head: str) -> list[list[str]]:
    """The rows below this head, as cells."""
    found = re.search(rf"^\| {re.escape(head)} \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, f"no table {head}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---------------------------------------------------------------- files and providers


def test_every_file_has_a_row_and_every_row_a_file() -> None:
    named = {name for files, _ in table("file | holds") for name in quoted(files)}
    rooms = {name for name in named if name.endswith("/")} - {"upstreams/<name>/"}
    assert all((PACKAGE / room).is_dir() for room in rooms)
    here = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.suffix in {".py", ".yaml"}}
    others = {
        name
        for name in here
        if not name.endswith("__init__.py") and not any(name.startswith(room) for room in (*rooms, "upstreams/"))
    }
    assert named - rooms - {"upstreams/<name>/"} == others


def test_every_provider_has_its_row() -> None:
    rows = table("provider | folder | kind | recovery | webhooks | text | variables that it needs")
    assert rows == [described(spec) for spec in catalog.load().providers.values()]


def described(spec: ProviderSpec) -> list[str]:
    groups = [[group] if isinstance(group, str) else list(group) for group in spec.env]
    needed = " ".join(" or ".join(f"`{name}`" for name in group) for group in groups)
    offers = ["yes" if offered else "" for offered in (spec.webhooks, spec.text)]
    return [spec.title, f"`{spec.name}`", spec.kind, spec.recovery.value, *offers, needed]


def test_every_provider_says_what_it_tells_of_its_prices() -> None:
    """By the vendor's name: WaveSpeed and Gemini are called by less than their titles."""
    told = " ".join(row[0] for row in table("upstream | what it tells | money"))
    titles = {spec.title.removesuffix(" AI").removeprefix("Google ") for spec in catalog.load().providers.values()}
    assert {title for title in titles if title not in told} == set()


# ---------------------------------------------------------------- codes


def test_every_code_stands_in_the_row_of_its_class() -> None:
    rows = {quoted(kind)[0]: set(quoted(codes)) for kind, codes in table("class | codes")}
    assert rows.keys() == {kind.__name__ for kind in FOLLOWS} | {UNSAFE}
    raised = list(codes_with_class())
    assert len(raised) > 60
    assert {(kind, code) for kind, code in raised if code not in rows[kind]} == set()


def test_the_rows_hold_every_code_and_no_other() -> None:
    listed = {code for _, codes in table("class | codes") for code in quoted(codes)}
    assert listed == {text for text in texts() if A_CODE.fullmatch(text)} - NO_CODES


def trees() -> Iterator[ast.AST]:
    for path in [*PACKAGE.rglob("*.py"), *Path(outbound.__path__[0]).rglob("*.py")]:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def texts() -> Iterator[str]:
    return (node.value for node in trees() if isinstance(node, ast.Constant) and isinstance(node.value, str))


def codes_with_class() -> Iterator[tuple[str, str]]:
    """(row, code) wherever a class of errors and a code stand together: in a call, or in a table."""
    for node in trees():
        match node:
            case ast.Call(func=ast.Name(id=kind), args=[ast.Constant(value=str(code)), *_]) if row_of(kind):
                yield row_of(kind), code
            case ast.Tuple(elts=[ast.Name(id=kind), ast.Constant(value=str(code))]) if row_of(kind):
                yield row_of(kind), code


def row_of(kind: str) -> str:
    """The row of an error class; empty for any other name."""
    found = UnsafeUrlError if kind == UNSAFE else getattr(errors, kind, None)
    if found is UnsafeUrlError:
        return UNSAFE
    return next((each.__name__ for each in FOLLOWS if isinstance(found, type) and issubclass(found, each)), "")


# ---------------------------------------------------------------- helpers


def test_every_shared_module_has_a_row_and_holds_what_it_says() -> None:
    rows = {quoted(path)[0]: quoted(words) for path, words in table("from | take")}
    shared = {f"shared/{path.name}" for path in (PACKAGE / "shared").glob("*.py")} - {"shared/__init__.py"}
    assert rows.keys() == shared | {"configured.py"}
    for path, words in rows.items():
        names = {name for word in words if (name := re.split(r"[(.]", word)[0]).isidentifier()}
        assert names - held_by(path) <= SAID_BY_THE_WAY, path


def held_by(path: str) -> set[str]:
    """The names of a module, and those of its classes and their instances."""
    module = importlib.import_module(f"providers.{path.removesuffix('.py').replace('/', '.')}")
    inside = {name for kind in vars(module).values() if isinstance(kind, type) for name in dir(kind)}
    return set(vars(module)) | inside | set(re.findall(r"self\.(\w+) =", inspect.getsource(module)))


def test_every_recovery_has_its_row() -> None:
    rows = [quoted(recovery)[0] for recovery, *_ in table("`recovery` | the upstream offers | what the jobs do")]
    assert rows == [each.value for each in Recovery]
