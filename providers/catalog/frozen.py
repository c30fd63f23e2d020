"""The base of the catalogue's shapes: nothing of them changes once they are read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer

K = TypeVar("K")
V = TypeVar("V")


def _plain(found: Mapping[Any, Any]) -> dict[Any, Any]:
    """The mapping as a dict, with those directly in it."""
    return {key: dict(value) if isinstance(value, MappingProxyType) else value for key, value in found.items()}


# One catalogue serves a whole process, so not even a nested mapping of it may be changed.
FrozenMap = Annotated[Mapping[K, V], AfterValidator(MappingProxyType), PlainSerializer(_plain)]


def empty() -> Mapping[Any, Any]:
    """The default of a frozen mapping."""
    return MappingProxyType({})


class Entry(BaseModel):
    """Base of every shape: unknown keys are refused, and so are changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self  # immutable throughout
