"""Where the catalogue and an upstream's own list differ. Pure functions; no one is asked anything here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from providers.catalog import price_formulas
from providers.catalog.entries import Model
from providers.catalog.price_formulas import BASE, FormulaError
from providers.listing.listed import ListedField, ListedModel, Listing
from providers.listing.sent_fields import sent_fields
from providers.orders.costs import cost_usd
from providers.orders.formulas import COUNTS, as_usd
from providers.orders.problems import OrderProblems
from providers.orders.rules import CheckedOrder

Kind = Literal["missing", "gone", "retiring", "price", "fields"]
# A millionth of a dollar: prices that differ by less are the same price, written differently.
SAME_USD = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. ``missing``: live with us, not in their list; ``gone``, ``retiring``: they say that it
    ends and we do not; ``price``, ``fields``: it is described differently. ``detail`` is a sentence."""

    kind: Kind
    model: str
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class Drift:
    """What one upstream's list says that the catalogue does not. ``new`` are models of theirs that we do not offer,
    which is no fault; ``compared`` counts ours that were looked for."""

    provider: str
    compared: int
    differences: tuple[Difference, ...] = ()
    new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.differences)

    def counts(self) -> dict[str, int]:
        """How many differences there are of each kind."""
        found: dict[str, int] = {}
        for each in self.differences:
            found[each.kind] = found.get(each.kind, 0) + 1
        return found


def compare(provider: str, models: Collection[Model], listing: Listing, *, today: date) -> Drift:
    """The catalogue's entries of a provider next to its own list. Hidden and ended entries are not looked for."""
    offered = [model for model in models if not model.hidden and not model.gone(today)]
    found = [each for model in offered for each in _differences(model, listing, today)]
    known = {listing.name_of(model, path) for model in models for path in (model.path, *model.paths.values())}
    new = sorted(listing.models.keys() - known) if listing.whole else []
    return Drift(provider, len(offered), tuple(found), tuple(new))


def _differences(model: Model, listing: Listing, today: date) -> Iterator[Difference]:
    for path, operation in _ways(model, listing).items():
        listed = listing.models.get(listing.name_of(model, path))
        if listed is None:
            if model.status != "unknown":
                yield Difference("missing", model.id, path, "is offered here and is not in the upstream's list")
            continue
        yield from _endings(model, path, listed, today)
        yield from _prices(model, path, operation, listed)
        for detail in _fields(sent_fields(model, operation), listed):
            yield Difference("fields", model.id, path, detail)


def _ways(model: Model, listing: Listing) -> dict[str, str]:
    """The paths by which the upstream lists the model, each with an operation that it is used for. Where several paths
    are routes of one model, only the model's own name is in the list."""
    ways = {
        path: operation for operation, path in model.paths.items() if listing.name_of(model, path) in listing.models
    }
    return ways or {model.path: model.operation}


def _endings(model: Model, path: str, listed: ListedModel, today: date) -> Iterator[Difference]:
    if listed.gone_on is None:
        return
    try:
        ended = date.fromisoformat(listed.gone_on[:10]) <= today
    except ValueError:
        ended = False
    kind: Kind = "gone" if ended else "retiring"
    if kind == "retiring" and model.status == "retiring":
        return  # the entry says so itself
    yield Difference(kind, model.id, path, f"the upstream says that it ends: {listed.gone_on}")


# ---------------------------------------------------------------- prices


def _prices(model: Model, path: str, operation: str, listed: ListedModel) -> Iterator[Difference]:
    if listed.price_usd is None:
        return
    if model.cost_formula is not None:
        base = model.cost_usd if model.cost_base_usd is None else model.cost_base_usd
        if listed.formula != model.cost_formula:
            yield Difference("price", model.id, path, "the price formula is another one")
        if abs(base - listed.price_usd) > SAME_USD:
            yield Difference("price", model.id, path, f"base price {base} USD here, {listed.price_usd} USD there")
        return
    ours, theirs = plain_order_usd(model, operation), listed_order_usd(listed)
    if ours is not None and theirs is not None and abs(ours - theirs) > SAME_USD:
        detail = f"a plain order costs {ours.normalize():f} USD here, {theirs.normalize():f} USD there"
        yield Difference("price", model.id, path, detail)


def plain_order(model: Model, operation: str) -> CheckedOrder:
    """An order with what the model needs and nothing else."""
    needed = {
        name: spec.enum[0] if spec.enum else spec.min if spec.min is not None else 1
        for name, spec in model.order_params(operation).items()
        if spec.required and spec.default is None and spec.type != "list"
    }
    return CheckedOrder(operation, "a kite", 1, {}, needed, image_count=model.inputs.images.min)


def plain_order_usd(model: Model, operation: str) -> Decimal | None:
    """Our price of :func:`plain_order`; None where it cannot be priced."""
    try:
        return cost_usd(model, plain_order(model, operation))
    except OrderProblems:
        return None


def listed_order_usd(listed: ListedModel) -> Decimal | None:
    """The upstream's price of an order with its own defaults; None where its formula needs what we do not know."""
    if listed.price_usd is None or listed.formula is None:
        return listed.price_usd
    defaults = {name: each.default for name, each in (listed.fields or {}).items() if each.default is not None}
    links = {
        name: ["image"] * (each.fewest or 1) for name, each in (listed.fields or {}).items() if each.kind == "array"
    }
    needed = {name: links.get(name, "image") for name in listed.required if name not in defaults}
    inputs: dict[str, Any] = {
        **dict.fromkeys(COUNTS, 1),
        **needed,
        **defaults,
        BASE: float(listed.price_usd * 1_000_000),
    }
    inputs |= dict.fromkeys(COUNTS & inputs.keys(), 1)
    try:
        return as_usd(price_formulas.read(listed.formula).value(inputs), listed.price_usd)
    except FormulaError:
        return None


# ---------------------------------------------------------------- fields


def _fields(ours: Mapping[str, ListedField], listed: ListedModel) -> Iterator[str]:
    theirs = listed.fields
    if theirs is None:
        return
    for name, sent in sorted(ours.items()):
        if name not in theirs:
            yield f"{name}: is not taken there"
            continue
        yield from (f"{name}: {words}" for words in _field(sent, theirs[name]))
    for name in sorted(listed.required - ours.keys()):
        if theirs.get(name) is None or theirs[name].default is None:
            yield f"{name}: is required there, and the entry does not have it"


def _field(ours: ListedField, theirs: ListedField) -> Iterator[str]:
    if theirs.enum and (unknown := [each for each in ours.enum if str(each) not in map(str, theirs.enum)]):
        yield f"choice {', '.join(map(str, unknown))} is not taken there"
    if ours.low is not None and theirs.low is not None and ours.low < theirs.low:
        yield f"at least {theirs.low:g} there, {ours.low:g} here"
    if ours.high is not None and theirs.high is not None and ours.high > theirs.high:
        yield f"at most {theirs.high:g} there, {ours.high:g} here"
    if ours.most is not None and theirs.most is not None and ours.most > theirs.most:
        yield f"at most {theirs.most} items there, {ours.most} here"
    if ours.default is not None and theirs.default is not None and not _same(ours.default, theirs.default):
        yield f"default {theirs.default} there, {ours.default} here"


def _same(one: object, other: object) -> bool:
    """Whether two defaults are the same value: 1 and 1.0 are, true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other or str(one) == str(other)
