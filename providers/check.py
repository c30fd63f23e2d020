"""What the folder of a provider still lacks. Run by ``make check``: ``python -m providers.check``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).parents[1]
UPSTREAMS: Final = Path("providers", "upstreams")
EMULATORS: Final = Path("sandbox", "emulators")
SUBJECTS: Final = Path("tests", "contract", "conformance", "subjects.py")


def main() -> None:
    """Ends with 1, and a line on stderr for each thing that is missing."""
    lines = [f"{UPSTREAMS / name} lacks {thing}" for name in names(ROOT) for thing in lacking(ROOT, name)]
    if lines:
        raise SystemExit("\n".join(lines))


def names(root: Path) -> list[str]:
    """The providers that have a folder with anything in it, sorted."""
    folders = (each for each in (root / UPSTREAMS).iterdir() if each.is_dir() and each.name != "__pycache__")
    return sorted(folder.name for folder in folders if any(each.name != "__pycache__" for each in folder.iterdir()))


def lacking(root: Path, name: str) -> list[str]:
    """What is missing of one provider, as paths below ``root`` and words. One that says ``adapter: false`` needs no
    code, so no emulator and no subject either."""
    paths = [UPSTREAMS / name / "models.yaml", UPSTREAMS / name / "CONTRACT.md"]
    has_adapter = _has_adapter(root / paths[0])
    if has_adapter:
        paths += [UPSTREAMS / name / "__init__.py", UPSTREAMS / name / "adapter.py"]
        paths += [EMULATORS / name / "__init__.py", EMULATORS / name / "routes.py"]
    missing = [path.as_posix() for path in paths if not (root / path).is_file()]
    if has_adapter and name not in _subjects(root / SUBJECTS):
        missing.append(f'a Subject("{name}", ...) in {SUBJECTS.as_posix()}')
    return missing


def _has_adapter(models: Path) -> bool:
    if not models.is_file():
        return True
    found = yaml.safe_load(models.read_bytes())
    block = found.get("provider") if isinstance(found, dict) else None
    return not isinstance(block, dict) or block.get("adapter", True) is not False


def _subjects(path: Path) -> frozenset[str]:
    return frozenset(_called_subject(ast.parse(path.read_text(encoding="utf-8"))))


def _called_subject(tree: ast.AST) -> Iterator[str]:
    """The first argument of each ``Subject(...)``."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="Subject"), args=[ast.Constant(value=str(name)), *_]):
                yield name


if __name__ == "__main__":
    main()
