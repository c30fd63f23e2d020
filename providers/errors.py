"""What went wrong at an upstream: the class of an error tells what to do next.

=====================  =======================================  =========================================
class                  the image                                what follows
=====================  =======================================  =========================================
``NotRun``             surely was not started                   retry, or the next model
``Failed``             will not come from this call             a new call if ``retryable``, or next model
``Refused``            will not be made for this request        give up, tell the caller
``Misconfigured``      cannot be made with this set-up          the next model, or give up: the operator's
``Uncertain``          may exist                                look it up; never send blindly
=====================  =======================================  =========================================

``Failed`` is the upstream's own word; ``billed``: it may have charged for the call.

``code`` is stable and public (docs/errors.md). ``detail`` is for the log: it may contain words of the
upstream, which the code that raises has redacted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from providers.reported_cost import ReportedCost

MAX_DETAIL_CHARS = 500


class ProviderError(Exception):
    """Base of every upstream fault. Never raised as itself."""

    def __init__(self, code: str, detail: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(code, detail[:MAX_DETAIL_CHARS])
        self.code = code
        self.detail = detail[:MAX_DETAIL_CHARS]
        self.retry_after_s = retry_after_s
        self.raw: Mapping[str, Any] | None = None  # as of providers.base.Finished

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


class NotRun(ProviderError):
    """No byte was sent, or the upstream answered before it began to work (connect failure, TLS failure, 429)."""


class Failed(ProviderError):
    """The upstream's own well-formed answer that this call made no image; ``cost`` if it names one."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retryable: bool,
        billed: bool = False,
        retry_after_s: float | None = None,
        cost: ReportedCost | None = None,
    ) -> None:
        super().__init__(code, detail, retry_after_s=retry_after_s)
        self.retryable = retryable
        self.billed = billed
        self.cost = cost


class Refused(ProviderError):
    """The same request would get the same answer again."""


class RequestRefused(Refused):
    """The order itself is not acceptable (field, size, input)."""


class ContentRefused(Refused):
    """Moderation refused ``stage``; ``charged`` says whether the upstream billed for it, ``cost`` how much."""

    def __init__(
        self,
        code: str = "content_refused",
        detail: str = "",
        *,
        stage: Literal["input", "output", "unknown"] = "unknown",
        charged: bool = False,
        cost: ReportedCost | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.stage = stage
        self.charged = charged
        self.cost = cost


class Misconfigured(ProviderError):
    """Only the operator can fix it."""


class BadCredentials(Misconfigured):
    """Key missing, wrong, disabled or without the right."""


class OutOfCredit(Misconfigured):
    """The operator's account at the upstream is empty."""


class UnknownModel(Misconfigured):
    """The upstream does not know the model the catalogue names."""


class Uncertain(ProviderError):
    """The request may have run: time-out, reset, garbage or empty 2xx, a proxy's 5xx."""


class Unidentifiable(Uncertain):
    """The upstream lists its calls without what would tell the lost one from others, so no later search finds it."""
