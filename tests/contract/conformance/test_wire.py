"""What reaches the emulator, for every live model: nothing the caller left out, everything the caller set.

The emulators are written from each CONTRACT.md and refuse what it does not have, so an accepted body is a correct one.
"""

from __future__ import annotations

import pytest

from conformance.orders import bare, filled, wire_sizes
from conformance.rounds import KEY, bytes_of, counts, paid_request, results, wire_fields
from conformance.subjects import Subject, every_model, every_subject, subjects
from providers.base import UpstreamOrder
from providers.catalog.entries import Model
from providers.errors import RequestRefused
from providers.shared.extra import reserved_extra
from sandbox.testing import Sandbox


def needed_fields(subject: Subject, order: UpstreamOrder) -> set[str]:
    """The wire fields that a bare order may have, by the catalogue."""
    model, inputs = order.model, order.model.inputs
    named = {*subject.envelope, *model.constants, *wire_sizes(order), inputs.prompt_field or "prompt"}
    if order.images or order.face:
        named |= {*inputs.image_fields, "image", "image[]"}
    if order.mask:
        named.add(inputs.mask_field or "mask")
    return named | {spec.field or name for name, spec in model.params.items() if name in order.params}


def _is_within(name: str, fields: set[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in fields)


@every_model()
def test_a_bare_order_is_made_and_sends_nothing_the_caller_left_out(
    sandbox: Sandbox, subject: Subject, model: Model
) -> None:
    provider = subject.load(sandbox)
    for operation in sorted(model.operations):
        order = bare(model, operation)
        images = results(provider, order, key=f"call-{operation}")
        assert [len(bytes_of(provider, image)) > 0 for image in images] == [True]
        asked = paid_request(sandbox, subject.provider)
        sent = {name.removeprefix(subject.inside) for name in wire_fields(asked)}
        sent |= {f"?{name}" for name in asked["query"]}
        assert {name for name in sent if not _is_within(name, needed_fields(subject, order))} == set()


def _is_gap(subject: Subject, order: UpstreamOrder) -> bool:
    about = f"filled {order.model.id} {order.operation}"
    return any(f"{about} {name}={value}" in subject.gaps for name, value in order.params.items())


@every_model()
def test_every_setting_reaches_the_upstream_in_its_own_words(sandbox: Sandbox, subject: Subject, model: Model) -> None:
    provider = subject.load(sandbox)
    submits = 0
    for operation in sorted(model.operations):
        for order in filled(model, operation):
            if _is_gap(subject, order):
                continue
            submits += 1
            provider.submit(order, dedupe_key=f"call-{submits}")
    assert counts(sandbox, subject.provider)["accepted"] == submits


@subjects("unknown_field")
def test_a_field_that_the_contract_does_not_have_is_refused(sandbox: Sandbox, subject: Subject) -> None:
    with pytest.raises(RequestRefused):
        results(subject.load(sandbox), subject.order(extra={"shadow_field": "long"}))
    assert counts(sandbox, subject.provider)["accepted"] == 0


@every_subject()
def test_no_extra_field_changes_what_is_bought(sandbox: Sandbox, subject: Subject) -> None:
    order = subject.order()
    provider = subject.load(sandbox)
    for name in sorted(reserved_extra(order.model)):
        with pytest.raises(RequestRefused) as caught:
            provider.submit(subject.order(extra={name: 4}), dedupe_key=KEY)
        assert caught.value.code == "extra_not_allowed"
    assert counts(sandbox, subject.provider)["requests"] == 0
