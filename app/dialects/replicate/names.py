"""Our models under the names that Replicate's clients know: ``owner/name``, and the id of a version.

A model that Replicate serves keeps its name there; any other is ``<provider>/<our id>``. A model has one version. Its
id is that which the model's own name at Replicate pins, else a hash of our id: it names the model alone, because
clients send the version of ``owner/name:version`` without the rest.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from core.errors import ServiceError
from providers.catalog.catalog import Catalog, Model, UnknownModelError

REPLICATE = "replicate"
SUGGESTED = 3


class ModelNotFoundError(ServiceError):
    """No model has this name; the nearest names are told."""

    code = "not_found"


class UnknownVersionError(ServiceError):
    """No model has this version."""

    code = "unknown_model"


@dataclass(frozen=True, slots=True)
class Named:
    """A model as Replicate's clients name it. ``notes`` are sentences about the name that was asked for.

    ``single``: its output is one link, and not a list of them.
    """

    owner: str
    name: str
    version: str
    model: Model = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def full(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def single(self) -> bool:
        """What makes one result a call has no list of them at Replicate."""
        return self.model.max_per_call == 1


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """Every model on offer, by ``owner/name`` in lower case and by the id of its version."""

    catalog: Catalog = field(repr=False)
    by_name: Mapping[str, Named] = field(repr=False)
    by_version: Mapping[str, Named] = field(repr=False)

    def of(self, model: Model) -> Named:
        """The names of a model, also of one that is no longer on offer."""
        owner, name, version = _parts(model)
        return Named(owner, name, version, model)

    def model(self, text: str) -> Named:
        """The model of a name: ``owner/name``, an id of ours, an alias. Raises ModelNotFoundError."""
        if found := self.by_name.get(text.strip().lower()):
            return found
        try:
            meant = self.catalog.resolve(text)
        except UnknownModelError as error:
            raise ModelNotFoundError(self._not_found(text, error.suggestions)) from None
        # What the catalogue says of the model itself comes with the order.
        known = self.catalog.resolve(meant.model.id).warnings
        return replace(self.of(meant.model), notes=tuple(note for note in meant.warnings if note not in known))

    def version(self, text: str) -> Named:
        """The model of ``version`` in a request: the id of a version, ``owner/name:version``, or a model's name.

        Raises UnknownVersionError.
        """
        text = text.strip()
        if found := self.by_version.get(text.lower()):
            return found
        name, colon, version = text.partition(":")
        try:
            named = self.model(name if colon else text)
        except ModelNotFoundError as error:
            raise UnknownVersionError(error.detail) from None
        if colon and version.lower() != named.version:
            raise UnknownVersionError(f"{named.full} has no version {version[:64]!r}; its version is {named.version}")
        return named

    def _not_found(self, text: str, ids: tuple[str, ...]) -> str:
        near = difflib.get_close_matches(text[:100].lower(), self.by_name, n=SUGGESTED, cutoff=0.5)
        near += [named for each in ids if (named := self.of(self.catalog.resolve(each).model).full) not in near]
        hint = f"; did you mean {', '.join(near[:SUGGESTED])}?" if near else ""
        return f"no model is called {text[:200]!r}{hint}"


@lru_cache(maxsize=2)
def names_of(catalog: Catalog) -> Names:
    """The names of a catalogue's models; a catalogue never changes."""
    every = [Named(*_parts(model), model) for model in catalog.select()]
    return Names(
        catalog,
        {named.full.lower(): named for named in reversed(every)},
        {named.version: named for named in reversed(every)},
    )


def _parts(model: Model) -> tuple[str, str, str]:
    own = hashlib.sha256(f"darkroom model {model.id}".encode()).hexdigest()
    path, _, pinned = model.path.partition(":")
    owner, _, name = path.partition("/")
    if model.provider != REPLICATE or not name or "/" in name:
        return model.provider, model.id, own
    return owner, name, pinned or own
