"""Following tasks by server-sent events."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from app.api.tasks import checked_id, renderer
from app.http import event_stream
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.services import services
from app.shapes.schemas.events import AccountEvent, EventsQuery, TaskEvent
from app.streams.position import Position, read_position
from core.errors import UnavailableError

bp = Blueprint("events", __name__, url_prefix="/api/images")

_RECORDS = (
    "Each record has `id:` and `event:`; a comment fills every silence of 15 s. After a cut, a client goes on by"
    " Last-Event-ID."
)


@bp.get("/tasks/<job_id>/events")
@describe(
    Endpoint(
        "Follow a task",
        "tasks",
        (
            Answer(200, "What has happened, then what happens.", TaskEvent, (event_stream.MEDIA_TYPE,)),
            Answer(204, "The client has had the end: there is nothing to come, and no reason to connect again."),
        ),
        pace="read",
        errors=("not_found", "invalid_request"),
        query=EventsQuery,
        request_headers=("Last-Event-ID",),
        description=f"Server-sent events, closed after the task's end. {_RECORDS}",
    )
)
def task_events(job_id: str) -> Response:
    asked, account_id = services(), g.caller.account_id
    known, resumes = _known()
    stream = asked.following.task(account_id, checked_id(job_id), known, renderer())
    life = stream.read()
    if resumes and stream.over(life):
        return Response(status=204)
    if request.method == "HEAD":
        return event_stream.answer(())
    _check_running()
    asked.waits.places.take_or_refuse(account_id)
    response = event_stream.answer(stream.chunks())
    response.call_on_close(lambda: asked.waits.places.give_back(account_id))
    return response


@bp.get("/events")
@describe(
    Endpoint(
        "Follow all tasks",
        "tasks",
        (Answer(200, "What happens from now on.", AccountEvent, (event_stream.MEDIA_TYPE,)),),
        pace="read",
        errors=("invalid_request",),
        query=EventsQuery,
        request_headers=("Last-Event-ID",),
        description=f"Server-sent events of every task of the account, new ones too. {_RECORDS} A client that was away"
        " for too long is sent a `snapshot` first.",
    )
)
def account_events() -> Response:
    asked, account_id = services(), g.caller.account_id
    known, resumes = _known()
    if request.method == "HEAD":
        return event_stream.answer(())
    _check_running()
    asked.waits.places.take_or_refuse(account_id)
    try:
        listener = asked.following.listen(account_id)
    except BaseException:
        asked.waits.places.give_back(account_id)
        raise

    def leave() -> None:
        asked.following.leave(listener)
        asked.waits.places.give_back(account_id)

    try:
        response = event_stream.answer(asked.following.account(listener, known, resumes=resumes).chunks())
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def _known() -> tuple[Position | None, bool]:
    """What the client knows already, and whether it says so at all: what it says may be no position of ours."""
    query = read_query(EventsQuery, request.args).last_event_id
    text = request.headers.get("Last-Event-ID") or query
    return (None if text is None else read_position(text.strip())), text is not None


def _check_running() -> None:
    """Raises UnavailableError while the process is about to end."""
    if services().waits.stopping:
        raise UnavailableError("this process is about to end; connect again", retry_after_s=1)
