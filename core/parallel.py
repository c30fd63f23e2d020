"""The same work on several items at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T], *, at_most: int = 16) -> list[R]:
    """The results in the order of the items, at most so many at once; greenlets where threads are patched.

    Each runs in a copy of the caller's context variables. Raises what the first of the items that failed has raised.
    """
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(at_most, len(items))) as pool:
        return list(pool.map(lambda item, context: context.run(work, item), items, [copy_context() for _ in items]))
