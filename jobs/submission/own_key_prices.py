"""Which models an account's orders call with its own keys, and what that costs: nothing but the operator's fee."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

from core.db import Database
from jobs.dispatch import own_keys
from jobs.dispatch.own_keys import OwnKeyPausedError

# How long a process without the secret goes without asking whether anyone has stored a key elsewhere.
FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Fee:
    """What an image by an own key costs: ``microcredits``, or ``share`` of the price by the operator's key."""

    microcredits: int = 0
    share: Decimal = Decimal(0)

    def of(self, unit_price_microcredits: int) -> int:
        """The price of one image, in micro-credits, rounded up."""
        part = (self.share * unit_price_microcredits).to_integral_value(ROUND_CEILING)
        return self.microcredits + int(part)


FREE = Fee()


def fee_of(text: str) -> Fee:
    """``2000`` micro-credits, or ``5%`` of the price, which the setting's pattern has checked."""
    text = text.strip()
    if text.endswith("%"):
        return Fee(share=Decimal(text[:-1]) / 100)
    return Fee(microcredits=int(text))


@dataclass
class OwnKeyPrices:
    """Knows whose keys are stored. ``always``: keys can be stored through this process, so it asks with each order.

    Any other process asks with each order too, once there is a key, and until then every ``FRESH_S`` seconds.
    """

    database: Database
    always: bool = False
    now: Callable[[], float] = time.monotonic
    _none_until: float = -1.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def providers_of(self, account_id: str) -> dict[str, tuple[bool, str | None]]:
        """Return the providers that the account has keys of, with whether and why each is paused.

        Raises DatabaseAwayError.
        """
        if not self.always and self.now() < self._none_until:
            return {}
        with self.database.hot() as hot:
            if not self.always and not own_keys.any_stored(hot):
                with self._lock:
                    self._none_until = self.now() + FRESH_S
                return {}
            return own_keys.providers_of(hot, account_id)


def check_usable(provider: str, known: Mapping[str, tuple[bool, str | None]]) -> None:
    """Raise OwnKeyPausedError for an order whose first model goes by a key that is paused."""
    paused, reason = known.get(provider, (False, None))
    if paused:
        raise OwnKeyPausedError(provider, reason)
