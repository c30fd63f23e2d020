"""What is wrong with an order: every fault, by field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. ``code`` is stable: required, too_long, out_of_range, not_allowed, not_supported,
    wrong_type, too_many, too_few, conflict. ``message`` is a sentence for the caller.
    """

    field: str
    code: str
    message: str


class OrderProblems(ValueError):  # noqa: N818 (a list of problems)
    """An order that the model cannot do; ``problems`` names every fault."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{each.field}: {each.message}" for each in problems))
        self.problems = list(problems)
