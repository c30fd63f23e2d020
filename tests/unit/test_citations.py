"""Every citation has a target: a document that exists here, and a section or title that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml"}
NUMBERS = r"\d{1,2}(?:\.\d+)*\b(?:(?:, | and | to | or )\d{1,2}(?:\.\d+)*\b)*"  # no HTTP status
# By its path from the root, as an upstream's CONTRACT.md, or by a link of a page.
PAPER = r"(?:(?<![\w/.:-])docs/[\w./-]+|(?:(?<![\w/.:-])[\w<>-][\w./<>-]*/)?\bCONTRACT|(?<=\]\()[\w./-]+)\.md"
# Papers that were never part of this repository, and the word for those that became a CONTRACT.md.
FOREIGN = re.compile(
    r"\b(?:DESIGN|RELIABILITY|CONVENTIONS)\b|(?<![\w-])(?:API|STYLE)\.md|\.\./shared|\b[Ss]heets?\b(?! of paper)"
)
NUMBERED = re.compile(rf"(?P<paper>{PAPER})(?:#[\w-]+)?[`)\]]*(?:,? \(?sections? | )(?P<numbers>{NUMBERS})")
TITLED = re.compile(rf'(?P<paper>{PAPER})(?:#[\w-]+)?[`)\]]*,? \(?"(?P<title>[^"\n]+)"')
NAMED = re.compile(PAPER)
BARE = re.compile(rf"\b[Ss]ections? (?P<numbers>{NUMBERS})")


def ours(path: Path) -> bool:
    """Not in a folder that is made or hidden; the workflows count."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == ".github":
        return True
    return not any(
        part in ("var", "build", "backup", "node_modules") or part.startswith((".", "__")) for part in parts[:-1]
    )


FILES = sorted(
    path
    for path in ROOT.rglob("*")
    if path.suffix in SUFFIXES and ours(path) and path.is_file() and path != Path(__file__).resolve()
)


def flowing(text: str) -> str:
    """A text with comments that go over several lines joined, so that a citation is in one piece."""
    return re.sub(r"[ \t]*\n[ \t]*(?:# ?|> )?", " ", text)


@cache
def numbers_of(paper: Path) -> frozenset[str]:
    """The numbers of a paper's headings and of the first cells of its tables."""
    text = paper.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (?:§ ?|[Ss]ection )?(\d+(?:\.\d+)*)\b", text, re.MULTILINE)
    return frozenset([*headings, *re.findall(r"^\| (\d+\.\d+) \|", text, re.MULTILINE)])


@cache
def titles_of(paper: Path) -> frozenset[str]:
    text = paper.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (?:\d+(?:\.\d+)*\.? )?(.+?)\s*$", text, re.MULTILINE)
    return frozenset([*headings, *re.findall(r"\*\*(.+?)\.?\*\*", text)])


UPSTREAMS = sorted(path.name for path in (ROOT / "providers" / "upstreams").iterdir() if path.is_dir())


def contract_near(path: Path) -> Path | None:
    """The CONTRACT.md that a file about one upstream means: an adapter, an emulator, or a test named after it."""
    parts = path.relative_to(ROOT).parts
    folder = parts[2] if parts[:2] in {("providers", "upstreams"), ("sandbox", "emulators")} and len(parts) > 3 else ""
    words = re.split(r"[._]", path.name)
    named = [name for name in UPSTREAMS if name == folder or (parts[0] == "tests" and name in words)]
    return ROOT / "providers" / "upstreams" / named[0] / "CONTRACT.md" if len(named) == 1 else None


def paper_of(name: str, path: Path) -> Path | None:
    """The file that a name stands for; None where it stands for one of every upstream."""
    if "<" in name or "pixmill" in name:  # the upstream that the worked example makes up
        return None
    if name == "CONTRACT.md":
        return contract_near(path)
    linked = (path.parent / name).resolve()  # as links of pages have it
    return linked if linked.exists() else ROOT / name


def dead(text: str, path: Path) -> Iterator[str]:
    """What the text of a file cites and no one can look up."""
    text = flowing(text)
    yield from (f"{match[0]}: not a document of this repository" for match in FOREIGN.finditer(text))
    named = set() if path.name == "CONTRACT.md" else set(NAMED.findall(text))  # a contract cites its vendor's pages
    yield from (
        f"{name}: there is no such file"
        for name in sorted(named)
        if (paper := paper_of(name, path)) is not None and not paper.exists()
    )
    for match in NUMBERED.finditer(text):
        paper = paper_of(match["paper"], path)
        if paper is None:
            yield f"{match[0]}: of which upstream"
        yield from missing_numbers(match[0], match["numbers"], paper)
    for match in TITLED.finditer(text):
        paper = paper_of(match["paper"], path)
        if paper is not None and paper.exists() and match["title"].rstrip(",.") not in titles_of(paper):
            yield f"{match[0]}: no such title"
    # What is left names no paper: a page means itself, and what is about one upstream means its contract.
    for match in BARE.finditer(NUMBERED.sub("", text)):
        own = path if path.suffix == ".md" else contract_near(path)
        if own is None:
            yield f"{match[0]}: of which document"
        else:
            yield from missing_numbers(match[0], match["numbers"], own)


def missing_numbers(said: str, numbers: str, paper: Path | None) -> Iterator[str]:
    if paper is None or not paper.exists():
        return
    for number in re.findall(r"\d+(?:\.\d+)*", numbers):
        if number not in numbers_of(paper):
            yield f"{said}: {paper.relative_to(ROOT)} has no {number}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_citation_has_a_target(path: Path) -> None:
    assert list(dead(path.read_text(encoding="utf-8"), path)) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# As DESIGN section 4 has it.", ["DESIGN: not a document", "section 4: of which document"]),
        ("# docs/nowhere.md tells.", ["docs/nowhere.md: there is no such file"]),
        ("# docs/architecture.md section 4,\n# docs/reliability.md 2.20 and 3.5.", []),
        ("# docs/architecture.md\n# section 44.", ["docs/architecture.md section 44: docs/architecture.md has no 44"]),
        ("# docs/reliability.md 2.99.", ["docs/reliability.md 2.99: docs/reliability.md has no 2.99"]),
        ("# docs/reliability.md section 3, 413 is an answer.", []),
        ("# CONTRACT.md section 3.", ["CONTRACT.md section 3: of which upstream"]),
        ('# docs/errors.md, "How often an upstream is called".', []),
        ('# docs/errors.md, "How often no one asks".', ['docs/errors.md, "How often no one asks": no such title']),
    ],
)
def test_a_citation_without_a_target_is_found(text: str, told: list[str]) -> None:
    found = list(dead(text, ROOT / "core" / "nothing.py"))  # no such file: only where it would be matters
    assert len(found) == len(told)
    assert all(each.startswith(start) for each, start in zip(found, told, strict=True)), found
