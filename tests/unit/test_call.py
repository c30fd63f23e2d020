"""What an adapter knows about a call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from jobs.call import Call
from jobs.reads.worker import live_job
from jobs.states import Outcome
from providers.base import CallRef

AT = datetime(2026, 11, 20, tzinfo=UTC)
LINK = "https://api.eu2.bfl.ai/v1/get_result?id=task-1"


def test_an_adapter_gets_the_start_time_and_poll_url_of_its_call() -> None:
    row = SimpleNamespace(
        id="job_1",
        account_id="acc_1",
        operation="generate",
        model="another",
        provider="flux",
        n=2,
        status="waiting",
        fence=1,
        version=3,
        fallbacks=0,
        cancel_requested=False,
        origin=["", None],
        safe_prompt=None,
        prompt_adjusted_at=None,
        now=AT + timedelta(seconds=1),
        calls=[
            {
                "id": "call-1",
                "slot": 1,
                "try": 2,
                "pictures": 1,
                "outcome": "accepted",
                "pictures_kept": 0,
                "error_code": None,
                "retryable": None,
                "charged": False,
                "retry_after_s": None,
                "model": "flux-2-pro",
                "credential_id": "flux/default",
                "dedupe_key": "key-1",
                "upstream_id": "task-1",
                "poll_url": LINK,
                "give_up_at": AT.isoformat(),
                "intended_at": AT.isoformat(),
                "cancel_asked": False,
                "missing": False,
                "result": None,
            }
        ],
    )
    [call] = live_job(row).calls
    assert isinstance(call, CallRef)
    assert call == Call(
        "call-1",
        "key-1",
        "flux-2-pro",
        "task-1",
        LINK,
        AT,
        1.0,
        slot=1,
        attempt=2,
        image_count=1,
        credential_id="flux/default",
        outcome=Outcome.ACCEPTED,
        overdue=True,
    )
    assert (list(call.slots), call.is_open, call.is_older_than(0.5)) == ([1], True, True)
