"""Tokens as OpenAI's answers count them, made of what the upstreams reported and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Counts = Mapping[str, Any]


def usage_of(reports: Sequence[Counts | None]) -> dict[str, Any] | None:
    """The sum over all calls; None unless each of them was counted in tokens. Details that a call lacks are None."""
    each = [_tokens(report) for report in reports]
    known = [tokens for tokens in each if tokens is not None]
    return _sum(known) if known and len(known) == len(each) else None


def _tokens(report: Counts | None) -> dict[str, Any] | None:
    if report is None:
        return None
    if "promptTokenCount" in report:
        return _of_gemini(report)
    given, made = _count(report, "input_tokens"), _count(report, "output_tokens")
    if given is None or made is None:
        return None
    total = _count(report, "total_tokens")
    return {
        "input_tokens": given,
        "input_tokens_details": _details(report.get("input_tokens_details")),
        "output_tokens": made,
        "output_tokens_details": _details(report.get("output_tokens_details")),
        "total_tokens": given + made if total is None else total,
    }


def _of_gemini(report: Counts) -> dict[str, Any] | None:
    """Gemini's own names; what it thought is output, and is billed as such."""
    given, drawn, thought, total = (
        _count(report, name)
        for name in ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    )
    if given is None or drawn is None:
        return None
    made = drawn + (thought or 0)
    return {
        "input_tokens": given,
        "input_tokens_details": _by_modality(report.get("promptTokensDetails")),
        "output_tokens": made,
        "output_tokens_details": None,
        "total_tokens": given + made if total is None else total,
    }


def _by_modality(listed: Any) -> dict[str, int] | None:
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        return None
    found = {str(each.get("modality", "")).lower(): _count(each, "tokenCount") or 0 for each in listed}
    return {"image_tokens": found.get("image", 0), "text_tokens": found.get("text", 0)}


def _details(told: Any) -> dict[str, int] | None:
    if not isinstance(told, dict):
        return None
    image, words = _count(told, "image_tokens"), _count(told, "text_tokens")
    return None if image is None and words is None else {"image_tokens": image or 0, "text_tokens": words or 0}


def _count(report: Counts, name: str) -> int | None:
    found = report.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _sum(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: _total([tokens[name] for tokens in each]) for name in each[0]}


def _total(values: Sequence[Any]) -> Any:
    """The sum of counts, or of each count of details; None where one is not known."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], dict):
        return {name: sum(value[name] for value in values) for name in values[0]}
    return sum(values)
