"""``stream: true``: server-sent events that end with the complete images.

No upstream of ours sends an image before it is complete, so there are no partial ones. Until the end come comments,
which every client ignores and which keep proxies from cutting the connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Response

from app.accepting import note_answer
from app.dialects.openai import answers, failures
from app.dialects.openai.calls import Call
from app.dialects.openai.usage import usage_of
from app.dialects.openai.waiting import STILL_RUNNING, cancel_when_left, finished, of_error, with_headers
from app.http import event_stream
from core.errors import ServiceError
from core.wire import json_text
from jobs.reads.tasks import Image, Task
from storage.base import StorageUnavailableError

_KINDS = {"generations": "image_generation", "edits": "image_edit", "variations": "image_generation"}


def answer(call: Call) -> Response:
    """The events of a task from now to its end. A task that has failed already is answered by its true status."""
    if call.task.ended and call.task.status != "succeeded":
        response = finished(call, call.task)
    else:
        response = event_stream.answer(_events(call))
    with_headers(response, call, call.task)
    note_answer(call.service, response, call.key, call.task.id)
    cancel_when_left(response, call)
    return response


def _events(call: Call) -> Iterator[bytes]:
    yield event_stream.comment(call.task.id)
    task, ends_at = call.task, time.monotonic() + call.hold.most_s
    while not task.ended and time.monotonic() < ends_at:
        task = call.until_end(min(call.hold.beat_s, ends_at - time.monotonic()))
        if not task.ended:
            if call.has_left():
                return
            yield event_stream.comment("working")
    yield from _end(call, task)


def _end(call: Call, task: Task) -> Iterator[bytes]:
    if task.status == "succeeded":
        try:
            yield from _completed(call, task)
        except (ServiceError, StorageUnavailableError) as error:
            yield _failed(of_error(call, error))
    elif task.ended:
        yield _failed(failures.document(task))
    else:
        words = STILL_RUNNING.format(url=f"{call.base}/v1/images/tasks/{task.id}")
        late = {"message": words, "type": "server_error", "param": None, "code": "request_timeout"}
        yield _failed({"error": late, "id": task.id})


def _failed(document: dict[str, Any]) -> bytes:
    return event_stream.record(document, event="error")


def _completed(call: Call, task: Task) -> Iterator[bytes]:
    """An event for each image; the tokens of all of them stand in the last."""
    made = answers.find(call.service, task)
    kind = f"{_KINDS[call.route]}.completed"
    for at, image in enumerate(task.images):
        last = at == len(task.images) - 1
        usage = usage_of(made.usages) if last else None
        facts = {**_facts(task, image), "usage": usage, **(answers.ours(task, call.base) if last else {})}
        with answers.opened(call.service, image) as file:
            yield f'event: {kind}\ndata: {{"type":"{kind}","b64_json":"'.encode()
            yield from answers.base64_of(file)
            yield f'",{json_text(facts)[1:]}\n\n'.encode()


def _facts(task: Task, image: Image) -> dict[str, Any]:
    """What an event has to say of its image; ``auto`` where it was left to the model."""
    known = {"quality": "auto", "background": "auto", **answers.facts_of(task)}
    size = f"{image.width_px}x{image.height_px}" if image.width_px else "auto"
    output_format = answers.FORMATS.get(image.mime, "png")
    return {**known, "created_at": answers.created_of(task), "size": size, "output_format": output_format}
