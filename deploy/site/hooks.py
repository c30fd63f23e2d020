"""MkDocs hooks: pages that lie outside docs/, the API's pages, and links between all of them."""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from api_pages import openapi_document, pages  # noqa: E402 - found by the line above

# Where a file of the repository stands in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    "providers/README.md": "providers/index.md",
    "sandbox/README.md": "sandbox.md",
    "storage/README.md": "storage.md",
    **{
        str(path.relative_to(ROOT)): f"providers/{path.parent.name}.md"
        for path in sorted((ROOT / "providers" / "upstreams").glob("*/CONTRACT.md"))
    },
}
_SOURCES = {uri: source for source, uri in OUTSIDE.items()}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```\s*$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/ and the API's."""
    for source, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))
    document = openapi_document()
    files.append(File.generated(config, "api/openapi.json", content=json.dumps(document, indent=1)))
    for uri, content in pages(document).items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001 - MkDocs' names
    """Lead links to where their goals are in the site; what is no part of it (code) is named without a link."""
    source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = page.file.src_uri

    def led(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"https?://|mailto:|#", target):
            return found[0]
        name, _, anchor = target.partition("#")
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(source), name))
        uri = OUTSIDE.get(goal, goal.removeprefix("docs/"))
        if files.get_file_from_path(uri) is None:
            if not (ROOT / goal).exists():
                return found[0]  # dead: the build tells
            return text if text.startswith("`") else f"{text} (`{goal}`)"
        moved = posixpath.relpath(uri, posixpath.dirname(here) or ".")
        return f"[{text}]({moved}{'#' + anchor if anchor else ''})"

    if source.startswith("docs/api/"):
        return markdown
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(led, part) for part in parts)
