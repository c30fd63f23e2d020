"""Limits of what the orders of a day and of a month may cost, of a key and of its account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.db import Hot, Statement


@dataclass(frozen=True, slots=True)
class SpendingLimits:
    """Micro-credits; None: no limit. ``whose``: what the limits belong to, by its id."""

    whose: Literal["account", "key"]
    id: str
    day_microcredits: int | None
    month_microcredits: int | None


# Locked weakly enough for rows that refer to them to be inserted. The account first, in every submit.
LOCK_ACCOUNT = Statement("""
SELECT spend_day_limit, spend_month_limit FROM accounts
WHERE id = :id AND (spend_day_limit IS NOT NULL OR spend_month_limit IS NOT NULL) FOR NO KEY UPDATE
""")
LOCK_KEY = Statement("""
SELECT spend_day_limit, spend_month_limit FROM api_keys
WHERE id = :id AND (spend_day_limit IS NOT NULL OR spend_month_limit IS NOT NULL) FOR NO KEY UPDATE
""")


def lock(hot: Hot, account_id: str, key_id: str) -> list[SpendingLimits]:
    """The limits that an order has to keep, locked until the transaction ends: orders under one limit are admitted
    one after the other. Empty where there is none."""
    found: list[SpendingLimits] = []
    if row := hot.one_or_none(LOCK_ACCOUNT, {"id": account_id}):
        found.append(SpendingLimits("account", account_id, *row))
    if row := hot.one_or_none(LOCK_KEY, {"id": key_id}):
        found.append(SpendingLimits("key", key_id, *row))
    return found
