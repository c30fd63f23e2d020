"""What ``make check`` says of a provider that is not complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers import check

COMPLETE = {
    "providers/upstreams/pixmill/__init__.py": "",
    "providers/upstreams/pixmill/adapter.py": "",
    "providers/upstreams/pixmill/models.yaml": "provider: {title: Pixmill}",
    "providers/upstreams/pixmill/CONTRACT.md": "",
    "sandbox/emulators/pixmill/__init__.py": "",
    "sandbox/emulators/pixmill/routes.py": "",
    check.SUBJECTS.as_posix(): 'SUBJECTS = (Subject("pixmill", plain="pixmill-mill-1"),)',
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in COMPLETE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_every_provider_here_is_complete() -> None:
    assert len(check.names(check.ROOT)) >= 10
    assert {name: check.lacking(check.ROOT, name) for name in check.names(check.ROOT)} == {
        name: [] for name in check.names(check.ROOT)
    }


def test_a_complete_provider_lacks_nothing(root: Path) -> None:
    assert check.names(root) == ["pixmill"]
    assert check.lacking(root, "pixmill") == []


@pytest.mark.parametrize("path", [name for name in COMPLETE if not name.startswith("tests")])
def test_a_missing_file_is_named(root: Path, path: str) -> None:
    (root / path).unlink()
    assert check.lacking(root, "pixmill") == [path]


def test_a_missing_subject_is_named(root: Path) -> None:
    (root / check.SUBJECTS).write_text('SUBJECTS = (Subject("openai"),)  # Subject("pixmill")', encoding="utf-8")
    assert check.lacking(root, "pixmill") == ['a Subject("pixmill", ...) in tests/contract/conformance/subjects.py']


def test_a_provider_without_an_adapter_needs_no_code(root: Path) -> None:
    models = root / "providers/upstreams/pixmill/models.yaml"
    models.write_text("provider: {adapter: false}", encoding="utf-8")
    for path in COMPLETE:
        if path.endswith(".py"):
            (root / path).write_text("", encoding="utf-8") if path.startswith("tests") else (root / path).unlink()
    assert check.lacking(root, "pixmill") == []


def test_what_a_branch_left_behind_is_no_provider(root: Path) -> None:
    (root / "providers/upstreams/gone/__pycache__").mkdir(parents=True)
    assert check.names(root) == ["pixmill"]


def test_the_check_ends_with_a_line_for_each_missing_thing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ROOT", root)
    check.main()
    (root / "providers/upstreams/pixmill/CONTRACT.md").unlink()
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == ("providers/upstreams/pixmill lacks providers/upstreams/pixmill/CONTRACT.md")
