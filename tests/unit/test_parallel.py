"""Work side by side sees the context variables of its caller."""

from __future__ import annotations

from contextvars import ContextVar

import pytest

from core.parallel import side_by_side

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


@pytest.mark.parametrize("items", [[1], [1, 2, 3]])
def test_what_the_caller_has_bound_is_bound_for_each_item(items: list[int]) -> None:
    token = REQUEST.set("order-7")
    try:
        assert side_by_side(lambda item: (item, REQUEST.get()), items) == [(item, "order-7") for item in items]
    finally:
        REQUEST.reset(token)
