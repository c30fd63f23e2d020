"""What an adapter gets to know of a call."""

from __future__ import annotations

from datetime import UTC, datetime

from jobs.execution.apply import call_ref
from jobs.execution.decide import Call
from jobs.reads.worker import OpenCall
from jobs.states import Outcome
from providers.base import CallRef


def test_an_adapter_knows_when_its_call_went_out_and_where_to_look() -> None:
    at, facts = datetime(2026, 11, 20, tzinfo=UTC), Call("call-1", 0, 1, 1, Outcome.ACCEPTED, model="flux-2-pro")
    call = OpenCall(
        id="call-1",
        facts=facts,
        credential_id="flux/default",
        dedupe_key="key-1",
        upstream_id="task-1",
        poll_url="https://api.eu2.bfl.ai/v1/get_result?id=task-1",
        overdue=False,
        age_s=1.0,
        intended_at=at,
        cancel_asked=False,
        missing=False,
        result=(),
    )
    assert call_ref(call, "another") == CallRef(
        "call-1", "key-1", "flux-2-pro", "task-1", "https://api.eu2.bfl.ai/v1/get_result?id=task-1", at, 1.0
    )
