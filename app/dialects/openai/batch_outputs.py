"""The files of a batch's results: written while they are sent, since they would hold every image a second time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.dialects.openai import answers, failures
from app.dialects.openai.errors import say
from app.dialects.openai.orders import ResponseFormat
from app.http.errors import document
from app.http.held import BrokenOff
from app.services import Services
from app.shapes.batch_json import problem_of
from core.errors import UnavailableError
from core.wire import json_text
from jobs.errors import ImageGoneError
from jobs.reads import batches, tasks
from jobs.reads.batches import Batch, Line
from jobs.reads.files import LinesFile
from jobs.reads.tasks import Task
from storage.base import StorageUnavailableError

PAGE = 100
_STOPPED = ("batch_cancelled", "batch_expired")


def pieces(service: Services, file: LinesFile, base: str) -> Iterator[bytes]:
    """The file, in pieces. ``base``: the public address before our paths, for images that are answered as links.

    Raises BrokenOff where the database or the store goes away meanwhile.
    """
    try:
        batch = service.connections.autocommit(batches.find_batch, file.account_id, file.batch_id or "")
        first = 0
        while page := service.connections.autocommit(batches.lines_page, batch.id, first=first, limit=PAGE):
            first = page[-1].line + 1
            yield from _of_page(service, batch, [each for each in page if _is_in(file, each)], base)
    except (UnavailableError, StorageUnavailableError):
        raise BrokenOff from None


def _is_in(file: LinesFile, line: Line) -> bool:
    return (line.outcome == "succeeded") == (file.kind == "output")


def _of_page(service: Services, batch: Batch, lines: list[Line], base: str) -> Iterator[bytes]:
    wanted = [(batch.account_id, line.job_id) for line in lines if line.job_id]
    found = service.connections.autocommit(tasks.find_tasks, wanted)
    for line in lines:
        task = found.get((batch.account_id, line.job_id or ""))
        if task is not None and line.outcome == "succeeded":
            yield from _made(service, batch, line, task, base)
        else:
            yield _written(batch, line, *_refused(batch, line, task))


def _made(service: Services, batch: Batch, line: Line, task: Task, base: str) -> Iterator[bytes]:
    wanted: ResponseFormat = "url" if task.client.get("response_format") == "url" else "b64_json"
    try:
        body = answers.answer(service, task, wanted, base)
    except ImageGoneError as error:
        gone = document("image_gone", error.detail, instance="", request_id=task.id)
        yield _written(batch, line, _response(410, task.id, say(gone).body), None)
        return
    head = _head(batch, line) + f',"response":{{"status_code":200,"request_id":{json_text(task.id)},"body":'
    yield from body.within(head.encode(), b'},"error":null}\n').pieces()


def _refused(batch: Batch, line: Line, task: Task | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The response and the error of a line that made nothing: one of the two is there."""
    if line.error is not None:
        if line.error["code"] in _STOPPED:
            return None, {"code": line.error["code"], "message": line.error["detail"]}
        said = say(problem_of(line.error, batch))
        return _response(said.status, batch.request_id, said.body), None
    if task is None or not task.ended:
        return None, {"code": "internal_error", "message": "the task of this line is gone"}
    if task.status == "cancelled" and batch.stop_code is not None:
        return None, {"code": batch.stop_code, "message": "the batch was stopped before this line was done"}
    said = failures.say(task)
    return _response(said.status, task.id, said.body), None


def _response(status: int, request_id: str, body: Any) -> dict[str, Any]:
    return {"status_code": status, "request_id": request_id, "body": body}


def _written(batch: Batch, line: Line, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    return f'{_head(batch, line)},"response":{json_text(response)},"error":{json_text(error)}}}\n'.encode()


def _head(batch: Batch, line: Line) -> str:
    name = f"batch_req_{batch.id.partition('_')[2]}_{line.line}"
    return f'{{"id":{json_text(name)},"custom_id":{json_text(line.custom_id)}'
