"""What an upstream reports with a result: the cost of a call, and its progress."""

from __future__ import annotations

import json

from conformance.rounds import KEY, call_of, ended, started
from conformance.subjects import Subject, subjects
from providers.base import Accepted, Running
from providers.orders.costs import expected_cost_microusd
from providers.orders.rules import check_order
from providers.reported_cost import ReportedCost
from sandbox.testing import Sandbox

LASTS_S = 40


def told_cost(subject: Subject, sandbox: Sandbox, name: str) -> ReportedCost | None:
    """The cost reported at the end of a call, else the one reported when it was accepted."""
    provider, order = subject.load(sandbox), subject.order(name)
    answer = provider.submit(order, dedupe_key=KEY)
    if not isinstance(answer, Accepted):
        return answer.cost
    return ended(provider, call_of(order, answer)).cost or answer.cost


@subjects("cost")
def test_the_cost_of_a_call_is_reported(sandbox: Sandbox, subject: Subject) -> None:
    for name in {subject.plain, subject.later} - {None}:
        cost = told_cost(subject, sandbox, str(name))
        assert cost is not None, name
        assert cost.usage
        json.dumps(cost.usage, allow_nan=False)
        assert (cost.microusd is None) == (subject.tells == "counts")
        if cost.microusd is not None:
            order = subject.order(name)
            images = len(order.images)
            checked = check_order(order.model, order.operation, {"prompt": order.prompt}, image_count=images)
            # Emulators charge about what the vendors do, so an error in the unit of money is found.
            assert 1 / 3 < cost.microusd / expected_cost_microusd(order.model, checked) < 3


@subjects("progress")
def test_progress_grows(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    sandbox.add_fault(f"latency={LASTS_S}", provider=subject.provider, route="submit", count=1)
    call = started(provider, subject.order(subject.later))
    shares = []
    for _ in range(3):
        sandbox.advance_clock(LASTS_S // 4)
        found = provider.check_many([call])[call.id]
        assert isinstance(found, Running), found
        assert found.progress is not None
        assert 0 < found.progress < 1
        shares.append(found.progress)
    assert shares == sorted(set(shares))
    sandbox.advance_clock(LASTS_S)
    assert ended(provider, call).images
