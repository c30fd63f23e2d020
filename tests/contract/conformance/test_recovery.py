"""After Uncertain, by recovery: sent again and bought once, found again, or never sent again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from conformance.orders import CATALOG
from conformance.rounds import KEY, bytes_of, call_of, counts, ended, results, started
from conformance.subjects import Subject, every_subject, subjects
from providers.base import Accepted, Missing, Provider, UpstreamOrder
from providers.catalog.entries import Recovery
from providers.errors import Uncertain
from sandbox.testing import Sandbox

MINUTE = timedelta(minutes=1)


def lose(subject: Subject, sandbox: Sandbox, provider: Provider, order: UpstreamOrder) -> datetime:
    """Let the upstream accept the order and drop its answer; returns the time to search from."""
    since = datetime.now(UTC) - MINUTE
    sandbox.add_fault("drop", provider=subject.provider, route="submit", count=1)
    with pytest.raises(Uncertain):
        provider.submit(order, dedupe_key=KEY)
    return since


@subjects("repeated")
def test_the_same_key_buys_nothing_twice(sandbox: Sandbox, subject: Subject) -> None:
    provider, order = subject.load(sandbox), subject.order()
    lose(subject, sandbox, provider, order)
    [again] = results(provider, order)
    assert bytes_of(provider, again)
    tally = counts(sandbox, subject.provider)
    assert (tally["submits"], tally["accepted"]) == (2, 1)


@subjects("repeated")
def test_a_call_that_never_arrived_is_missing(sandbox: Sandbox, subject: Subject) -> None:
    never_sent = call_of(subject.order())
    assert subject.load(sandbox).check_many([never_sent]) == {never_sent.id: Missing()}


@subjects("searched")
def test_a_lost_call_is_found_by_what_it_asked_for(sandbox: Sandbox, subject: Subject) -> None:
    provider, order = subject.load(sandbox), subject.order(prompt="a kite that was lost")
    since = lose(subject, sandbox, provider, order)
    started(provider, subject.order(prompt="another kite"), key="call-2.0")
    [found] = provider.lookup(call_of(order), since, order)
    [image] = ended(provider, call_of(order, found)).images
    assert bytes_of(provider, image)
    assert counts(sandbox, subject.provider)["accepted"] == 2


@subjects("searched")
def test_all_that_look_alike_are_returned(sandbox: Sandbox, subject: Subject) -> None:
    provider, order = subject.load(sandbox), subject.order(prompt="a common kite")
    since = lose(subject, sandbox, provider, order)
    emulator = started(provider, order, key="call-2.0")
    found = provider.lookup(call_of(order), since, order)
    assert len(found) == 2
    assert emulator.upstream_id in {each.upstream_id for each in found}


@subjects("searched")
def test_nothing_is_found_where_nothing_was_taken(sandbox: Sandbox, subject: Subject) -> None:
    order = subject.order(prompt="a kite that no one saw")
    assert subject.load(sandbox).lookup(call_of(order), datetime.now(UTC) - MINUTE, order) == []


@every_subject()
def test_only_what_can_be_searched_is_searched(sandbox: Sandbox, subject: Subject) -> None:
    provider, order = subject.load(sandbox), subject.order()
    found = provider.lookup(call_of(order), datetime.now(UTC), order)
    assert all(isinstance(each, Accepted) for each in found)
    if CATALOG.providers[subject.provider].recovery is not Recovery.SEARCH:
        assert found == []
        assert counts(sandbox, subject.provider)["requests"] == 0
