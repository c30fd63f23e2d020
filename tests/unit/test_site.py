"""The documentation site: what there is to read is in it, and nothing is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    else:
        for each in part.values() if isinstance(part, dict) else part:
            yield from pages(each)


def test_every_page_and_every_upstreams_contract_has_its_place() -> None:
    named = set(pages(SITE["nav"]))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named
    upstreams = {path.parent.name for path in (ROOT / "providers" / "upstreams").glob("*/CONTRACT.md")}
    assert {f"providers/{name}.md" for name in upstreams} <= named


def test_a_dead_link_fails_the_build_and_the_build_is_part_of_the_checks() -> None:
    assert set(SITE["validation"]["links"].values()) == {"warn"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [command] = [line for line in makefile.splitlines() if line.startswith("SITE =")]
    assert "--strict" in command
    assert "--quiet" not in command  # it would switch --strict off
    assert makefile.count("\t@$(SITE)\n") == 2


def test_no_font_and_no_script_comes_from_another_host() -> None:
    assert SITE["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(SITE)
