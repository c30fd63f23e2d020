"""Which upstreams the environment configures, told without loading a single adapter.

The web process asks this to know what it may offer; the workers load adapters by the registry. Which
variables a provider has stands in the block of its ``models.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import yaml

from providers.catalog.files import PACKAGED, common_file, in_order, provider_files

if TYPE_CHECKING:  # asking what is configured loads no pydantic
    from providers.catalog.entries import ProviderSpec


@dataclass(frozen=True, slots=True)
class Variables:
    """The environment variables of one provider: needed, of each group at least one; and optional."""

    needed: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()
    has_adapter: bool = True
    # Of ``optional``, those of the operator's account at the upstream; None: it takes no keys of callers' own.
    house_only: tuple[str, ...] | None = None

    def names(self) -> tuple[str, ...]:
        return (*(name for group in self.needed for name in group), *self.optional)

    def missing(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """The first name of each needed group of which nothing is set."""
        return tuple(group[0] for group in self.needed if not any(value_of(env, name) for name in group))


def value_of(env: Mapping[str, str], name: str) -> str | None:
    """The trimmed value of a variable; a blank one counts as not set."""
    return env.get(name, "").strip() or None


def _read() -> Iterator[tuple[str, Variables]]:
    """Each provider's block, without the models behind it: entries are read where models are needed."""
    found = provider_files(PACKAGED)
    for name in in_order(found, _block(common_file(PACKAGED), "order")["providers"]):
        block = _block(found[name], "provider")
        needed = tuple((each,) if isinstance(each, str) else tuple(each) for each in block["env"])
        own_keys = block.get("own_keys")
        house_only = None if own_keys is None else tuple(own_keys.get("house_only", ()))
        yield name, Variables(needed, tuple(block.get("env_optional", ())), block.get("adapter", True), house_only)


def _block(path: Path, key: str) -> Any:
    """What stands under a key at the top of a file, whose rest is not parsed: it is a hundred times as long.

    Raises KeyError where no line begins with the key.
    """
    found = re.search(rf"^{key}:.*\n(?:(?:[ #].*)?\n)*", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise KeyError(f"{path}: no {key}")
    return yaml.load(found[0], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))[key]  # noqa: S506 - both safe


PROVIDERS: Final[Mapping[str, Variables]] = MappingProxyType(dict(_read()))
MAX_ACCOUNTS = 9


def accounts(env: Mapping[str, str], provider: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(label, environment) of each credential of a provider; none when nothing is configured.

    The first is called ``default``. A second one is given by the same variables with ``_2`` behind
    their names, up to ``_9``; a variable without a numbered form holds for all of them.
    """
    known = PROVIDERS[provider]
    if not known.missing(env):
        yield "default", env
    for number in range(2, MAX_ACCOUNTS + 1):
        own = {name: env[f"{name}_{number}"] for name in known.names() if value_of(env, f"{name}_{number}")}
        if any(name in own for group in known.needed for name in group) and not known.missing({**env, **own}):
            yield str(number), {**env, **_without_rivals(known, own), **own}


def with_own_key(env: Mapping[str, str], provider: str, key: str) -> dict[str, str]:
    """The environment of a provider's first credential with another key in place of the operator's.

    Raises KeyError for a provider that takes no keys of callers or is not configured.
    """
    known = PROVIDERS[provider]
    views = [view for _, view in accounts(env, provider)]
    if known.house_only is None or not views:
        raise KeyError(provider)
    [names] = known.needed
    return {**views[0], **dict.fromkeys((*names, *known.house_only), ""), names[0]: key}


def _without_rivals(known: Variables, own: Mapping[str, str]) -> dict[str, str]:
    """Of names that mean the same, the unnumbered ones must not win over a numbered one."""
    return {name: "" for group in known.needed if any(name in own for name in group) for name in group}


def configured_names(env: Mapping[str, str]) -> tuple[str, ...]:
    """The providers that can be used: an adapter exists and what it needs is set. In stable order."""
    return tuple(name for name, known in PROVIDERS.items() if known.has_adapter and not known.missing(env))


def prompt_model(spec: ProviderSpec, env: Mapping[str, str]) -> str | None:
    """The upstream's name of the language model that enhances prompts; None where the provider has none here."""
    if spec.prompt_model is None:
        return None
    return value_of(env, spec.prompt_model.variable) or spec.prompt_model.default
