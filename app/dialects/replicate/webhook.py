"""The callback of a prediction: the object of the prediction itself, signed by the rules of Standard Webhooks.

Pure, and without Flask: the process that sends callbacks is no web process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.dialects.replicate.prediction import Links, prediction
from core.wire import json_text
from jobs.reads.tasks import Task
from jobs.submission.order import JobWebhook
from webhooks import forms, standard

NAME = "replicate"
# The events of a job for each word of webhook_events_filter. All output comes with the end.
_EVENTS: Mapping[str, Sequence[str]] = {
    "start": (forms.STARTED,),
    "output": (forms.SUCCEEDED,),
    "logs": (forms.PROGRESS,),
    "completed": forms.ENDS,
}
DEFAULT_FILTER = ("output", "completed")


def webhook_of(url: str | None, events_filter: Sequence[str] | None) -> JobWebhook | None:
    """What an order asks for with ``webhook`` and ``webhook_events_filter``; None for no callback at all."""
    if url is None:
        return None
    wanted = {event for word in (DEFAULT_FILTER if events_filter is None else events_filter) for event in _EVENTS[word]}
    events = [event for event in forms.EVENTS if event in wanted]
    return JobWebhook(url, events, NAME, field_name="webhook") if events else None


def body(task: Task, event: str, links: forms.Links) -> bytes:  # noqa: ARG001 (the status of the prediction says it)
    """The prediction as it is now. Its links need no key; a stream is for who waits, and has none here."""
    own = Links(links.base, lambda index: links.image(task.account_id, task.id, index))
    return json_text(prediction(task, None, own)).encode()


headers = standard.headers
