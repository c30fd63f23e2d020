"""What goes wrong with credits."""

from __future__ import annotations

from core.errors import ServiceError
from quota.prices import credits_text


class InsufficientCreditsError(ServiceError):
    """The balance, less what queued work will need, does not cover the price."""

    code = "insufficient_credits"

    def __init__(self, *, price_microcredits: int, spendable_microcredits: int) -> None:
        super().__init__(
            f"this order costs {credits_text(price_microcredits)} credits;"
            f" {credits_text(spendable_microcredits)} are free to spend",
            price_microcredits=price_microcredits,
            price=credits_text(price_microcredits),
            balance_microcredits=spendable_microcredits,
            balance=credits_text(spendable_microcredits),
        )


class LedgerMismatchError(RuntimeError):
    """Money should move that the books do not have: no balance row, or no hold of that amount.

    A caller cannot correct this: the transaction must not be committed, and ``darkroom audit`` says what is wrong.
    """
