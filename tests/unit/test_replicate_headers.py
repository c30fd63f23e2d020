"""Prefer and Cancel-After as clients of Replicate write them."""

from __future__ import annotations

import pytest

from app.dialects.replicate.headers import Wait, read_cancel_after, read_prefer

AI = "ai/6.0.326 ai-sdk/provider-utils/4.0.51 runtime/node.js/v20.20.2"
ALONE = "ai-sdk/replicate/3.0.46 ai-sdk/provider-utils/5.0.45 runtime/node.js/24"


@pytest.mark.parametrize(
    ("prefer", "agent", "wait"),
    [
        ([], "", None),
        (["respond-async"], "", None),
        (["wait"], "replicate-python/1.0.7", Wait(60, "wait")),
        (["wait"], AI, Wait(None, "wait")),
        (["wait"], ALONE, Wait(None, "wait")),
        (["wait=5"], AI, Wait(5, "wait=5")),
        (["wait=600"], "", Wait(60, "wait=60")),
        (["wait=0"], "", None),
        (["wait=soon"], "", None),
        (["return=minimal, WAIT=7"], "", Wait(7, "wait=7")),
        (["return=minimal", "wait"], "", Wait(60, "wait")),
    ],
)
def test_prefer(prefer: list[str], agent: str, wait: Wait | None) -> None:
    assert read_prefer(prefer, agent) == wait


@pytest.mark.parametrize(
    ("text", "after_s"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h30m45s", 5445), ("30", 30), (" 2H ", 7200)]
)
def test_cancel_after(text: str, after_s: int) -> None:
    assert read_cancel_after(text) == (after_s, [])


@pytest.mark.parametrize("text", ["", "soon", "1.5h", "-5s", "4s", "999h", "5m1h", "1d"])
def test_a_bad_duration_is_a_fault(text: str) -> None:
    after_s, faults = read_cancel_after(text)
    assert after_s is None
    assert [fault.field for fault in faults] == ["Cancel-After"]


def test_no_header_is_no_deadline() -> None:
    assert read_cancel_after(None) == (None, [])
