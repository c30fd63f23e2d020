"""The table of subjects is complete and true, and each adapter is what it says of itself."""

from __future__ import annotations

import itertools

import pytest

from conformance import gaps
from conformance.orders import CATALOG
from conformance.subjects import BAD_KEY, CASES, GOOD_KEY, SUBJECTS, Subject, every_subject, subjects
from providers import configured, registry
from providers.base import Provider
from providers.catalog.entries import Model
from providers.errors import BadCredentials, Misconfigured
from sandbox.testing import Sandbox


def test_every_adapter_has_a_subject() -> None:
    assert {subject.provider for subject in SUBJECTS} == {adapter.name for adapter in registry.ADAPTERS}
    assert len({subject.name for subject in SUBJECTS}) == len(SUBJECTS)


@every_subject()
def test_what_does_not_apply_is_a_known_case_with_a_reason(subject: Subject) -> None:
    assert {case.partition(" ")[0] for case in (*subject.gaps, *subject.ways)} <= CASES.keys()
    assert all(len(reason) > 10 for reason in subject.gaps.values())
    assert not subject.gaps.keys() & subject.ways.keys()


def _can_edit(model: Model) -> bool:
    return "edit" in model.operations


@every_subject()
def test_no_gap_hides_what_the_catalogue_offers(subject: Subject) -> None:
    models, gaps = subject.models(), subject.meaningless()
    assert ("several" in gaps) == all(model.max_per_call == 1 for model in models)
    assert ("edit" in gaps) == (not any(_can_edit(model) for model in models))
    assert ("mask" in gaps) == all(model.inputs.mask == "none" for model in models)
    chosen = {subject.plain, subject.edit, subject.mask, subject.several, subject.later} - {None}
    assert chosen <= {model.id for model in models}


def test_every_case_applies_to_a_subject() -> None:
    for case in CASES:
        assert any(case not in subject.meaningless() for subject in SUBJECTS), case


@every_subject()
def test_each_gap_of_each_subject_is_listed_with_its_reason(subject: Subject) -> None:
    _, _, own = f"\n{gaps.listing()}".partition(f"\n{subject.name}: ")
    count, *lines = own.splitlines()
    listed = {
        case: reason
        for line in itertools.takewhile(lambda line: line.startswith("  "), lines)
        for cases, _, reason in [line.strip().partition(": ")]
        for case in cases.split(", ")
    }
    assert listed == subject.meaningless()
    assert int(count) == len(listed)


@every_subject()
def test_an_adapter_is_what_the_catalogue_says_of_it(sandbox: Sandbox, subject: Subject) -> None:
    spec, provider = CATALOG.providers[subject.provider], subject.load(sandbox)
    assert provider.name == subject.provider
    assert provider.credential_id == f"{subject.provider}/default"
    assert provider.base_url.startswith(sandbox.url)
    assert 0 < provider.submit_timeout_s <= spec.deadline_s
    methods = [name for name, value in vars(Provider).items() if callable(value) and not name.startswith("_")]
    assert all(callable(getattr(provider, name)) for name in methods)


@every_subject()
def test_its_variables_configure_it_and_nothing_else(sandbox: Sandbox, subject: Subject) -> None:
    env = subject.environment(sandbox)
    assert configured.configured_names(env) == (subject.provider,)
    assert registry.load(env).configured() == [subject.provider]
    assert registry.load({}).configured() == []


@every_subject()
def test_nothing_it_shows_of_itself_contains_the_key(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    assert GOOD_KEY not in repr(provider) + repr(vars(provider))


@subjects("second_account")
def test_a_second_key_is_a_provider_of_its_own(sandbox: Sandbox, subject: Subject) -> None:
    env = subject.environment(sandbox)
    second = subject.environment(sandbox, BAD_KEY)
    numbered = {f"{name}_2": value for name, value in second.items()}
    first, other = registry.load({**env, **numbered}).of(subject.provider)
    assert (first.credential_id, other.credential_id) == (f"{subject.provider}/default", f"{subject.provider}/2")
    first.submit(subject.order(), dedupe_key="call-1.0")
    with pytest.raises(BadCredentials):
        other.submit(subject.order(), dedupe_key="call-2.0")


@every_subject()
def test_text_comes_where_the_catalogue_says_so(sandbox: Sandbox, subject: Subject) -> None:
    provider = subject.load(sandbox)
    messages = [{"role": "user", "content": "a kite"}]
    spec = CATALOG.providers[subject.provider]
    if spec.text:
        assert "kite" in "".join(provider.stream_text(messages, temperature=1.0))
        asked_model = sandbox.requests(subject.provider)[-1]["fields"]["model"]
        assert asked_model == configured.prompt_model(spec, subject.environment(sandbox))
    else:
        with pytest.raises(Misconfigured):
            list(provider.stream_text(messages, temperature=1.0))
