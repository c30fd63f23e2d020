"""Results behind links: fetched without a key, tried again where that helps, and never bought twice."""

from __future__ import annotations

import pytest

from conformance.rounds import results
from conformance.subjects import GOOD_KEY, Subject, subjects, subjects_and
from providers.base import Provider
from providers.errors import Failed, NotRun, ProviderError, Uncertain
from sandbox.testing import Sandbox

A_LONG_TIME_S = 60 * 86400.0


def link_of(subject: Subject, provider: Provider) -> str:
    url = results(provider, subject.order(subject.later))[0].url
    assert url is not None
    return url


@subjects("link")
def test_a_link_is_fetched_without_a_key(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    url = link_of(subject, provider)
    assert GOOD_KEY not in url
    assert len(provider.download(url)) > 0
    last = sandbox.requests()[-1]
    assert (last["method"], last["status"], last["credentials"]) == ("GET", 200, [])


@subjects_and("link_broken", "fault", ["500", "503", "429", "drop", "drop=reset", "cut", "garbage=empty"])
def test_a_link_that_fails_is_tried_again(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    provider = subject.load(sandbox)
    url = link_of(subject, provider)
    route = subject.way("link_broken", "download")
    sandbox.add_fault(fault, provider=subject.provider, route=route, count=1)
    with pytest.raises((NotRun, Uncertain)):
        provider.download(url)
    assert len(provider.download(url)) > 0


@subjects_and("link_broken", "fault", ["slow_drip=0.2"])
@pytest.mark.usefixtures("hurried")
def test_a_link_takes_no_longer_than_it_may(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    provider = subject.load(sandbox)
    url = link_of(subject, provider)
    sandbox.add_fault(fault, provider=subject.provider, route=subject.way("link_broken", "download"), count=1)
    with pytest.raises((NotRun, Uncertain)):
        provider.download(url)


@subjects_and("link_broken", "fault", ["huge=2", "endless", "gzip_bomb=2"])
@pytest.mark.usefixtures("narrow")
def test_a_link_is_not_read_beyond_its_cap(sandbox: Sandbox, subject: Subject, fault: str) -> None:
    provider = subject.load(sandbox)
    url = link_of(subject, provider)
    sandbox.add_fault(fault, provider=subject.provider, route=subject.way("link_broken", "download"), count=1)
    with pytest.raises(ProviderError):
        provider.download(url)


@subjects("link_expired")
def test_a_dead_link_is_the_end_of_a_call_that_was_paid_for(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    url = link_of(subject, provider)
    if dead := subject.way("link_expired", ""):
        sandbox.add_fault(dead, provider=subject.provider, route="download")
    sandbox.advance_clock(A_LONG_TIME_S)
    with pytest.raises(Failed) as caught:
        provider.download(url)
    assert (caught.value.code, caught.value.retryable, caught.value.billed) == ("result_gone", False, True)


@subjects("link_expired")
def test_a_link_with_credentials_or_to_a_private_place_is_not_followed(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    for url in (
        "http://169.254.169.254/latest",
        "https://user:pass@example.com/a.png",
        "file:///etc/passwd",
        "http://[::1]:9/a",
    ):
        with pytest.raises(Failed) as caught:
            provider.download(url)
        assert caught.value.code == "result_url_refused"
