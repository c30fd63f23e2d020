"""What a chaos run checks: here that a prompt or a key in a log is found."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chaos import verdict
from chaos.orders import stream

CANARY = "canary-1-2"
TOKEN = "dk_abc_secret"


def found_in(var: Path, line: str) -> list[str]:
    (var / "run").mkdir(exist_ok=True)
    (var / "run" / "log").write_text(f"harmless\n{line}\n")
    target: Any = SimpleNamespace(var=var)
    return [each.promise for each in verdict._secrets(target, CANARY, [TOKEN])]


@pytest.mark.parametrize("gentle", [True, False])
def test_every_prompt_of_a_run_would_be_found_in_a_log(tmp_path: Path, gentle: bool) -> None:
    orders = stream(1, customers=2, canary=CANARY, gentle=gentle)
    for order in (next(orders) for _ in range(20)):
        assert found_in(tmp_path, f'worker | {{"prompt": "{order.prompt}"}}') == ["secret"]


def test_a_key_would_be_found_and_other_lines_are_no_secret(tmp_path: Path) -> None:
    assert found_in(tmp_path, f"web | Bearer {TOKEN}") == ["secret"]
    assert found_in(tmp_path, f"web | account {CANARY}-0") == []
