"""How values are written wherever we write JSON for others: in answers and in callbacks."""

from __future__ import annotations

import json
from datetime import UTC, datetime

json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def rfc3339(moment: datetime | None) -> str | None:
    """UTC with milliseconds: 2026-11-20T12:00:00.000Z."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
