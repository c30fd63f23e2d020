"""Callbacks of predictions: which events, which body, and a signature that Replicate's own packages accept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from replicate.webhook import Webhooks, WebhookSigningSecret

from app.dialects.replicate import webhook
from tests.unit.app_doubles import done_task, make_task
from tests.unit.test_replicate_predictions import CLIENT
from webhooks import forms
from webhooks.forms import Message

SECRET = "whsec_" + "dGVzdC1zZWNyZXQtb2YtMzItYnl0ZXMtZXhhY3RseSE="


class Links:
    base = "https://darkroom.example"

    def image(self, account_id: str, job_id: str, index: int) -> str:
        return f"{self.base}/{account_id}/{job_id}/{index}"


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (None, forms.ENDS),
        ([], None),
        (["start"], (forms.STARTED,)),
        (["logs"], (forms.PROGRESS,)),
        (["output"], (forms.SUCCEEDED,)),
        (["completed", "start", "output", "logs"], (forms.STARTED, forms.PROGRESS, *forms.ENDS)),
    ],
)
def test_the_filter_as_events_of_a_job(words: list[str] | None, events: tuple[str, ...] | None) -> None:
    asked = webhook.webhook_of("https://receiver.example", words)
    assert (tuple(asked.events) if asked else None) == events


def test_the_body_is_the_prediction_with_links_that_need_no_key() -> None:
    task = done_task(1, client={**CLIENT, "webhook": "https://receiver.example"})
    body = json.loads(webhook.body(task, forms.SUCCEEDED, Links()))
    assert body["output"] == [f"https://darkroom.example/acct_a/{task.id}/0"]
    assert (body["status"], body["model"], body["logs"]) == (
        "succeeded",
        "black-forest-labs/flux-schnell",
        "input.x was left out\n",
    )
    assert body["urls"]["get"] == f"https://darkroom.example/v1/predictions/{task.id}"
    assert (body["webhook"], body["webhook_events_filter"]) == ("https://receiver.example", ["output", "completed"])
    assert json.loads(webhook.body(make_task(2), forms.STARTED, Links()))["status"] == "starting"


def test_replicate_accepts_the_signature() -> None:
    body = webhook.body(done_task(1, client=CLIENT), forms.SUCCEEDED, Links())
    message = Message("msg_1", 1_795_000_000, "acct_a", "job_1", body, [SECRET], b"")
    headers: Any = dict(webhook.headers(message))
    secret = WebhookSigningSecret(key=SECRET)
    Webhooks.validate(headers=headers, body=body.decode(), secret=secret)
    with pytest.raises(ValueError, match="signature"):
        Webhooks.validate(headers=headers, body=body.decode() + " ", secret=secret)
