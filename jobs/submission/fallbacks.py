"""The models an order falls back to when one certainly made nothing: named by the caller, or by the operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.errors import FieldFault, InvalidOrderError
from providers.catalog.catalog import Model
from providers.orders.rules import CheckedOrder

MOST = 5


@dataclass(frozen=True, slots=True)
class Fallback:
    """A further model with the same order, checked by its own rules; the price is that of one image.

    ``own_key``: it is called with the account's own key.
    """

    model: Model
    checked: CheckedOrder
    unit_price_microcredits: int
    own_key: bool = False


def chains_of(text: str) -> dict[str, tuple[str, ...]]:
    """An operator's chains: ``first>second>third``, several by commas. By the first model's name.

    Raises: ValueError.
    """
    chains = {}
    for chain in filter(None, (part.strip() for part in text.split(","))):
        first, *rest = [name.strip() for name in chain.split(">")]
        if not rest or not all((first, *rest)) or len(rest) > MOST or first in chains:
            raise ValueError(f"{chain!r} is no chain of 2 to {MOST + 1} models joined by '>', given once")
        chains[first] = tuple(rest)
    return chains


def distinct(first: Model, others: Sequence[Fallback]) -> list[Fallback]:
    """Each model once: two names may mean the same, and a model that did not run will not run the second time."""
    by_id: dict[str, Fallback] = {}
    for each in others:
        if each.model.id != first.id:
            by_id.setdefault(each.model.id, each)
    return list(by_id.values())


def names_in(fields: Mapping[str, object]) -> list[str] | None:
    """The names in an order's fields; None where it leaves them to the operator. Raises InvalidOrderError."""
    names = fields.get("fallback_models")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InvalidOrderError([FieldFault("fallback_models", "wrong_type", "must be a list of model names")])
    if len(names) > MOST:
        raise InvalidOrderError([FieldFault("fallback_models", "too_many", f"at most {MOST} models")])
    return names


def faults_at(position: int, error: InvalidOrderError) -> Iterator[FieldFault]:
    """The faults that one of the models finds, each named by that model's position in the list."""
    for fault in error.faults:
        about = "" if fault.field == "model" else f"{fault.field}: "
        yield FieldFault(f"fallback_models[{position}]", fault.code, f"{about}{fault.message}")
