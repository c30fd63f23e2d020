"""Following a call: only what the upstream says about that call ends it; everything else is a failed look."""

from __future__ import annotations

import pytest

from conformance.orders import CATALOG
from conformance.rounds import bytes_of, call_of, counts, ended, started
from conformance.subjects import LOST, RUBBISH, Subject, every_subject, subjects, subjects_and
from providers.base import Finished, Missing, Provider, Running, UpstreamCancel
from providers.catalog.entries import Recovery
from providers.errors import Failed, NotRun, ProviderError, Uncertain
from sandbox.testing import Sandbox

LASTS_S = 30
STATUSES = ("401", "403", "404", "429", "500", "502", "503")
FAILED_LOOKS = [*STATUSES, *LOST, *RUBBISH, "wrong_type", "wrong_id", "redirect"]


def at_work(subject: Subject, sandbox: Sandbox, provider: Provider, *more: str) -> object:
    sandbox.add_fault(", ".join([f"latency={LASTS_S}", *more]), provider=subject.provider, route="submit", count=1)
    return started(provider, subject.order(subject.later))


@subjects("looked_at")
def test_a_call_is_followed_to_its_end(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    call = at_work(subject, sandbox, provider)
    assert isinstance(provider.check(call), Running)
    assert isinstance(provider.check_many([call])[call.id], Running)
    sandbox.advance_clock(LASTS_S + 1)
    [image] = ended(provider, call).images
    assert bytes_of(provider, image)
    assert counts(sandbox, subject.provider)["accepted"] == 1


@subjects_and("looked_in_vain", "fault", FAILED_LOOKS)
def test_a_failed_look_ends_nothing(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    provider = subject.load(sandbox)
    call = started(provider, subject.order(subject.later))
    sandbox.add_fault(fault, provider=subject.provider, route="check", count=1)
    found = provider.check_many([call])[call.id]
    assert isinstance(found, NotRun | Uncertain), found
    assert len(ended(provider, call).images) >= 1


@subjects_and("looked_in_vain", "fault", ["hang"])
@pytest.mark.usefixtures("hurried")
def test_a_look_takes_no_longer_than_it_may(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    provider = subject.load(sandbox)
    call = started(provider, subject.order(subject.later))
    sandbox.add_fault(fault, provider=subject.provider, route="check", count=1)
    assert isinstance(provider.check_many([call])[call.id], NotRun | Uncertain)


@subjects_and("looked_in_vain", "fault", ["huge=2", "endless"])
@pytest.mark.usefixtures("narrow")
def test_a_look_is_not_read_beyond_its_cap(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    provider = subject.load(sandbox)
    call = started(provider, subject.order(subject.later))
    sandbox.add_fault(fault, provider=subject.provider, route="check", count=1)
    assert isinstance(provider.check_many([call])[call.id], NotRun | Uncertain)


@subjects("unknown_status")
def test_an_unknown_status_means_still_running(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    call = at_work(subject, sandbox, provider, "word=pondering")
    assert isinstance(provider.check_many([call])[call.id], Running)
    sandbox.advance_clock(LASTS_S + 1)
    assert len(ended(provider, call).images) >= 1


@subjects("unknown_call")
def test_a_call_the_upstream_never_had_is_no_failure(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    known = started(provider, subject.order(subject.later))
    sandbox.reset()
    found = provider.check_many([known])[known.id]
    assert isinstance(found, Missing | Running | NotRun | Uncertain), found


@subjects("many_at_once")
def test_each_of_many_calls_gets_its_own_answer(sandbox: Sandbox, subject: Subject) -> None:
    provider, order = subject.load(sandbox), subject.order(subject.later)
    done = started(provider, order, key="call-1.0")
    sandbox.add_fault("fail", provider=subject.provider, route="submit", count=1)
    failed = started(provider, order, key="call-2.0")
    sandbox.add_fault("never", provider=subject.provider, route="submit", count=1)
    running = started(provider, order, key="call-3.0")
    found = provider.check_many([done, failed, running])
    assert found.keys() == {done.id, failed.id, running.id}
    assert isinstance(found[done.id], Finished)
    assert isinstance(found[failed.id], ProviderError)
    assert isinstance(found[running.id], Running)
    assert provider.check_many([]) == {}


@subjects("cancel")
def test_a_call_is_stopped_where_the_upstream_can(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    call = at_work(subject, sandbox, provider) if subject.later else call_of(subject.order())
    before = counts(sandbox, subject.provider)["requests"]
    outcome = provider.cancel(call)
    if CATALOG.providers[subject.provider].cancellable:
        assert outcome is UpstreamCancel.STOPPED
        assert isinstance(provider.check_many([call])[call.id], Failed)
        assert provider.cancel(call) in {UpstreamCancel.STOPPED, UpstreamCancel.TOO_LATE}
    else:
        assert outcome is UpstreamCancel.UNSUPPORTED
        assert counts(sandbox, subject.provider)["requests"] == before


@subjects("cancel")
def test_what_is_over_cannot_be_stopped(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    call = started(provider, subject.order(subject.later)) if subject.later else call_of(subject.order())
    assert provider.cancel(call) in {UpstreamCancel.TOO_LATE, UpstreamCancel.UNSUPPORTED}


@every_subject()
def test_a_call_without_an_id_is_never_called_missing_unless_it_can_be_sent_again(
    sandbox: Sandbox, subject: Subject
) -> None:
    provider = subject.load(sandbox)
    call = call_of(subject.order())
    found = provider.check_many([call])[call.id]
    assert isinstance(found, Missing if CATALOG.providers[subject.provider].recovery is Recovery.RESEND else Uncertain)
