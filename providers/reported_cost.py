"""What an upstream says about the price of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReportedCost:
    """What an upstream reports of the price of one whole call, however many images it made.

    ``microusd``: whole millionths of a US dollar, rounded up, where the answer names money or its counts have a
    known price; else None. ``usage``: the counts as the upstream names them (tokens, seconds, credits), ready
    for JSON. :mod:`providers.shared.usage` makes both from a checked answer.
    """

    microusd: int | None
    usage: Mapping[str, Any] = field(default_factory=dict)
