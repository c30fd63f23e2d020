"""The model catalogue: which models there are, who serves them, and which one a name means.

Data, not code: ``catalog.yaml`` next to this file, ``models.yaml`` in the folder of each upstream, and an operator's
own file over them. The web process validates and prices from it and loads no adapter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol

from providers.catalog.entries import OPERATIONS, Model, ProviderSpec, Status
from providers.catalog.files import PACKAGED
from providers.catalog.local import lay_over
from providers.catalog.reading import CatalogData, CatalogError, read

__all__ = [
    "OPERATIONS",
    "Catalog",
    "CatalogError",
    "CatalogSource",
    "Model",
    "ProviderSpec",
    "Resolution",
    "UnknownModelError",
    "build",
    "load",
]

CATCH_ALL = "*"
MAX_NAME_CHARS = 200
_DATED = re.compile(r"-20[0-9]{2}-[0-9]{2}-[0-9]{2}$")


class UnknownModelError(LookupError):
    """No model, dated form or alias has this name. ``suggestions`` are the closest names we know."""

    code = "unknown_model"

    def __init__(self, name: str, suggestions: tuple[str, ...]) -> None:
        hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else ""
        super().__init__(f"no model is called {name[:MAX_NAME_CHARS]!r}{hint}")
        self.name = name[:MAX_NAME_CHARS]
        self.suggestions = suggestions


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name means. ``warnings`` are sentences for the caller."""

    model: Model
    asked: str
    warnings: tuple[str, ...] = ()


class CatalogSource(Protocol):
    """Where to get the catalogue that holds now; ask once for everything that must agree."""

    def current(self) -> Catalog: ...

    def renewed(self) -> Catalog:
        """The same, after a look at the file whatever the time: for who misses a model."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """Everything the YAML says, checked as a whole; see :func:`load`. A source of itself, for it never changes.

    ``version`` names the content (hex) of all its files, so that a price can say which catalogue it came
    from. ``aliases`` are (pattern, model id), first match wins. ``spellings`` holds every exact way to
    name a model, in lower case: its id, ``provider/name``, the upstream's own name.
    ``preferred`` is the default model of an operator's own file.
    """

    version: str
    checked: date
    default_model: str
    models: Mapping[str, Model] = field(repr=False)
    providers: Mapping[str, ProviderSpec] = field(repr=False)
    aliases: tuple[tuple[str, str], ...] = field(repr=False)
    sources: Mapping[str, str] = field(repr=False)
    spellings: Mapping[str, Model] = field(repr=False)
    preferred: str | None = None

    def current(self) -> Catalog:
        return self

    def renewed(self) -> Catalog:
        return self

    def entry(self, model_id: str) -> Model:
        """The model of exactly this id, for a job that was accepted with it: hidden or gone, it is what was
        priced. Raises: UnknownModelError."""
        try:
            return self.models[model_id]
        except KeyError:
            raise UnknownModelError(model_id, ()) from None

    def resolve(self, name: str, strict: bool = True, *, today: date | None = None) -> Resolution:
        """Find the model a name means and follow what has been replaced.

        ``strict`` refuses a name that only the catch-all alias would catch; dialects pass False. A hidden
        model has no name. Raises: UnknownModelError.
        """
        found = self._exact(name)
        notes: tuple[str, ...] = ()
        if found is None:
            found, notes = self._by_alias(name, strict=strict)
        model, warnings = self._follow(found, today or _today())
        if model.hidden:
            raise UnknownModelError(name, self._suggestions(name.lower()))
        return Resolution(model, name, notes + warnings)

    def select(
        self,
        operation: str | None = None,
        *,
        provider: str | None = None,
        max_price_usd: Decimal | None = None,
        capability: str | None = None,
        configured: Collection[str] | None = None,
        status: Status | Literal["all"] | None = None,
    ) -> list[Model]:
        """Models on offer that meet every condition given, in the order of the catalogue.

        Without ``status`` those that still answer.
        """
        today = _today()
        return [
            model
            for model in self.models.values()
            if not model.hidden
            and (not model.gone(today) if status is None else status in {"all", model.status_on(today)})
            and (operation is None or operation in model.operations)
            and (provider is None or model.provider == provider)
            and (max_price_usd is None or model.cost_usd <= max_price_usd)
            and (capability is None or capability in model.capabilities)
            and (configured is None or model.provider in configured)
        ]

    def _exact(self, name: str) -> Model | None:
        if len(name) > MAX_NAME_CHARS:
            return None
        lowered = name.strip().lower()
        undated = _DATED.sub("", lowered)
        for spelling in (lowered, undated, undated.replace(":", "/", 1)):
            if found := self.spellings.get(spelling):
                return found
        return None

    def _by_alias(self, name: str, *, strict: bool) -> tuple[Model, tuple[str, ...]]:
        lowered = name[:MAX_NAME_CHARS].strip().lower()
        for pattern, target in self.aliases:
            if (pattern == CATCH_ALL and strict) or not fnmatchcase(lowered, pattern):
                continue
            if self.models[target].hidden:
                continue
            if CATCH_ALL not in pattern:
                return self.models[target], ()
            return self.models[target], (f"the catalogue has no {lowered!r}; {target} stands in for it",)
        raise UnknownModelError(name, self._suggestions(lowered))

    def _follow(self, model: Model, today: date) -> tuple[Model, tuple[str, ...]]:
        warnings: list[str] = []
        while model.gone(today) and model.replaced_by is not None:
            warnings.append(f"{_farewell(model)}; {model.replaced_by} is used instead")
            model = self.models[model.replaced_by]
        return model, (*warnings, *_reserves(model))

    def _suggestions(self, lowered: str) -> tuple[str, ...]:
        names = [model.id for model in self.select() if model.status in {"live", "retiring"}]
        names += [name for name, target in self.aliases if "*" not in name and not self.models[target].hidden]
        return tuple(difflib.get_close_matches(lowered, names, n=3, cutoff=0.5))


def load(root: Path | None = None, local: Path | None = None) -> Catalog:
    """Read and check the catalogue below a folder (default: this package), and an operator's file over it.

    Raises: CatalogError naming every fault with the entry it is in, OSError.
    """
    base = read(root or PACKAGED)
    return build(base if local is None else lay_over(base, local, local.read_bytes()))


def build(data: CatalogData) -> Catalog:
    return Catalog(
        version=data.digest[:12],
        checked=data.head.checked,
        default_model=data.head.default_model,
        models=data.models,
        providers=data.providers,
        aliases=tuple(data.head.aliases.items()),
        sources=data.head.sources,
        spellings=_spellings(data),
        preferred=data.preferred,
    )


def _spellings(data: CatalogData) -> dict[str, Model]:
    """Every exact name, the most specific kind of name first, so that it wins; of hidden models, whose names are
    not to mean another one by an alias, only what no model on offer is called."""
    index: dict[str, Model] = {}
    for hidden in (False, True):
        models = [model for model in data.models.values() if model.hidden == hidden]
        for names in (_own_ids, _provider_names, _upstream_names):
            for model in models:
                for name in names(model):
                    index.setdefault(name.lower(), model)
        for model in models:
            for vendor in data.providers[model.provider].also_called:
                for name in _short_names(model):
                    index.setdefault(f"{vendor}/{name}".lower(), model)
    return index


def _own_ids(model: Model) -> Iterator[str]:
    yield model.id


def _provider_names(model: Model) -> Iterable[str]:
    return (f"{model.provider}/{name}" for name in _short_names(model))


def _short_names(model: Model) -> Iterator[str]:
    yield model.id
    yield model.id.removeprefix(f"{model.provider}-")
    yield model.path


def _upstream_names(model: Model) -> Iterator[str]:
    yield model.path
    yield model.path.partition(":")[0]  # Gemini writes models/<name>:<verb>


def _farewell(model: Model) -> str:
    ended = model.retired_on or model.retires_on
    since = f" since {ended.isoformat()}" if ended else ""
    if model.status == "redirected":
        return f"{model.id} is answered by its successor{since}"
    return f"{model.id} is switched off by its vendor{since}"


def _reserves(model: Model) -> Iterator[str]:
    """What a caller should know about a model that still answers, or may."""
    successor = f"; {model.replaced_by} follows it" if model.replaced_by else ""
    if model.status == "retiring" and model.retires_on is not None:
        yield f"{model.id} ends on {model.retires_on.isoformat()}{successor}"
    elif model.status == "unknown":
        yield f"{model.id} may have been withdrawn by its provider{successor}"


def _today() -> date:
    return datetime.now(UTC).date()
