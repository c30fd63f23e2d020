"""What a caller's key may use, by its lists of models and providers."""

from __future__ import annotations

from collections.abc import Iterable

from accounts.keys import Caller
from app.enhancement import Enhancer
from app.http.errors import EnhancerNotConfiguredError
from app.services import Services
from jobs.errors import ModelNotAllowedError
from providers.catalog.catalog import Catalog, Model


def usable(caller: Caller, models: Iterable[Model]) -> list[Model]:
    """Those that the key may order from, in their order."""
    return [model for model in models if caller.may_use(model.id, model.provider)]


def language_models(parts: Services, caller: Caller) -> Enhancer:
    """The language models that the key may use: those of its providers.

    A key's list of models names models for images; with such a list the language models of their providers count.
    """
    return parts.enhancer.only(
        [name for name in parts.enhancer.models if _of_its_providers(caller, name, parts.catalog)]
    )


def language_model(parts: Services, caller: Caller, name: str | None) -> Enhancer:
    """The same, for a text by the model of this name; None: by whichever the key may use.

    Raises EnhancerNotConfiguredError, and ModelNotAllowedError where the key may use none, or not this one.
    """
    if not parts.enhancer.models:
        raise EnhancerNotConfiguredError
    found = language_models(parts, caller)
    meant = None if name is None else parts.enhancer.provider_of(name)
    if name is not None and meant is not None and meant not in found.models:
        raise ModelNotAllowedError([name])
    if not found.models:
        raise ModelNotAllowedError([])
    return found


def _of_its_providers(caller: Caller, provider: str, catalog: Catalog) -> bool:
    if caller.providers is not None and provider not in caller.providers:
        return False
    listed = (catalog.models.get(each) for each in caller.models or ())
    return caller.models is None or any(model is not None and model.provider == provider for model in listed)
