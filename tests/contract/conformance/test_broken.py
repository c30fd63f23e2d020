"""A paid request whose answer is lost, broken, late or too large: it may have run, so it is Uncertain."""

from __future__ import annotations

import pytest

from conformance.rounds import KEY, counts
from conformance.subjects import LOST, RUBBISH, Subject, subjects, subjects_and
from providers.errors import Misconfigured, ProviderError, Uncertain
from sandbox.testing import Sandbox

BROKEN = [*LOST, *RUBBISH, "wrong_type"]


def submit_under(subject: Subject, sandbox: Sandbox, fault: str) -> ProviderError:
    """The error of one submit; the upstream accepted the order, once."""
    sandbox.add_fault(fault, provider=subject.provider, route="submit")
    with pytest.raises(ProviderError) as caught:
        subject.load(sandbox).submit(subject.order(), dedupe_key=KEY)
    tally = counts(sandbox, subject.provider)
    assert (tally["submits"], tally["accepted"]) == (1, 1)
    return caught.value


@subjects_and("broken_answer", "fault", BROKEN)
def test_a_broken_answer_proves_nothing(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    assert isinstance(submit_under(subject, sandbox, fault), Uncertain)


@subjects_and("too_slow", "fault", ["hang", "slow_drip=0.2"])
@pytest.mark.usefixtures("hurried")
def test_a_late_answer_proves_nothing(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    error = submit_under(subject, sandbox, fault)
    assert isinstance(error, Uncertain)
    assert error.code == "upstream_no_answer"


@subjects_and("too_large", "fault", ["huge=2", "endless", "gzip_bomb=2"])
@pytest.mark.usefixtures("narrow")
def test_an_answer_is_not_read_beyond_its_cap(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    assert isinstance(submit_under(subject, sandbox, fault), Uncertain)


@subjects("redirected")
def test_a_paid_request_follows_no_redirect(sandbox: Sandbox, elsewhere: Sandbox, subject: Subject) -> None:
    error = submit_under(subject, sandbox, f"redirect={elsewhere.url}/somewhere")
    assert isinstance(error, Uncertain | Misconfigured)
    assert elsewhere.requests() == []


@subjects("drop_after_accept")
def test_what_was_dropped_is_never_sent_again_by_itself(sandbox: Sandbox, subject: Subject) -> None:
    assert isinstance(submit_under(subject, sandbox, "drop"), Uncertain)
    assert len([asked for asked in sandbox.requests(subject.provider) if asked["method"] == "POST"]) == 1
