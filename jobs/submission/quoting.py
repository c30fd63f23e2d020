"""What an order would be and cost: its model, the models behind it, the checked request, the price.

Estimates and submits share this, so that what was quoted is what is held.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from types import MappingProxyType
from typing import Any

from jobs.documents import SelectionRule, StoredSelection
from jobs.errors import FieldFault, InvalidOrderError, ModelNotAllowedError, UnknownOperationError
from jobs.reads.tasks import UNSTORABLE
from jobs.submission import fallbacks, selection
from jobs.submission.fallbacks import Fallback
from jobs.submission.order import JOB_FIELDS, Order
from jobs.submission.own_key_prices import FREE, Fee
from jobs.submission.selection import AUTO, Default, Selection
from providers.catalog.catalog import OPERATIONS, Catalog, CatalogSource, Model, UnknownModelError
from providers.catalog.entries import spoken
from providers.catalog.ranking import ranked
from providers.orders.costs import cost_usd
from providers.orders.near import MAX_NAME_CHARS, did_you_mean
from providers.orders.rules import MAX_STRAYS_NAMED, CheckedOrder, all_fields_of
from quota.prices import unit_price_microcredits

Allowed = Callable[[Model], bool]


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order would be and cost.

    ``unit_price_microcredits`` is the price of one image by ``model``; ``total_microcredits`` is what is held: n times
    the dearest of the models that may run. ``chosen`` says why this model, where the order did not name it;
    ``price_version`` names the catalogue. ``own_key``: ``model`` is called with the account's own key, and the price is
    the fee for that. ``cached_unit_price_microcredits``: the price of one image where an earlier equal order answers;
    None: none does.
    """

    model: Model
    operation: str
    checked: CheckedOrder
    unit_price_microcredits: int
    total_microcredits: int
    warnings: Sequence[str]
    fallbacks: Sequence[Fallback] = ()
    chosen: StoredSelection | None = None
    price_version: str = ""
    cached_unit_price_microcredits: int | None = None
    own_key: bool = False


class Quoting:
    """Quotes orders. ``configured`` are the providers that can run something, ``chains`` the operator's fallbacks.

    ``own_key_fee``: the price of an image that is made with the account's own key.
    """

    def __init__(
        self,
        catalogs: CatalogSource,
        *,
        configured: Collection[str],
        markup: Decimal,
        minimum_unit_price_microcredits: int,
        default_model: str | None,
        chains: Mapping[str, Sequence[str]] = MappingProxyType({}),
        own_key_fee: Fee = FREE,
    ) -> None:
        self._catalogs = catalogs
        self._configured = frozenset(configured)
        self._markup = markup
        self._minimum_unit_price_microcredits = minimum_unit_price_microcredits
        self._default_model = default_model
        self._chains = chains
        self._own_key_fee = own_key_fee

    def quote(self, order: Order, *, allowed: Allowed | None = None, own: Collection[str] = ()) -> Quote:
        """Check and price an order without running it; ``allowed`` says which models its caller may use, None: all.

        ``own``: the providers that are called with the account's own keys, whose models cost the fee. An order that
        leaves the model open gets one that is allowed. Raises UnknownOperationError, InvalidOrderError naming every
        fault, ModelNotAllowedError.
        """
        self.refuse_faults(order)
        if order.operation not in OPERATIONS:
            raise UnknownOperationError(f"there is no operation {order.operation[:50]!r}")
        _check_storable(order.fields)
        catalog = self._catalogs.current()
        names = fallbacks.names_in(order.fields)
        try:
            selected = self._select(catalog, order, order.fields.get("model"), allowed)
        except InvalidOrderError as error:
            raise InvalidOrderError([*error.faults, *self._unusable(catalog, names)]) from None
        by_own_key = selected.model.provider in own
        unit_price = self._price(selected.model, selected.checked, own_key=by_own_key)
        others = self._fallbacks(catalog, selected.model, order, names, allowed, own=own)
        if allowed:
            refused = [model.id for model in (selected.model, *(each.model for each in others)) if not allowed(model)]
            if refused:
                raise ModelNotAllowedError(refused)
        return Quote(
            model=selected.model,
            operation=order.operation,
            checked=selected.checked,
            unit_price_microcredits=unit_price,
            total_microcredits=_dearest(unit_price, others) * selected.checked.n,
            warnings=[*selected.warnings, *selected.checked.warnings],
            fallbacks=others,
            chosen=selected.stored(),
            price_version=catalog.version,
            own_key=by_own_key,
        )

    def with_inputs(self, quote: Quote, input_px: Sequence[tuple[int, int]]) -> Quote:
        """The same quote once the sizes of the input images are known, in pixels: some models are billed by them."""
        if not input_px:
            return quote
        checked, unit_price = self._repriced(quote, input_px)
        others = [Fallback(each.model, *self._repriced(each, input_px), each.own_key) for each in quote.fallbacks]
        return replace(
            quote,
            checked=checked,
            unit_price_microcredits=unit_price,
            total_microcredits=_dearest(unit_price, others) * checked.n,
            fallbacks=others,
        )

    def _repriced(self, one: Quote | Fallback, input_px: Sequence[tuple[int, int]]) -> tuple[CheckedOrder, int]:
        known = replace(one.checked, input_px=tuple(input_px))
        return known, self._price(one.model, known, own_key=one.own_key)

    def _price(self, model: Model, checked: CheckedOrder, *, own_key: bool) -> int:
        price = self.unit_price_microcredits(model, cost_usd(model, checked))
        return self._own_key_fee.of(price) if own_key else price

    def refuse_faults(self, order: Order) -> None:
        """Raises InvalidOrderError for an order whose body has faults, with those that its model finds."""
        if order.faults:
            raise InvalidOrderError(self._every_fault(order))

    def unit_price_microcredits(self, model: Model, cost_usd: Decimal) -> int:
        """Our price of one image by ``model`` that costs ``cost_usd`` upstream."""
        return unit_price_microcredits(
            cost_usd, markup=model.markup or self._markup, minimum_microcredits=self._minimum_unit_price_microcredits
        )

    def default_for(self, operation: str) -> Model | None:
        """The default model, if it can do this operation here."""
        default = self._default_for(self._catalogs.current(), operation)
        return default.model if default else None

    def cheapest_at(self, provider: str, order: Order) -> Model:
        """The cheapest live model of a provider that takes the order. Raises InvalidOrderError naming every fault."""
        at = self._configured & {provider}
        candidates = ranked(self._catalogs.current(), order.operation, at, "budget", self._markup)
        found = selection.select(
            candidates, order.check, operation=order.operation, asked=None, goal="budget", lenient=order.lenient
        )
        return found.model

    def _every_fault(self, order: Order) -> list[FieldFault]:
        """The faults of the body, and what a model says of the fields that are well formed."""
        faults = list(order.faults)
        bad = {re.split(r"[.\[]", fault.field)[0] for fault in faults}
        if "model" in bad:
            return faults  # other fields can only be judged against a model
        sound = {name: value for name, value in order.fields.items() if name not in bad}
        try:
            self.quote(replace(order, fields=sound, faults=()))
        except InvalidOrderError as error:
            return faults + [fault for fault in error.faults if fault.field not in bad]
        return faults

    def _select(self, catalog: Catalog, order: Order, name: object, allowed: Allowed | None) -> Selection:
        """The model an order names, or the one it gets when it names none, and the order by its rules."""
        if name is not None and not isinstance(name, str):
            raise _bad("model", "wrong_type", "a model is named by a text")
        operation, lenient = order.operation, order.lenient
        if name is None or name in AUTO:
            goal = AUTO[name or "auto"]
            candidates = ranked(catalog, operation, self._configured, goal, self._markup)
            default = self._default_for(catalog, operation) if name is None else None
            if allowed:
                default = default if default and allowed(default.model) else None
                usable = [model for model in candidates if allowed(model)]
                if candidates and not usable:
                    raise ModelNotAllowedError([])
                candidates = tuple(usable)
            try:
                return selection.select(
                    candidates,
                    order.check,
                    operation=operation,
                    asked=name,
                    goal=goal,
                    lenient=lenient,
                    default=default,
                )
            except InvalidOrderError as error:
                raise InvalidOrderError(selection.told_of(error.faults, _strays(catalog, order))) from None
        try:
            model, warnings = self._named(catalog, name)
        except InvalidOrderError as error:
            raise InvalidOrderError([*error.faults, *_faults_with_any_model(catalog, order)]) from None
        return Selection(model, order.check(model, lenient=lenient), warnings=warnings)

    def _default_for(self, catalog: Catalog, operation: str) -> Default | None:
        """The first default model that can do the operation here.

        The operator's catalogue file goes before the setting, because it can be changed without a restart; the
        catalogue's own default comes after both.
        """
        named: list[tuple[str | None, SelectionRule]] = [
            (catalog.preferred, "operator_default"),
            (self._default_model, "operator_default"),
            (catalog.default_model, "catalog_default"),
        ]
        for name, rule in named:
            if name and (model := self._able(catalog, name, operation)):
                return Default(model, rule)
        return None

    def _able(self, catalog: Catalog, name: str, operation: str) -> Model | None:
        try:
            model = catalog.resolve(name).model
        except UnknownModelError:
            return None
        return model if operation in model.operations and model.provider in self._configured else None

    def _named(self, catalog: Catalog, name: str) -> tuple[Model, Sequence[str]]:
        try:
            resolution = catalog.resolve(name)
        except UnknownModelError as error:
            raise _bad("model", "unknown_model", str(error)) from None
        if resolution.model.provider not in self._configured:
            raise _bad(
                "model",
                "provider_not_configured",
                f"{resolution.model.id} is made by {resolution.model.provider}, which is not configured here",
            )
        return resolution.model, resolution.warnings

    def _unusable(self, catalog: Catalog, names: Sequence[str] | None) -> Iterator[FieldFault]:
        """The fallback models that no order can have, told together with the faults of the first model."""
        for position, name in enumerate(names or ()):
            try:
                if name not in AUTO:
                    self._named(catalog, name)
            except InvalidOrderError as error:
                yield from fallbacks.faults_at(position, error)

    def _fallbacks(
        self,
        catalog: Catalog,
        model: Model,
        order: Order,
        names: Sequence[str] | None,
        allowed: Allowed | None,
        *,
        own: Collection[str],
    ) -> list[Fallback]:
        """The models behind the first. Every fault in those that the caller named is reported; a model of the
        operator's own chain, or the successor of a doubtful one, is left out where it cannot take this order, the
        caller may not use it, or it would cost an order by an own key the operator's price."""
        found: list[Fallback] = []
        faults: list[FieldFault] = []
        for position, name in enumerate(names if names is not None else self._chains.get(model.id, _successor(model))):
            try:
                one = self._fallback(catalog, order, name, allowed, own=own)
                stays_own = one.own_key or model.provider not in own
                if names is not None or (stays_own and (allowed is None or allowed(one.model))):
                    found.append(one)
            except InvalidOrderError as error:
                faults += fallbacks.faults_at(position, error)
        if names is not None and faults:
            raise InvalidOrderError(faults)
        return fallbacks.distinct(model, found)

    def _fallback(
        self, catalog: Catalog, order: Order, name: str, allowed: Allowed | None, *, own: Collection[str]
    ) -> Fallback:
        selected = self._select(catalog, order, name, allowed)
        own_key = selected.model.provider in own
        price = self._price(selected.model, selected.checked, own_key=own_key)
        return Fallback(selected.model, selected.checked, price, own_key)


def _dearest(unit_price: int, others: Sequence[Fallback]) -> int:
    return max([unit_price, *(each.unit_price_microcredits for each in others)])


def _faults_with_any_model(catalog: Catalog, order: Order) -> list[FieldFault]:
    """What no model would take: told along with a model that does not exist, so that it need not be found later."""
    faults = _strays(catalog, order)
    prompt = order.fields.get("prompt")
    if order.operation in selection.NEEDS_PROMPT and not (isinstance(prompt, str) and prompt.strip()):
        faults.append(FieldFault("prompt", "required", "must say what the image shall show"))
    return faults


def _strays(catalog: Catalog, order: Order) -> list[FieldFault]:
    """The fields that no model of the operation takes, misspelt ones most likely."""
    if order.lenient:
        return []
    known = _known_fields(catalog, order.operation)
    return [
        FieldFault(
            name[:MAX_NAME_CHARS],
            "not_supported",
            f"no model for {spoken(order.operation)} takes it{did_you_mean(name, known)}",
        )
        for name in [name for name in order.fields if name not in known][:MAX_STRAYS_NAMED]
    ]


@lru_cache(maxsize=128)
def _known_fields(catalog: Catalog, operation: str) -> frozenset[str]:
    """Every field that some model takes for an operation, and those of any job."""
    able = [model for model in catalog.models.values() if operation in model.operations]
    return frozenset({*JOB_FIELDS, *(name for model in able for name in all_fields_of(model, operation))})


def _successor(model: Model) -> Sequence[str]:
    """The successor of a model that its provider may have withdrawn, which only a call can tell, at no cost."""
    return (model.replaced_by,) if model.status == "unknown" and model.replaced_by else ()


def _check_storable(fields: Mapping[str, Any]) -> None:
    """Refuse what no JSON column takes: NUL, half a surrogate pair, NaN and the infinities.

    The prompt is cleaned by the catalogue's rules; metadata, ``extra`` and settings are stored as they are.
    """
    bad = [name for name, value in fields.items() if name != "prompt" and not _is_storable(value)]
    if bad:
        message = "holds a character or a number that cannot be kept"
        raise InvalidOrderError([FieldFault(name, "not_storable", message) for name in bad])


def _is_storable(value: Any) -> bool:
    match value:
        case str():
            return UNSTORABLE.search(value) is None
        case float():
            return isfinite(value)
        case dict():
            return all(_is_storable(part) for pair in value.items() for part in pair)
        case list() | tuple():
            return all(map(_is_storable, value))
        case _:
            return True


def _bad(field: str, code: str, message: str) -> InvalidOrderError:
    return InvalidOrderError([FieldFault(field, code, message)])
