"""How often callers may call: a key, an account, an address that has not signed in, and all of them together.

Requests count by account, because more keys are not more requests; a key may have a lower limit of its own next to
that. What the other limits refuse does not count against the installation's. Where a caller stands is told with every
answer (docs/api-conventions.md section 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import redis
from flask import Flask, Response, g

from accounts.keys import Caller
from app.http import limit_headers
from app.http.buckets import Buckets, Rate, Standing
from app.http.endpoint import Pace
from app.http.errors import answer
from app.http.limit_headers import Told
from app.serving.addresses import block_of
from core.errors import ServiceError
from jobs import counts
from jobs.submission.load import LoadLimitError

READS_PER_SUBMIT = 10
EVERYONE = "everyone"


class RateLimitedError(ServiceError):
    """At least one bucket is empty; ``standings``: the empty ones."""

    code = "rate_limited"

    def __init__(self, standings: Sequence[Standing]) -> None:
        self.standings = standings
        self.retry_after_s = max(each.reset_s for each in standings)
        last = max(standings, key=lambda each: each.reset_s).rate
        super().__init__(
            f"at most {last.amount} requests in {last.window_s} s; try again in {self.retry_after_s} s",
            **{"violated-policies": [each.rate.name for each in standings]},
        )


class RateLimits:
    """All limits of requests. ``total``: of the whole installation; None: no such limit."""

    def __init__(
        self,
        *,
        account: str,
        submit: str,
        enhance: str = "20/minute",
        wrong_keys: str = "30/minute",
        address: str = "600/minute",
        total: str | None = None,
        client: redis.Redis | None,
    ) -> None:
        """The limits are texts such as "600/minute". Raises ValueError for one that is none."""
        self._rates: Mapping[Pace, Rate] = {
            "account": Rate.parse("account", account),
            "submit": Rate.parse("submit", submit),
            "read": Rate.parse("read", submit, times=READS_PER_SUBMIT),
            "enhance": Rate.parse("enhance", enhance),
        }
        self._wrong_keys = Rate.parse("wrong-keys", wrong_keys)
        self._address = Rate.parse("address", address)
        self._total = None if total is None else Rate.parse("installation", total)
        self.buckets = Buckets(client)

    def of(self, caller: Caller) -> tuple[Rate, ...]:
        """The limits of this caller's requests, that of all other routes first."""
        own, key = caller.account_requests_per_minute, caller.key_requests_per_minute
        rates = tuple(self._rates.values()) if own is None else (_a_minute("account", own), self._rates["enhance"])
        return (*rates, *((_a_minute("key", key),) if key is not None else ()), *self._everyone)

    def charge(self, pace: Pace, caller: Caller, *, spared: bool = False) -> None:
        """Count a request against its key, its account and, unless it is ``spared``, the installation. Raises
        RateLimitedError."""
        own, key = caller.account_requests_per_minute, caller.key_requests_per_minute
        asked = [(self._rates[pace], caller.account_id)]
        if own is not None:
            # Its own limit is one of all its requests. Enhancing costs the operator, and stays limited.
            asked = [(_a_minute("account", own), caller.account_id), *(asked if pace == "enhance" else ())]
        if key is not None:
            asked.append((_a_minute("key", key), caller.key_id))
        if not spared:
            asked += [(rate, EVERYONE) for rate in self._everyone]
        self._take(asked)

    def charge_address(self, address: str) -> None:
        """Count a request of someone who has not signed in, or need not. Raises RateLimitedError."""
        self._take([(self._address, block_of(address)), *((rate, EVERYONE) for rate in self._everyone)])

    @property
    def _everyone(self) -> tuple[Rate, ...]:
        return () if self._total is None else (self._total,)

    def _take(self, asked: Sequence[tuple[Rate, str]]) -> None:
        standings = self.buckets.take_all(asked)
        g.standings = [_told(each) for each in standings]
        if empty := [each for each in standings if not each.allowed]:
            raise RateLimitedError(empty)

    def check_wrong_keys(self, address: str) -> None:
        """Raises RateLimitedError for an address that has sent too many wrong keys lately."""
        standing = self.buckets.standing(self._wrong_keys, block_of(address))
        if not standing.allowed:
            raise RateLimitedError([standing])

    def charge_wrong_key(self, address: str) -> None:
        """Count a wrong key against the address it came from."""
        self.buckets.take(self._wrong_keys, block_of(address))


@lru_cache(maxsize=1024)
def _a_minute(name: str, amount: int) -> Rate:
    return Rate(name, amount, 60)


def _told(standing: Standing) -> Told:
    rate = standing.rate
    return Told(rate.name, "requests", rate.amount, rate.window_s, standing.left, standing.reset_s)


def install(app: Flask) -> None:
    """Answer what exceeds a limit with Retry-After, and count it."""
    app.register_error_handler(RateLimitedError, _limited)
    app.register_error_handler(LoadLimitError, _load_limited)


def _limited(error: RateLimitedError) -> Response:
    if not limit_headers.told():
        g.standings = [_told(each) for each in error.standings]
    for each in error.standings:
        counts.LIMITED.of(each.rate.name).inc()
    return answer(error.code, error.detail, {"Retry-After": str(error.retry_after_s)}, **error.facts)


def _load_limited(error: LoadLimitError) -> Response:
    limit_headers.note([error.standing])
    return answer(error.code, error.detail, {"Retry-After": str(error.standing.reset_s)}, **error.facts)
