"""Replicate under ``/replicate``: predictions by model, version or deployment, files, models, webhooks.

Speaks providers/upstreams/replicate/CONTRACT.md (spec of 2026-04-09, read 2026-11-20); stricter than the real service
where that ignores what it does not know.
"""

import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox.drawing.images import CONTENT_TYPES, NotAnImage
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.replicate import account, errors, models
from sandbox.emulators.replicate.caller import (
    CALLS,
    NAME,
    PREFIX,
    base_url,
    key_of_caller,
    owner_of_caller,
    root_url,
    store,
)
from sandbox.emulators.replicate.errors import Problem
from sandbox.emulators.replicate.models import Model
from sandbox.emulators.replicate.predictions import Asked, Prediction, describe, seconds_in
from sandbox.emulators.replicate.store import ReplicateStore
from sandbox.plumbing.calls import json_answer, new_blueprint
from sandbox.plumbing.tasks import Ending
from sandbox.state import current_state

PAGE = 100
WAIT_S = 60
_PREFER = re.compile(r"wait(?:=([1-9]|[1-5][0-9]|60))?")
_LIST_QUERY = frozenset({"created_after", "created_before", "source", "cursor"})

bp = new_blueprint(NAME, bad_marker=lambda text: Problem(400, text))
bp.register_blueprint(account.bp)


@bp.after_request
def house_headers(answer: Response) -> Response:
    """How much of the minute's requests is left: 600 creates, 3000 of all else."""
    creates = request.method == "POST" and request.path.endswith("/predictions")
    answer.headers.setdefault("ratelimit-remaining", "599" if creates else "2999")
    answer.headers.setdefault("ratelimit-reset", "1")
    return answer


# ---------------------------------------------------------------- create


@bp.post("/v1/predictions")
def create_by_version() -> Response:
    """Any model, by a version; official ones also by their name."""
    key, body = key_of_caller(), _body(by_version=True)
    model = models.version_of(body["version"])
    if model is None:
        raise Problem(422)
    return _create(model, body, key)


@bp.post("/v1/models/<owner>/<name>/predictions")
def create_by_model(owner: str, name: str) -> Response:
    """Official models alone."""
    key, model = key_of_caller(), models.model_of(f"{owner}/{name}")
    if model is None or not model.is_official:
        raise Problem(404)
    return _create(model, _body(by_version=False), key)


@bp.post("/v1/deployments/<owner>/<name>/predictions")
def create_on_deployment(owner: str, name: str) -> Response:
    """A model on hardware of one's own."""
    key, model = key_of_caller(), models.model_of(models.DEPLOYMENTS.get(f"{owner}/{name}", ""))
    if model is None:
        raise Problem(404)
    return _create(model, _body(by_version=False), key)


def _body(*, by_version: bool) -> dict[str, Any]:
    """The JSON object of a create; its top level is closed."""
    if request.mimetype != "application/json":
        raise Problem(400, "Content-Type must be application/json")
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise Problem(400, "Malformed JSON")
    given = {name: value for name, value in document.items() if value is not None or not name.startswith("webhook")}
    models.check_body(given, by_version=by_version)
    return given


def _create(model: Model, body: dict[str, Any], key: str) -> Response:
    asked, wait_s = _asked(model, body), _wait_s()
    CALLS.count_submit(asked.prompt)
    if key in (keys.NO_ORG_KEY, keys.NO_QUOTA_KEY):
        raise Problem(403 if key == keys.NO_ORG_KEY else 402)
    # No prompt is refused here: what is refused becomes a prediction that fails.
    call = CALLS.begin("submit", asked.prompt, takes_refused=True)
    made = store().make(asked, call.outcome(), owner=keys.owner_of(key), root_url=root_url())
    call.count_accepted()
    return call.answer(_created(made, wait_s))


def _asked(model: Model, body: dict[str, Any]) -> Asked:
    models.check_input(model, body["input"])
    cancel_after = request.headers.get("Cancel-After")
    return Asked(
        model,
        body["input"],
        body.get("webhook"),
        tuple(body.get("webhook_events_filter", ())),
        None if cancel_after is None else seconds_in(cancel_after),
    )


def _wait_s() -> int | None:
    asked = request.headers.get("Prefer")
    if asked is None:
        return None
    found = _PREFER.fullmatch(asked.strip())
    if found is None:
        raise Problem(400, "Prefer must be wait or wait=N, N from 1 to 60")
    return int(found[1] or WAIT_S)


def _created(made: Prediction, wait_s: int | None) -> Response:
    """201, or 202 where a wait ran out; one that was worth it has its output already, and is still processing."""
    location = f"{made.base_url}/predictions/{made.number}"
    if wait_s is None:
        return json_answer(describe(made, made.created_s - 1), 201, Location=location)
    shown, status = _waited(made, wait_s)
    return json_answer(shown, status, Location=location, Preference_Applied=f"wait={wait_s}")


def _waited(made: Prediction, wait_s: int) -> tuple[dict[str, Any], int]:
    here = current_state()
    time.sleep(max(0.0, min(wait_s, made.done_s - here.clock.now())))
    now = here.clock.now()
    if made.standing(now).status == "succeeded":
        return {**describe(made, now, inline=here.draw), "status": "processing"}, 201
    return describe(made, now), 201 if made.is_over(now) else 202


# ---------------------------------------------------------------- look


@bp.get("/v1/predictions/<number>")
def get_prediction(number: str) -> Response:
    """One of one's own."""
    owner, here = owner_of_caller(), current_state()
    here.counts.check(NAME, 1)
    made = store().find(owner, number)
    call = CALLS.begin("check", made.prompt if made else "")
    if made is None:
        raise Problem(404)
    return call.answer(jsonify(describe(made, here.clock.now())))


@bp.post("/v1/predictions/<number>/cancel")
def cancel_prediction(number: str) -> Response:
    """At once; an ended prediction is shown as it is."""
    made, now = store().find(owner_of_caller(), number), current_state().clock.now()
    if made is None:
        raise Problem(404)
    made.break_off(now, Ending("canceled"))
    return jsonify(describe(made, now))


@bp.get("/v1/predictions")
def list_predictions() -> Response:
    """A hundred to a page, newest first. Made by the web site is none of them."""
    owner, here = owner_of_caller(), current_state()
    if stray := set(request.args) - _LIST_QUERY:
        raise errors.invalid([(sorted(stray)[0], "unknown query parameter")])
    if request.args.get("source", "web") != "web":
        raise errors.invalid([("source", "must be web")])
    found = store().between(owner, _moment("created_after"), _moment("created_before"))
    rows = [] if "source" in request.args else found
    first = _cursor()
    page = rows[first : first + PAGE]
    here.counts.check(NAME, len(page))
    call = CALLS.begin("check")
    shown = [describe(made, here.clock.now()) for made in page]
    results = [{name: value for name, value in row.items() if name != "logs"} for row in shown]
    previous = _page_url(max(0, first - PAGE)) if first else None
    following = _page_url(first + PAGE) if len(rows) > first + PAGE else None
    return call.answer(jsonify(previous=previous, next=following, results=results))


def _moment(name: str) -> datetime | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise errors.invalid([(name, "must be a moment in ISO 8601")]) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _cursor() -> int:
    text = request.args.get("cursor", "0")
    if not text.isdecimal():
        raise Problem(400, "Invalid cursor")
    return int(text)


def _page_url(first: int) -> str:
    kept = {name: value for name, value in request.args.items() if name != "cursor"}
    return f"{base_url()}/predictions?{urlencode({**kept, 'cursor': first})}"


# ---------------------------------------------------------------- result files


@bp.get("/delivery/xezq/<path:place>")
def deliver(place: str) -> ResponseReturnValue:
    """A result file. It needs no token, and here none may be shown: outputs may be on anyone's host."""
    if "Authorization" in request.headers:
        return jsonify(detail="key leaked: a token was sent to the host of the files"), 400
    file = store().file(place)
    if file is None:
        raise Problem(404)
    try:
        good = current_state().draw(file.recipe)
    except NotAnImage as error:
        raise Problem(500, "GET is not served here") from error
    return CALLS.download(good, CONTENT_TYPES[file.recipe.file_format], fault=file.fault, prompt=file.prompt)


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit."""
    return Problem(wrong.status, "" if wrong.status == 404 else f"{wrong.method} is not served here").response()


ENVIRON = {"REPLICATE_BASE_URL": "{url}", "REPLICATE_API_TOKEN": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, ReplicateStore, unrouted, ENVIRON)
