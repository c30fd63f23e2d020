"""Writing an entry into an operator's catalogue file: the text around it, comments among it, stays as it is."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from providers.catalog.catalog import Catalog, build
from providers.catalog.files import PACKAGED
from providers.catalog.local import lay_over
from providers.catalog.reading import CatalogError, read

_INDENT: Final = 2
_WIDTH: Final = 110


class ModelExistsError(ValueError):
    """The file has an entry of this id already."""


def written(text: str, model_id: str, entry: Mapping[str, Any], *, replace: bool = False) -> str:
    """The file's text with the entry in it: behind the last model, or in the place of the one of this id.

    Raises: ModelExistsError without ``replace``; CatalogError where the text cannot be extended.
    """
    after = _placed(text, model_id, entry, replace=replace)
    before = yaml.safe_load(text) or {}
    if yaml.safe_load(after) != {**before, "models": {**(before.get("models") or {}), model_id: dict(entry)}}:
        raise CatalogError(Path("models"), ["models: is written in a way that cannot be added to by the command"])
    return after


def _placed(text: str, model_id: str, entry: Mapping[str, Any], *, replace: bool) -> str:
    models = _models_node(text)
    if models is None:
        return _ended(text) + ("\n" if text.strip() else "") + "models:\n" + _block(model_id, entry, _INDENT)
    key, value = models
    if isinstance(value, yaml.ScalarNode) or (isinstance(value, yaml.MappingNode) and not value.value):
        return _started(text, key, value, _block(model_id, entry, _INDENT))
    if not isinstance(value, yaml.MappingNode) or value.flow_style:
        raise CatalogError(Path("models"), ["models: is written in braces or is a list; write it as a block first"])
    known = next((pair for pair in value.value if pair[0].value == model_id), None)
    indent = int(value.value[0][0].start_mark.column)
    if known is None:
        return _behind(text, value.value[-1][1], _block(model_id, entry, indent))
    if not replace:
        raise ModelExistsError(model_id)
    lines = _ended(text).splitlines(keepends=True)
    first, after = int(known[0].start_mark.line), _line_after(text, known[1])
    return "".join([*lines[:first], _block(model_id, entry, indent), *lines[after:]])


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The right to change the file, for one process at a time; others wait. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def checked(path: Path, text: str) -> Catalog:
    """The packaged catalogue with this text as the operator's file. Raises: CatalogError naming every fault."""
    return build(lay_over(read(PACKAGED), path, text.encode()))


def put(path: Path, text: str) -> None:
    """Replace the file at once: who reads it sees the old text or the new one, never a part. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # a link stays a link
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)  # noqa: PTH101 - a name of mkstemp's
        os.replace(name, target)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def as_yaml(model_id: str, entry: Mapping[str, Any]) -> str:
    """The entry as it is written to the file, without indentation."""
    return _block(model_id, entry, 0)


def _models_node(text: str) -> tuple[yaml.ScalarNode, yaml.Node] | None:
    """The key and the value of ``models`` at the top. Raises: CatalogError for a text that is no YAML mapping."""
    try:
        root = yaml.compose(_ended(text), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise CatalogError(Path("catalog.local.yaml"), [f"not YAML: {error}"]) from error
    if root is None:
        return None
    if not isinstance(root, yaml.MappingNode):
        raise CatalogError(Path("catalog.local.yaml"), ["not a mapping at the top"])
    return next(((key, value) for key, value in root.value if key.value == "models"), None)


def _started(text: str, key: yaml.ScalarNode, value: yaml.Node, block: str) -> str:
    """The text with the first model, where ``models`` has none yet: ``models:`` or ``models: {}``."""
    lines = _ended(text).splitlines(keepends=True)
    place = int(key.start_mark.line)
    if value.end_mark.line == place:
        head = lines[place][: key.end_mark.column]
        comment = re.search(r"\s#.*$", lines[place])
        lines[place] = f"{head}:{comment.group(0).rstrip() if comment else ''}\n"
    return "".join([*lines[: place + 1], block, *lines[place + 1 :]])


def _behind(text: str, last: yaml.Node, block: str) -> str:
    lines = _ended(text).splitlines(keepends=True)
    place = _line_after(text, last)
    return "".join([*lines[:place], block, *lines[place:]])


def _line_after(text: str, node: yaml.Node) -> int:
    """The number of the line behind a node.

    A block ends where the next token begins, so comments and blank lines between are stepped back over: they belong to
    what follows.
    """
    lines = _ended(text).splitlines()
    is_block = isinstance(node, yaml.CollectionNode) and not node.flow_style
    shares_a_line = not is_block and node.end_mark.column > 0
    after = min(int(node.end_mark.line) + shares_a_line, len(lines))
    first = int(node.start_mark.line) + 1
    while after > first and (not lines[after - 1].strip() or lines[after - 1].lstrip().startswith("#")):
        after -= 1
    return after


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _block(model_id: str, entry: Mapping[str, Any], indent: int) -> str:
    dumped = yaml.safe_dump(
        {model_id: dict(entry)}, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=None
    )
    return "".join(f"{' ' * indent}{line}" if line.strip() else line for line in dumped.splitlines(keepends=True))
