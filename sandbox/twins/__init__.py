"""The twins: one stand-in per upstream, each a Flask Blueprint that keeps its own shelf of work.

To add one: write ``sandbox/twins/<name>.py`` with a ``TWIN`` and list it in ``all_twins``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from flask import Blueprint
from flask.typing import ResponseReturnValue

from sandbox.world import Shelf, World


class NothingKept:
    """The shelf of an upstream that keeps no work between two calls: always empty."""

    def __init__(self, _world: World) -> None: ...

    def clear(self) -> None:
        """Nothing to forget."""

    def restart(self) -> int:
        """Nothing to break off."""
        return 0


class Wrong(NamedTuple):
    """A request that no route takes: what the twin's own router says to it."""

    status: int
    method: str
    path: str


@dataclass(frozen=True)
class Twin:
    """One stand-in. ``prefix`` is its place on the port; an adapter's base URL begins with it."""

    name: str
    prefix: str
    blueprint: Blueprint
    new_shelf: Callable[[World], Shelf]
    unrouted: Callable[[Wrong], ResponseReturnValue]


def all_twins() -> tuple[Twin, ...]:
    """Every twin there is."""
    from sandbox.twins import (
        chatgpt2api,
        flux,
        gemini,
        huggingface,
        llamaswap,
        openai,
        replicate,
        stability,
        wavespeed,
        xai,
    )

    return (
        chatgpt2api.TWIN,
        openai.TWIN,
        stability.TWIN,
        flux.TWIN,
        wavespeed.TWIN,
        replicate.TWIN,
        huggingface.TWIN,
        llamaswap.TWIN,
        gemini.TWIN,
        xai.TWIN,
    )
