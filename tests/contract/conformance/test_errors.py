"""Every error class, as the adapter raises it for its emulator's answers; no secret in any of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conformance.rounds import KEY, counts, results
from conformance.subjects import BAD_KEY, GOOD_KEY, NO_QUOTA_KEY, Subject, every_subject, subjects, subjects_and
from core.embedded.ports import free_ports
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
)
from providers.shared.retry_after import MAX_RETRY_AFTER_S
from sandbox.testing import Sandbox

# The emulator accepts nothing in these cases, unless it finds out only afterwards.
USUAL = {
    "failed": "fail",
    "request_refused": "400",
    "content_refused": "refuse",
    "rate_limited": "429",
    "rate_limited_told": "429 retry_after=7",
}


def error_of(subject: Subject, sandbox: Sandbox, case: str, *, key: str = GOOD_KEY, **facts: Any) -> ProviderError:
    """How the call ends when the emulator is brought to ``case``; one request exactly."""
    fault = subject.way(case, USUAL.get(case, ""))
    if fault:
        sandbox.add_fault(fault, provider=subject.provider, route="submit")
    provider = subject.load(sandbox, key)
    with pytest.raises(ProviderError) as caught:
        results(provider, subject.order(**facts))
    assert counts(sandbox, subject.provider)["submits"] <= 1
    assert key not in f"{caught.value} {caught.value.detail} {provider!r}"
    assert caught.value.code
    return caught.value


@subjects("failed")
def test_a_failure_is_reported_as_one(sandbox: Sandbox, subject: Subject) -> None:
    error = error_of(subject, sandbox, "failed")
    assert isinstance(error, Failed)
    assert not error.billed


@subjects("request_refused")
def test_an_order_may_be_unacceptable(sandbox: Sandbox, subject: Subject) -> None:
    assert isinstance(error_of(subject, sandbox, "request_refused"), RequestRefused)
    assert counts(sandbox, subject.provider)["accepted"] == 0


@subjects("content_refused")
def test_content_may_be_refused(sandbox: Sandbox, subject: Subject) -> None:
    assert isinstance(error_of(subject, sandbox, "content_refused"), ContentRefused)


@subjects("bad_credentials")
def test_a_wrong_key_is_the_operators(sandbox: Sandbox, subject: Subject) -> None:
    assert isinstance(error_of(subject, sandbox, "bad_credentials", key=BAD_KEY), BadCredentials)
    assert counts(sandbox, subject.provider)["accepted"] == 0


@subjects("out_of_credit")
def test_an_empty_account_is_the_operators(sandbox: Sandbox, subject: Subject) -> None:
    assert isinstance(error_of(subject, sandbox, "out_of_credit", key=NO_QUOTA_KEY), OutOfCredit)
    assert counts(sandbox, subject.provider)["accepted"] == 0


@subjects("unknown_model")
def test_an_unknown_model_is_the_operators(sandbox: Sandbox, subject: Subject) -> None:
    known = subject.order().model
    unknown = f"{known.path}-unknown"
    paths = {name: f"{path}-unknown" for name, path in known.paths.items()}
    gone = known.model_copy(update={"path": unknown, "provider_model": unknown, "paths": paths})
    error = error_of(subject, sandbox, "unknown_model", model=gone)
    assert isinstance(error, Misconfigured)
    assert not isinstance(error, BadCredentials | OutOfCredit)


@subjects("rate_limited")
def test_a_rate_limit_was_not_run(sandbox: Sandbox, subject: Subject) -> None:
    error = error_of(subject, sandbox, "rate_limited")
    assert isinstance(error, NotRun)
    assert error.retry_after_s is None or 0 < error.retry_after_s <= MAX_RETRY_AFTER_S
    assert counts(sandbox, subject.provider)["accepted"] == 0


@subjects("rate_limited_told")
def test_a_rate_limit_says_how_long_to_wait(sandbox: Sandbox, subject: Subject) -> None:
    error = error_of(subject, sandbox, "rate_limited_told")
    assert isinstance(error, NotRun)
    assert error.retry_after_s == 7


@subjects_and("rate_limited_told", "told", ["999999", "-5", "soon", "nan", "0"])
def test_an_absurd_wait_is_not_believed(sandbox: Sandbox, subject: Subject, told: str) -> None:
    sandbox.add_fault(f"429 retry_after={told}", provider=subject.provider, route="submit")
    with pytest.raises(NotRun) as caught:
        subject.load(sandbox).submit(subject.order(), dedupe_key=KEY)
    wait_s = caught.value.retry_after_s
    assert wait_s is None or 0 < wait_s <= MAX_RETRY_AFTER_S


@every_subject()
def test_without_a_connection_nothing_was_run(sandbox: Sandbox, subject: Subject) -> None:
    [port] = free_ports(1)
    provider = subject.load(replace(sandbox, url=f"http://127.0.0.1:{port}"))
    with pytest.raises(NotRun) as caught:
        provider.submit(subject.order(), dedupe_key=KEY)
    assert caught.value.code == "upstream_unreachable"
