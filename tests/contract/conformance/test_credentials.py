"""Keys stay with their host: a second sandbox, on another port, reports what reached it."""

from __future__ import annotations

from contextlib import suppress

import pytest

from conformance.rounds import bytes_of, results, started
from conformance.subjects import GOOD_KEY, SUBJECTS, Subject, subjects, subjects_and
from providers.errors import Failed, ProviderError
from sandbox.testing import Sandbox


def reached(elsewhere: Sandbox) -> list[dict[str, object]]:
    """What the other host was asked, after checking that no key was in it."""
    asked = elsewhere.requests()
    assert [each["credentials"] for each in asked] == [[] for _ in asked]
    assert GOOD_KEY not in repr(asked)
    return asked


def test_the_other_host_would_notice(elsewhere: Sandbox, sandbox: Sandbox) -> None:
    for subject in SUBJECTS:
        elsewhere.reset()
        with suppress(ProviderError):
            subject.load(elsewhere).submit(subject.order(), dedupe_key="call-1.0")
        assert any(asked["credentials"] for asked in elsewhere.requests()), subject.name


@subjects("key_on_links")
def test_a_link_to_another_host_is_fetched_without_the_key(
    sandbox: Sandbox, elsewhere: Sandbox, subject: Subject
) -> None:
    provider = subject.load(sandbox, RESULT_ORIGINS=elsewhere.url)
    route = "check" if subject.later else "submit"
    sandbox.add_fault(f"link_host={elsewhere.url}", provider=subject.provider, route=route)
    images = results(provider, subject.order(subject.later))
    with pytest.raises(Failed) as caught:  # the other host never made it
        bytes_of(provider, images[0])
    assert caught.value.code == "result_gone"
    assert len(reached(elsewhere)) == 1


# The path of a link to a host that may not be asked is asked for at the configured address.
SERVES_ITS_FILES = frozenset({"chatgpt2api"})


@subjects("key_on_links")
def test_a_link_to_an_untrusted_host_is_not_followed(sandbox: Sandbox, elsewhere: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    route = "check" if subject.later else "submit"
    sandbox.add_fault(f"link_host={elsewhere.url}", provider=subject.provider, route=route)
    images = results(provider, subject.order(subject.later))
    if subject.provider in SERVES_ITS_FILES:
        assert bytes_of(provider, images[0])
    else:
        with pytest.raises(Failed) as caught:
            bytes_of(provider, images[0])
        assert caught.value.code == "result_url_refused"
    assert reached(elsewhere) == []


@subjects("key_on_polls")
def test_a_call_on_another_host_is_looked_at_without_the_key(
    sandbox: Sandbox, elsewhere: Sandbox, subject: Subject
) -> None:
    sandbox.add_fault(f"link_host={elsewhere.url}", provider=subject.provider, route="submit")
    for more in ({}, {"RESULT_ORIGINS": elsewhere.url}):
        provider = subject.load(sandbox, **more)
        call = started(provider, subject.order(subject.later))
        provider.check_many([call])
        with suppress(ProviderError):
            provider.cancel(call)
        asked = reached(elsewhere)
        is_followed = call.poll_url is not None and call.poll_url.startswith(elsewhere.url)
        assert len(asked) == (1 if is_followed and more else 0)


@subjects_and("key_on_redirects", "place", ["submit", "check", "download"])
def test_a_redirect_carries_no_key(sandbox: Sandbox, elsewhere: Sandbox, subject: Subject, place: str) -> None:
    sandbox.add_fault(f"redirect={elsewhere.url}/some/where.png", provider=subject.provider, route=place)
    provider = subject.load(sandbox, RESULT_ORIGINS=elsewhere.url)
    with suppress(ProviderError):
        for image in results(provider, subject.order(subject.later)):
            bytes_of(provider, image)
    reached(elsewhere)
