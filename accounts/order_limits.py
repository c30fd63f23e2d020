"""Limits of orders, of a key and of its account: what those of a day and of a month may cost, how many jobs may be in
flight, and how many images may be ordered in a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from core.db import Hot, Statement


@dataclass(frozen=True, slots=True)
class OrderLimits:
    """Money in micro-credits; None: no limit. ``whose``: what the limits belong to, by its id."""

    whose: Literal["account", "key"]
    id: str
    day_microcredits: int | None
    month_microcredits: int | None
    in_flight: int | None = None
    images_per_minute: int | None = None

    @property
    def of_spending(self) -> bool:
        """Whether one of them is about money."""
        return self.day_microcredits is not None or self.month_microcredits is not None


_COLUMNS = "spend_day_limit, spend_month_limit, max_in_flight, images_per_minute"
# Whether there is a limit that an order has to keep, of a row called ``{0}``.
LIMITED = "coalesce({0}.spend_day_limit, {0}.spend_month_limit, {0}.max_in_flight, {0}.images_per_minute) IS NOT NULL"


def _of(table: str, *, lock: bool) -> Statement:
    # Locked weakly enough for rows that refer to them to be inserted.
    return Statement(
        f"SELECT {_COLUMNS} FROM {table} AS t WHERE id = :id AND {LIMITED.format('t')}"
        f"{' FOR NO KEY UPDATE' if lock else ''}"
    )


LOCK_ACCOUNT, LOCK_KEY = _of("accounts", lock=True), _of("api_keys", lock=True)
READ_ACCOUNT, READ_KEY = _of("accounts", lock=False), _of("api_keys", lock=False)


def lock(hot: Hot, account_id: str, key_id: str) -> Sequence[OrderLimits]:
    """The limits that an order has to keep, locked until the transaction ends: orders under one limit are admitted
    one after the other. The account first, in every submit. Empty where there is none."""
    return _found(hot, LOCK_ACCOUNT, LOCK_KEY, account_id, key_id)


def read(connection: Hot | Connection, account_id: str, key_id: str) -> Sequence[OrderLimits]:
    """The same without a lock, for a look ahead, and for those who ask what holds for them."""
    return _found(Hot.of(connection), READ_ACCOUNT, READ_KEY, account_id, key_id)


def _found(hot: Hot, of_account: Statement, of_key: Statement, account_id: str, key_id: str) -> Sequence[OrderLimits]:
    found: list[OrderLimits] = []
    if row := hot.one_or_none(of_account, {"id": account_id}):
        found.append(OrderLimits("account", account_id, *row))
    if row := hot.one_or_none(of_key, {"id": key_id}):
        found.append(OrderLimits("key", key_id, *row))
    return found
