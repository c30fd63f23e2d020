"""A listed model as an entry of an operator's catalogue file. Pure functions.

What cannot be said in an entry is left out where the upstream does not need it, and is the reason why the model cannot
be imported where it does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from providers.catalog import price_formulas
from providers.catalog.entries import Model
from providers.catalog.price_formulas import FormulaError
from providers.listing import roles, settings
from providers.listing.listed import ListedField, ListedModel, NotImportableError
from providers.listing.sizes import size_rules
from providers.orders.formulas import COUNTS, call_usd, known_names
from providers.orders.rules import CheckedOrder

# What Darkroom sets itself or never uses.
_OURS: Final = frozenset({"enable_sync_mode", "enable_base64_output", "disable_safety_checker", "sync_mode"})
_COUNT_NAMES: Final = ("num_images", "max_images", "num_outputs")
_UNTAKEN: Final = re.compile(r"(^|_)(video|videos|audio|voice)(_|$)")
_NAME: Final = re.compile(r"[^a-z0-9.]+")
# A name goes into the address of every call, so it has nothing that leads elsewhere. A replicate's ends in its version.
_SAFE_NAME: Final = re.compile(r"[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)*(:[\w.-]+)?", re.ASCII | re.IGNORECASE)
MAX_NAME_CHARS = 200
MAX_CALL_COUNT = 10
# Every process reads the whole file whenever it changes, and the web process serves no one meanwhile.
MAX_ENTRY_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Imported:
    """An entry as it is written to the file, without its id. ``left_out``: inputs that it does not have, and why."""

    entry: dict[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)


def suggested_id(name: str) -> str:
    """A public name from the upstream's: what stands behind the vendor, in small letters."""
    tail = name.partition(":")[0].partition("/")[2] or name
    return _NAME.sub("-", tail.lower()).strip("-")[:100]


def entry_of(provider: str, listed: ListedModel, *, price_usd: Decimal | None = None) -> Imported:
    """The entry for a listed model. ``price_usd`` replaces the upstream's price and formula.

    Raises: NotImportableError with the reason.
    """
    if len(listed.name) > MAX_NAME_CHARS or not _SAFE_NAME.fullmatch(listed.name):
        raise NotImportableError("its name has characters that no address may have, or is too long")
    if listed.fields is None:
        raise NotImportableError(f"{provider} lists {listed.name} without the schema of its input")
    left = {name: each for name, each in listed.fields.items() if name not in _OURS}
    _refuse_untaken(left, listed.required)
    use = roles.use_of(listed)
    if not listed.kind:
        raise NotImportableError(
            f"{provider}'s list does not say what a model is for; write the entry by hand, with like"
        )
    if use is None:
        raise NotImportableError(
            f"it is a model for {listed.kind} without an image, which Darkroom has no operation for"
        )
    inputs, taken = roles.inputs_of(left, listed.required, use)
    size, size_names = size_rules({name: each for name, each in left.items() if name not in taken})
    rest = {name: each for name, each in left.items() if name not in taken | size_names}
    params, left_out = _settings(rest, listed.required)
    entry: dict[str, Any] = {
        "name": _shown(listed.title) or listed.name,
        "provider": provider,
        "path": listed.name,
        "operation": use.operation,
        **({"also": list(use.also)} if use.also else {}),
        "capabilities": sorted({use.operation, *use.also}),
        "inputs": inputs,
        "size": size or use.size_without_rule,
        "params": params,
        **_constants(left, listed.required, taken),
        "output": use.output,
        "quirks": "imported from the upstream's own list",
    }
    whole = {**entry, **_price(entry, listed, price_usd)}
    if len(json.dumps(whole)) > MAX_ENTRY_CHARS:
        raise NotImportableError(f"its entry would be longer than {MAX_ENTRY_CHARS} characters")
    return Imported(whole, left_out)


def _shown(title: str) -> str:
    """A title without line ends, control characters and signs that turn the direction of writing."""
    return "".join(char for char in title if char.isprintable())[:MAX_NAME_CHARS].strip()


def _constants(
    fields: Mapping[str, ListedField], required: frozenset[str], taken: frozenset[str]
) -> dict[str, dict[str, str]]:
    """Texts that must be sent and have a default: it goes along, unless the order says something else."""
    found = {
        name: each.default
        for name, each in fields.items()
        if name in required and name not in taken and isinstance(each.default, str) and each.default
    }
    return {"constants": found} if found else {}


def _refuse_untaken(fields: Mapping[str, ListedField], required: frozenset[str]) -> None:
    for name in sorted(required & fields.keys()):
        if _UNTAKEN.search(name):
            raise NotImportableError(f"it needs {name}: Darkroom takes images, and no video or sound")


def _settings(fields: Mapping[str, ListedField], required: frozenset[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings by our names, and what is left out. Raises: NotImportableError for a required one that is left out."""
    params: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    count = next((name for name in _COUNT_NAMES if name in fields), None)
    for name, each in fields.items():
        reason = "a video or a sound" if _UNTAKEN.search(name) else settings.why_not(each)
        if reason is not None:
            if name in required and each.default is None:
                raise NotImportableError(f"it needs {name}, which no setting can hold: {reason}")
            left_out[name] = reason
        elif name == count:
            params["n"] = _count(name, each)
        else:
            must_be_said = name in required and not (isinstance(each.default, str) and each.default)
            own, spec = settings.setting(name, each, required=must_be_said)
            params[own] = spec
    return params, left_out


def _count(name: str, each: ListedField) -> dict[str, Any]:
    """How many results one call makes. Raises: NotImportableError where it is always several."""
    if (each.low or 1) > 1:
        raise NotImportableError(f"one call makes at least {each.low:g} images ({name}), and an order may ask for one")
    if each.default not in (None, 1):  # a count of one is left out on the wire
        raise NotImportableError(f"one call makes {each.default} images unless told otherwise ({name})")
    most = int(min(each.high or 1, MAX_CALL_COUNT))
    return {"field": name, "type": "int", "default": 1, "min": 1, "max": most}


# ---------------------------------------------------------------- prices


def _price(entry: Mapping[str, Any], listed: ListedModel, price_usd: Decimal | None) -> dict[str, Any]:
    """What an order costs. Raises: NotImportableError where that cannot be known."""
    if price_usd is not None:
        return {"cost_usd": _plain(price_usd), "cost_note": "price given by the operator"}
    if listed.price_usd is None:
        raise NotImportableError("the upstream offers no price for it: say what an image costs with --price USD")
    if listed.formula is None:
        return {"cost_usd": _plain(listed.price_usd)}
    formula = {"cost_formula": listed.formula, "cost_base_usd": _plain(listed.price_usd)}
    try:
        names = price_formulas.read(listed.formula).names
    except FormulaError as error:
        raise NotImportableError(f"its price: {error}") from None
    probe = _probe({**entry, "cost_usd": 0, **formula})
    if unknown := sorted(names - known_names(probe)):
        raise NotImportableError(f"its price depends on {', '.join(unknown)}, which is no input of the model")
    if masks := sorted(names & {probe.inputs.mask_field}):
        raise NotImportableError(f"its price depends on {masks[0]}, which is not looked at when an order is priced")
    try:
        plain = call_usd(probe, _plain_order(probe), 1)
    except FormulaError as error:
        raise NotImportableError(f"its price: {error}") from None
    if "n" in probe.params and not (names & COUNTS):
        formula["cost_note"] = "the formula does not count images: each is priced as a call of its own"
    return {"cost_usd": _plain(plain), **formula}


def _probe(entry: Mapping[str, Any]) -> Model:
    return Model.model_validate({"id": "probe", "source": [], "verified": False, **entry})


def _plain_order(model: Model) -> CheckedOrder:
    needed = {
        name: spec.enum[0] if spec.enum else spec.min if spec.min is not None else 1
        for name, spec in model.params.items()
        if spec.required
    }
    return CheckedOrder(model.operation, "a kite", 1, {}, needed, image_count=model.inputs.images.min)


def _plain(amount: Decimal) -> float | int:
    """The amount as YAML writes it."""
    exact = amount.quantize(Decimal("0.000001"))
    return int(exact) if exact == exact.to_integral_value() else float(exact)
