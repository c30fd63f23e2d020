"""The front desk: an order comes in raw, is checked, priced, verified and put in the queue.

The web process stands behind it; estimate and submit share every step up to the queue, so that
what was quoted is what is held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from core.db import Database
from jobs.repository import Task
from jobs.states import Nudge
from providers.catalog import Catalog, CheckedOrder, Model
from storage.media import Media

Role = Literal["image", "mask", "face"]


@dataclass(frozen=True, slots=True)
class Customer:
    """Whose order it is."""

    account_id: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that came with the order, not yet verified."""

    role: Role
    data: bytes = field(repr=False)
    name: str = ""  # the field it came in, for error messages: "images[0]"


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The caller's key, and a hash over method, route and body (parsed parts for multipart)."""

    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order would be and cost. Micro-credits."""

    model: Model
    operation: str
    checked: CheckedOrder
    unit_price: int
    total: int
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Submitted:
    task: Task
    nudges: Sequence[Nudge]  # publish these now: the commit has happened
    replayed: bool = False  # an earlier submit with the same Idempotency-Key answers


class Desk:
    def __init__(
        self,
        database: Database,
        media: Media,
        catalog: Catalog,
        *,
        configured: Collection[str],
        markup: Decimal,
        minimum_unit_price: int,
        default_model: str | None,
        default_deadline_s: int,
        publish_window: int,
    ) -> None: ...

    def quote(
        self,
        operation: str,
        fields: Mapping[str, Any],
        *,
        roles: Sequence[Role] = (),
    ) -> Quote:
        """Check and price an order without running it.

        ``fields`` are the native order fields as the caller sent them (API.md "Submit"), without the
        pictures; ``roles`` says which pictures come with it. Raises UnknownOperationError,
        InvalidOrderError naming every fault.
        """
        raise NotImplementedError

    def submit(
        self,
        customer: Customer,
        operation: str,
        fields: Mapping[str, Any],
        references: Sequence[Reference] = (),
        *,
        idempotency: IdempotencyKey | None = None,
        request_id: str = "",
    ) -> Submitted:
        """Accept an order: verified pictures, exact admission, a row, and the nudges to publish.

        Raises what :meth:`quote` raises, InsufficientCreditsError, IdempotencyMismatchError,
        storage.base.MediaError (with ``field`` in an InvalidOrderError where a picture is at fault),
        DatabaseAwayError. Nothing is kept and nothing is charged when it raises.
        """
        raise NotImplementedError
