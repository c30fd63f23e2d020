"""An upstream's own list of its models, in one shape for all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Protocol

from providers.catalog.entries import Model
from providers.http.client import HttpResponse, WireRequest

LIST_TOTAL_S = 60.0
MAX_LIST_BYTES = 32 * 1024 * 1024


class NotImportableError(ValueError):
    """A listed model cannot be an entry of the catalogue; the message says why."""


@dataclass(frozen=True, slots=True)
class ListedField:
    """One input of a model as the upstream describes it. ``kind`` is JSON Schema's type, of a list ``array``;
    ``of`` the type of its items. None: the upstream does not say."""

    kind: str | None = None
    of: str | None = None
    enum: tuple[Any, ...] = ()
    default: Any = None
    low: float | None = None
    high: float | None = None
    fewest: int | None = None
    most: int | None = None
    is_link: bool = False  # declared to be a URL


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model of an upstream's list, under the upstream's own name. ``fields`` is None where the list describes no
    input. ``price_usd`` is the price of a plain order, or what ``formula`` calls the base price. ``gone_on``: the day
    it ends, as the upstream writes it. ``kind`` is the upstream's word for what it is for."""

    name: str
    title: str = ""
    kind: str = ""
    price_usd: Decimal | None = None
    formula: str | None = None
    fields: Mapping[str, ListedField] | None = None
    required: frozenset[str] = frozenset()
    gone_on: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What an upstream says of its models, by its own names. ``whole``: everything that it offers is in ``models``, so
    that what we do not have is new; otherwise only the models that we offer were looked up. ``called`` is the
    upstream's name for a model of ours, by our id or by a path, where that is not the path itself."""

    models: Mapping[str, ListedModel]
    whole: bool = True
    called: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def name_of(self, model: Model, path: str) -> str:
        """What the upstream calls this model of ours at this path."""
        return self.called.get(model.id) or self.called.get(path) or path


class Asker(Protocol):
    """An account that free requests can be sent by (``UpstreamAccount``)."""

    credential_id: str

    def ask(self, request: WireRequest, *, total_s: float, max_bytes: int) -> HttpResponse:
        """The answer of any status. Raises: NotRun, Uncertain."""
        ...


class ModelList(Protocol):
    """What the ``model_list.py`` in a provider's folder offers."""

    def list_models(self, account: Asker, models: Collection[Model]) -> Listing:
        """The upstream's list; ``models`` are those that we offer there. Buys nothing.

        Raises: ProviderError where it cannot be asked or answers something else.
        """
        ...
