"""``darkroom catalog``: what upstreams say of their own models; compare it with ours, or take a model over."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from app.cli.here import settings
from app.cli.output import CommandError, Exit, Output, output_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from providers.catalog.catalog import Catalog
    from providers.catalog.entries import Model
    from providers.listing.importing import Imported
    from providers.model_lists import Answer
    from providers.registry import Registry

NEW_NAMED = 200


@click.group()
def catalog() -> None:
    """The catalogue: check it against the upstreams, import models into your own file."""


@catalog.command("check")
@output_options
@click.argument("provider", required=False)
@click.option("--new", "show_new", is_flag=True, help="Name the models of theirs that the catalogue does not offer.")
def check(output: Output, provider: str | None, show_new: bool) -> None:
    """Ask each configured upstream (or PROVIDER alone) for its models, and say what differs from the catalogue.

    Buys nothing. Exit 0: no difference. Exit 1: the catalogue differs. Exit 3: an upstream could not be asked, and
    no other differs. An upstream without a list of its models is named and counts as neither.
    """
    from providers import model_lists

    upstreams, models = _registry(), _catalog(settings().catalog_local)
    names = _asked(upstreams, provider)
    answers = [model_lists.check(upstreams, models, name) for name in names]
    output.document({"providers": [_document(each, show_new=show_new) for each in answers]})
    for each in answers:
        _print(output, each, show_new=show_new)
    drifted = [each.provider for each in answers if each.drift]
    silent = [each.provider for each in answers if each.error]
    if drifted:
        detail = f"the catalogue differs from what {', '.join(drifted)} said"
        raise CommandError(Exit.FAILED, "catalog_drift", detail, printed=output.as_json)
    if silent:
        detail = f"{', '.join(silent)} could not be asked"
        raise CommandError(Exit.AWAY, "upstream_not_asked", detail, printed=output.as_json)


def _asked(upstreams: Registry, provider: str | None) -> list[str]:
    from providers.configured import PROVIDERS

    configured = upstreams.configured()
    if provider is None:
        if not configured:
            hint = "Set the variables of one in .env (see .env.example); on a machine of `darkroom up`, in its folder."
            raise CommandError(Exit.USAGE, "no_provider", "no provider is configured here", hint=hint)
        return configured
    if provider not in PROVIDERS:
        hint = f"Known: {', '.join(PROVIDERS)}."
        raise CommandError(Exit.USAGE, "unknown_provider", f"there is no provider {provider!r}", hint=hint)
    if provider not in configured:
        needs = " and ".join(" or ".join(group) for group in PROVIDERS[provider].needed)
        raise CommandError(Exit.USAGE, "provider_not_configured", f"{provider} needs {needs}")
    return [provider]


def _registry() -> Registry:
    """The upstreams of the environment, and of what ``darkroom up --sandbox`` runs here."""
    import os

    from app.cli.operator.upstreams import environment
    from providers import registry

    try:
        return registry.load(environment(os.environ, settings()))
    except registry.BadSettingError as error:
        raise CommandError(Exit.USAGE, "bad_settings", str(error)) from error


def _catalog(path: Path) -> Catalog:
    from providers.catalog.live import LiveCatalog
    from providers.catalog.reading import CatalogError

    try:
        return LiveCatalog(path).current()
    except CatalogError as error:
        raise CommandError(Exit.FAILED, "catalog_local_faulty", str(error)) from error


def _document(answer: Answer, *, show_new: bool) -> dict[str, Any]:
    drift = answer.drift
    if drift is None:
        return {"provider": answer.provider, "asked": False, "reason": answer.error or answer.note}
    return {
        "provider": answer.provider,
        "asked": True,
        "compared": drift.compared,
        "differences": [asdict(each) for each in drift.differences],
        "new": len(drift.new),
        **({"new_models": list(drift.new)} if show_new else {}),
    }


def _print(output: Output, answer: Answer, *, show_new: bool) -> None:
    drift = answer.drift
    if drift is None:
        output.line(f"{answer.provider}: {answer.error or answer.note}")
        return
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(drift.counts().items())) or "nothing differs"
    new = f"; {len(drift.new)} of theirs are not offered here" if drift.new else ""
    output.line(f"{answer.provider}: {drift.compared} models compared, {what}{new}")
    for each in drift.differences:
        output.line(f"  {each.kind:<8} {each.model} ({each.path}): {each.detail}")
    if show_new:
        for name in drift.new[:NEW_NAMED]:
            output.line(f"  new      {name}")


# ---------------------------------------------------------------- import


@catalog.command("import")
@output_options
@click.argument("provider")
@click.argument("model")
@click.option("--as", "model_id", metavar="ID", help="The id it gets here. Default: from MODEL.")
@click.option("--price", metavar="USD", help="What one image costs, where the upstream offers no price, or over it.")
@click.option("--force", is_flag=True, help="Replace an entry of this id in your own file.")
@click.option("--dry-run", is_flag=True, help="Print the entry and write nothing.")
def import_model(  # noqa: PLR0917 - click's own order
    output: Output, provider: str, model: str, model_id: str | None, price: str | None, force: bool, dry_run: bool
) -> None:
    """Write PROVIDER's MODEL (as the upstream calls it) into your own catalogue file, complete.

    Fields, choices, limits, defaults and price come from the upstream's own list. The running web and worker processes
    follow the file, so that the model can be ordered at once.
    """
    from providers.catalog import local_file
    from providers.catalog.reading import CatalogError
    from providers.listing.importing import suggested_id

    upstreams = _registry()
    imported = _read(upstreams, _asked(upstreams, provider)[0], model, _usd(price))
    path = settings().catalog_local
    models, brought = _catalog(path), _packaged()
    plain_id = suggested_id(model)
    packaged_id = _id_of(brought, provider, model) or (plain_id if plain_id in brought else None)
    own_id = model_id or (f"{provider}-{plain_id}" if packaged_id else plain_id)
    if packaged_id and not model_id:
        output.note(f"{packaged_id} is a model of the packaged catalogue; your own entry is {own_id}")
    _check_id(models, path, own_id, force=force, brought=brought)
    entry = {**imported.entry, **({"name": own_id} if model_id else {})}
    with nullcontext() if dry_run else local_file.held(path):
        try:
            text = local_file.written(_text(path), own_id, entry, replace=force)
            found = local_file.checked(path, text).models[own_id]
        except local_file.ModelExistsError:
            raise _exists(own_id, path) from None
        except CatalogError as error:
            raise CommandError(Exit.FAILED, "catalog_local_faulty", str(error)) from error
        if not dry_run:
            local_file.put(path, text)
    shown = local_file.as_yaml(own_id, entry)
    facts = {"id": own_id, "file": str(path), "written": not dry_run, "entry": entry, "left_out": imported.left_out}
    output.document(facts)
    output.line(shown.rstrip())
    for name, reason in sorted(imported.left_out.items()):
        output.note(f"left out: {name}, {reason}")
    output.note(f"would be written to {path}" if dry_run else f"written to {path}; running processes follow it")
    output.note(f"order it: {_how(own_id, found.operation)}")


def _read(upstreams: Registry, provider: str, name: str, price_usd: Decimal | None) -> Imported:
    from providers import model_lists
    from providers.errors import ProviderError
    from providers.listing.importing import entry_of
    from providers.listing.listed import NotImportableError

    try:
        return entry_of(provider, model_lists.find(upstreams, provider, name), price_usd=price_usd)
    except NotImportableError as error:
        raise CommandError(Exit.FAILED, "not_importable", f"{name}: {error}") from error
    except model_lists.UnknownListedModelError as error:
        raise CommandError(Exit.FAILED, "unknown_model", str(error)) from error
    except ProviderError as error:
        raise CommandError(Exit.AWAY, error.code, f"{provider} could not be asked: {error.detail}") from error


def _usd(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or not 0 <= found <= 1000:
        raise CommandError(Exit.USAGE, "bad_price", f"--price {text!r} is no price from 0 to 1000 USD")
    return found


def _packaged() -> Mapping[str, Model]:
    from providers.catalog import catalog as packaged

    return packaged.load().models


def _id_of(models: Mapping[str, Model], provider: str, name: str) -> str | None:
    """The id of an upstream's model, by its name there; None where the models lack it."""
    return next((each.id for each in models.values() if each.provider == provider and each.path == name), None)


def _check_id(models: Catalog, path: Path, own_id: str, *, force: bool, brought: Mapping[str, Model]) -> None:
    """Refuse what would lay the entry over one that Darkroom brings along, or over one of the operator's own."""
    if own_id in brought:
        hint = "Give it another id with --as."
        raise CommandError(Exit.FAILED, "model_exists", f"{own_id} is a model of the packaged catalogue", hint=hint)
    if own_id in models.models and not force:
        raise _exists(own_id, path)


def _exists(own_id: str, path: Path) -> CommandError:
    hint = "--force replaces it; --as gives the new one another id."
    return CommandError(Exit.FAILED, "model_exists", f"{path} has {own_id} already", hint=hint)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise CommandError(Exit.FAILED, "catalog_local_faulty", f"{path} is not UTF-8") from error


def _how(model_id: str, operation: str) -> str:
    if operation == "generate":
        return f'darkroom generate "a lighthouse at dusk" --model {model_id}'
    if operation == "edit":
        return f'darkroom edit "make it night" -i photo.png --model {model_id}'
    from providers.catalog.entries import spoken

    return (
        f'POST /api/images/{spoken(operation)} with {{"model": "{model_id}", ...}}; `darkroom models {model_id}` shows'
    )
