"""The emulators: one for each upstream, a Flask Blueprint with a store of its own for its work.

To add one: write ``sandbox/emulators/<name>/routes.py`` with an ``EMULATOR``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from flask import Blueprint
from flask.typing import ResponseReturnValue

from sandbox.state import State, Store


class EmptyStore:
    """The store of an upstream that keeps no work between two calls: always empty."""

    def __init__(self, _sandbox: State) -> None: ...

    def clear(self) -> None:
        """Nothing to delete."""

    def restart(self) -> int:
        """Nothing to break off."""
        return 0


class Wrong(NamedTuple):
    """A request that no route takes: what the emulator's own router says to it."""

    status: int
    method: str
    path: str


@dataclass(frozen=True)
class Emulator:
    """One emulator. ``prefix`` is its place on the port; an adapter's base URL begins with it.

    ``environ``: the variables by which an adapter is led here; ``{url}`` is the port with the prefix, ``{key}`` a key.
    """

    name: str
    prefix: str
    blueprint: Blueprint
    new_store: Callable[[State], Store]
    unrouted: Callable[[Wrong], ResponseReturnValue]
    environ: Mapping[str, str] = field(default_factory=dict)

    def leading_here(self, base_url: str, key: str) -> dict[str, str]:
        """``environ`` filled in, for a sandbox at ``base_url``."""
        return {name: text.format(url=base_url + self.prefix, key=key) for name, text in self.environ.items()}


def all_emulators() -> tuple[Emulator, ...]:
    """Every emulator there is: the ``EMULATOR`` of each folder here, by name."""
    modules = [import_module(f"{__name__}.{found.name}.routes") for found in iter_modules(__path__) if found.ispkg]
    emulators: list[Emulator] = [vars(module)["EMULATOR"] for module in modules]
    return tuple(sorted(emulators, key=lambda emulator: emulator.name))


def environ(base_url: str, *, key: str = "sandbox") -> dict[str, str]:
    """The environment that leads every adapter to the sandbox at ``base_url``."""
    return {name: value for emulator in all_emulators() for name, value in emulator.leading_here(base_url, key).items()}
