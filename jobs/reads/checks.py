"""Where the results of periodic checks stay, in the key-value table, for metrics and for people."""

from __future__ import annotations

from typing import Final, TypedDict

AUDIT_RESULT: Final = "audit_result"
CATALOG_RESULT: Final = "catalog_drift"


class LastAudit(TypedDict):
    """The last audit: how many findings each invariant has, zeros included. ``checked_at``: ISO 8601, UTC."""

    checked_at: str
    findings: dict[str, int]
