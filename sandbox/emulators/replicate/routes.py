"""Replicate under ``/replicate``: predictions by model, version or deployment, files, models, webhooks.

Speaks the contract sheet "Replicate" (spec of 2026-04-09, read 2026-11-20); stricter than the real service where that
ignores what it does not know.
"""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox import misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, NotAnImage, Recipe
from sandbox.emulators import Emulator, Wrong, keys
from sandbox.emulators.replicate import errors, hooks, models
from sandbox.emulators.replicate.errors import Problem
from sandbox.emulators.replicate.models import Model
from sandbox.emulators.replicate.predictions import EVENTS, TERMINAL, Asked, Prediction, describe, iso, seconds_in
from sandbox.emulators.replicate.store import ReplicateStore, Upload
from sandbox.faults import Script
from sandbox.markers import UnknownFault
from sandbox.state import current_state

NAME = "replicate"
PREFIX = "/replicate"
PAGE = 100
WAIT_S = 60
FILE_MAX_BYTES = 100 * 2**20
FILE_NAME_MAX_BYTES = 255
_PREFER = re.compile(r"wait(?:=([1-9]|[1-5][0-9]|60))?")
_BODY = frozenset({"input", "webhook", "webhook_events_filter", "stream"})
_LIST_QUERY = frozenset({"created_after", "created_before", "source", "cursor"})
_UPLOAD_TEXTS = frozenset({"metadata", "filename", "type"})

bp = Blueprint("replicate", __name__)
recorder.watch(bp, NAME)


@bp.errorhandler(Problem)
def problem(error: Problem) -> Response:
    """The problem document."""
    return error.response()


@bp.errorhandler(UnknownFault)
def senseless_marker(error: UnknownFault) -> Response:
    """A marker nobody understands is refused: better than a test that tests nothing."""
    return Problem(400, str(error)).response()


@bp.after_request
def house_headers(answer: Response) -> Response:
    """How much of the minute's requests is left: 600 creates, 3000 of all else."""
    creates = request.method == "POST" and request.path.endswith("/predictions")
    answer.headers.setdefault("ratelimit-remaining", "599" if creates else "2999")
    answer.headers.setdefault("ratelimit-reset", "1")
    return answer


# ---------------------------------------------------------------- predictions


@bp.post("/v1/predictions")
def create_by_version() -> Response:
    """Any model, by a version; official ones also by their name."""
    key, body = _key(), _body(_BODY | {"version"})
    version = body.get("version")
    if not isinstance(version, str) or not version:
        raise errors.invalid([("version", "version is required")])
    model = models.version_of(version)
    if model is None:
        raise errors.invalid_version()
    return _create(model, body, key)


@bp.post("/v1/models/<owner>/<name>/predictions")
def create_by_model(owner: str, name: str) -> Response:
    """Official models alone."""
    key = _key()
    model = models.model_of(f"{owner}/{name}")
    if model is None or not model.is_official:
        raise errors.not_found()
    return _create(model, _body(_BODY), key)


@bp.post("/v1/deployments/<owner>/<name>/predictions")
def create_on_deployment(owner: str, name: str) -> Response:
    """A model on hardware of one's own."""
    key = _key()
    model = models.model_of(models.DEPLOYMENTS.get(f"{owner}/{name}", ""))
    if model is None:
        raise errors.not_found()
    return _create(model, _body(_BODY), key)


def _create(model: Model, body: dict[str, Any], key: str) -> Response:
    asked, wait_s, cancel_after_s = _asked(model, body), _wait_s(), _cancel_after_s()
    here, prompt = current_state(), asked.prompt
    here.counts.submit(NAME, key=prompt_hash(prompt), prompt=prompt)
    if key == keys.NO_ORG_KEY:
        raise errors.forbidden()
    if key == keys.NO_QUOTA_KEY:
        raise errors.out_of_credit()
    script = here.script(NAME, "submit", prompt)
    # Nobody refuses a prompt here: what is refused becomes a prediction that fails.
    if (refusal := script.refusal) and refusal.name != "refuse":
        return misbehave.instead(refusal, errors.for_fault)
    fate = here.script(NAME, "outcome", prompt)
    made = _store().make(
        asked,
        Script((*(fault for fault in script.faults if fault.name == "refuse"), *fate.faults)),
        owner=keys.owner_of(key),
        base_url=_base_url(),
        root_url=_root_url(),
        cancel_after_s=cancel_after_s,
    )
    here.counts.accept(NAME, key=prompt_hash(prompt), prompt=prompt)
    return misbehave.finish(script, _created(made, wait_s), errors.for_fault)


def _created(made: Prediction, wait_s: int | None) -> Response:
    """201, or 202 where a wait ran out; one that was worth it has its output already, and is still processing."""
    if wait_s is None:
        answer, status = describe(made, made.created_s - 1), 201
    else:
        answer, status = _waited(made, wait_s)
    response = jsonify(answer)
    response.status_code = status
    response.headers["Location"] = f"{made.base_url}/predictions/{made.number}"
    if wait_s is not None:
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    return response


def _waited(made: Prediction, wait_s: int) -> tuple[dict[str, Any], int]:
    clock = current_state().clock
    time.sleep(max(0.0, min(wait_s, made.ends_s - clock.now())))
    now = clock.now()
    status, _ = made.standing(now)
    if status == "succeeded":
        return {**describe(made, now, inline=_draw), "status": "processing"}, 201
    return describe(made, now), 201 if status in TERMINAL else 202


def _asked(model: Model, body: dict[str, Any]) -> Asked:
    given = body.get("input")
    if not isinstance(given, dict):
        raise errors.invalid([("input", "input is required")])
    models.check_input(model, given)
    webhook, events = body.get("webhook"), body.get("webhook_events_filter")
    if webhook is not None and not hooks.takes(webhook):
        raise errors.invalid([("webhook", "must be an HTTPS URL")])
    if events is not None and (not isinstance(events, list) or not all(event in EVENTS for event in events)):
        raise errors.invalid([("webhook_events_filter", f"must be some of: {', '.join(EVENTS)}")])
    if not isinstance(body.get("stream", False), bool):
        raise errors.invalid([("stream", "Invalid type. Expected: boolean")])
    return Asked(model, given, model.version or "hidden", webhook, tuple(events) if events else None)


def _wait_s() -> int | None:
    wish = request.headers.get("Prefer")
    if wish is None:
        return None
    found = _PREFER.fullmatch(wish.strip())
    if found is None:
        raise Problem(400, "Prefer must be wait or wait=N, N from 1 to 60")
    return int(found[1] or WAIT_S)


def _cancel_after_s() -> float | None:
    wish = request.headers.get("Cancel-After")
    return None if wish is None else seconds_in(wish)


@bp.get("/v1/predictions/<number>")
def get_prediction(number: str) -> Response:
    """One of one's own."""
    owner, here = keys.owner_of(_key()), current_state()
    here.counts.check(NAME, 1)
    made = _store().find(owner, number)
    script = here.script(NAME, "check", made.asked.prompt if made else "")
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    if made is None:
        raise errors.not_found()
    return misbehave.finish(script, jsonify(describe(made, here.clock.now())), errors.for_fault)


@bp.post("/v1/predictions/<number>/cancel")
def cancel_prediction(number: str) -> Response:
    """At once; an ended prediction is shown as it is."""
    store, made = _store(), _store().find(keys.owner_of(_key()), number)
    if made is None:
        raise errors.not_found()
    store.cancel(made)
    return jsonify(describe(made, current_state().clock.now()))


@bp.get("/v1/predictions")
def list_predictions() -> Response:
    """A hundred to a page, newest first. Made by the web site is none of them."""
    owner, here = keys.owner_of(_key()), current_state()
    if stray := set(request.args) - _LIST_QUERY:
        raise errors.invalid([(sorted(stray)[0], "unknown query parameter")])
    if request.args.get("source", "web") != "web":
        raise errors.invalid([("source", "must be web")])
    found = _store().all_of(owner, _moment("created_after"), _moment("created_before"))
    rows = [] if "source" in request.args else found
    first = _cursor()
    page = rows[first : first + PAGE]
    here.counts.check(NAME, len(page))
    script = here.script(NAME, "check")
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    results = [_without_logs(describe(made, here.clock.now())) for made in page]
    previous = _page_url(max(0, first - PAGE)) if first else None
    following = _page_url(first + PAGE) if len(rows) > first + PAGE else None
    return misbehave.finish(script, jsonify(previous=previous, next=following, results=results), errors.for_fault)


def _without_logs(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "logs"}


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
    return f"{_base_url()}/predictions?{urlencode({**kept, 'cursor': first})}"


# ---------------------------------------------------------------- result files


@bp.get("/delivery/xezq/<path:place>")
def deliver(place: str) -> ResponseReturnValue:
    """A result file. It needs no token, and here none may be shown: outputs may lie with anybody."""
    if "Authorization" in request.headers:
        return jsonify(detail="key leaked: a token was sent to the host of the files"), 400
    here, served = current_state(), _store().served(place)
    if served is None:
        return unrouted(Wrong(404, request.method, request.path))
    here.counts.download(NAME)
    try:
        good = _draw(served.recipe)
    except NotAnImage:
        return unrouted(Wrong(500, request.method, request.path))
    blob, odd_type = bad_files.spoil(served.fault, good)
    answer = Response(blob, content_type=odd_type or CONTENT_TYPES[served.recipe.file_format])
    script = here.script(NAME, "download", served.recipe.prompt)
    if script.refusal:
        return misbehave.instead(script.refusal, errors.for_fault)
    return misbehave.finish(script, answer, errors.for_fault)


# ---------------------------------------------------------------- files that go in


@bp.post("/v1/files")
def upload() -> tuple[Response, int]:
    """``content``, and perhaps ``metadata``, ``filename`` and ``type``."""
    owner = keys.owner_of(_key())
    if request.mimetype != "multipart/form-data":
        raise errors.invalid([("content", "content is required")])
    texts = _upload_texts()
    content = request.files.get("content")
    if content is None or len(request.files) != 1:
        raise errors.invalid([("content", "content is required")])
    name = texts.get("filename") or content.filename or ""
    if not 0 < len(name.encode()) <= FILE_NAME_MAX_BYTES:
        raise errors.invalid([("filename", "must have 1 to 255 bytes")])
    data = content.read()
    if len(data) > FILE_MAX_BYTES:
        raise Problem(413, "The file is larger than 100 MB")
    kept = _store().store(
        owner,
        name=name,
        content_type=texts.get("type") or content.content_type or "application/octet-stream",
        data=data,
        metadata=_json(texts.get("metadata", "{}")),
    )
    return jsonify(kept.describe(_base_url())), 201


def _upload_texts() -> dict[str, str]:
    """The text parts; ``metadata`` comes as text or, being JSON, as a part with a type of its own."""
    texts = request.form.to_dict()
    if stray := set(texts) - _UPLOAD_TEXTS:
        raise errors.invalid([(sorted(stray)[0], "unknown field")])
    return texts


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise errors.invalid([("metadata", "must be JSON")]) from error


@bp.get("/v1/files")
def list_files() -> Response:
    """All of one's files."""
    found = _store().uploads_of(keys.owner_of(_key()))
    return jsonify(previous=None, next=None, results=[kept.describe(_base_url()) for kept in found])


@bp.get("/v1/files/<number>")
def get_file(number: str) -> Response:
    """What is known of a file, without its content."""
    return jsonify(_upload(number).describe(_base_url()))


@bp.delete("/v1/files/<number>")
def delete_file(number: str) -> tuple[str, int]:
    """Gone."""
    _store().forget_upload(_upload(number).number)
    return "", 204


def _upload(number: str) -> Upload:
    found = _store().upload(keys.owner_of(_key()), number)
    if found is None:
        raise errors.not_found()
    return found


# ---------------------------------------------------------------- account, models


@bp.get("/v1/account")
def account() -> Response:
    """The probe of a token."""
    _key()
    return jsonify(type="organization", username="sandbox", name="Sandbox", github_url=None, avatar_url=None)


@bp.get("/v1/webhooks/default/secret")
def webhook_secret() -> Response:
    """The key of all deliveries."""
    _key()
    return jsonify(key=hooks.SECRET)


@bp.get("/v1/models/<owner>/<name>")
def get_model(owner: str, name: str) -> Response:
    """A model with the schema of its latest version."""
    _key()
    model = _model(owner, name)
    return jsonify(
        url=f"https://replicate.com/{model.path}",
        owner=owner,
        name=name,
        description=None,
        visibility="public",
        is_official=model.is_official,
        github_url=None,
        paper_url=None,
        license_url=None,
        run_count=1,
        cover_image_url=None,
        default_example=None,
        latest_version=_version(model),
    )


@bp.get("/v1/models/<owner>/<name>/versions")
def list_versions(owner: str, name: str) -> Response:
    """Its one version."""
    _key()
    return jsonify(previous=None, next=None, results=[_version(_model(owner, name))])


@bp.get("/v1/models/<owner>/<name>/versions/<number>")
def get_version(owner: str, name: str, number: str) -> Response:
    """That version."""
    _key()
    version = _version(_model(owner, name))
    if version["id"] != number:
        raise errors.not_found()
    return jsonify(version)


def _model(owner: str, name: str) -> Model:
    found = models.model_of(f"{owner}/{name}")
    if found is None:
        raise errors.not_found()
    return found


def _version(model: Model) -> dict[str, Any]:
    return {
        "id": model.version or "hidden",
        "created_at": iso(1_760_000_000.0),
        "cog_version": "0.16.0",
        "openapi_schema": model.openapi_schema(),
    }


# ---------------------------------------------------------------- shared


def unrouted(wrong: Wrong) -> ResponseReturnValue:
    """A path that is not there, or a body past the limit."""
    if wrong.status == 404:
        return errors.not_found().response()
    return Problem(wrong.status, f"{wrong.method} is not served here").response()


def _body(known: frozenset[str]) -> dict[str, Any]:
    """The JSON object of a create; its top level is closed."""
    if request.mimetype != "application/json":
        raise Problem(400, "Content-Type must be application/json")
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise Problem(400, "Malformed JSON")
    if stray := sorted(set(document) - known):
        raise errors.invalid([(name, f"Additional property {name} is not allowed") for name in stray])
    return document


def _key() -> str:
    """The token by ``Bearer`` or, as in older examples, ``Token``. Raises Problem."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() not in ("bearer", "token") or not token or token == keys.BAD_KEY:
        raise errors.unauthenticated()
    return token


def _draw(recipe: Recipe) -> bytes:
    here = current_state()
    return here.gallery.file(recipe, prepared=here.settings.prepared)


def _store() -> ReplicateStore:
    return cast(ReplicateStore, current_state().stores[NAME])


def _root_url() -> str:
    return f"{request.host_url.rstrip('/')}{PREFIX}"


def _base_url() -> str:
    return f"{_root_url()}/v1"


ENVIRON = {"REPLICATE_BASE_URL": "{url}", "REPLICATE_API_TOKEN": "{key}"}
EMULATOR = Emulator(NAME, PREFIX, bp, ReplicateStore, unrouted, ENVIRON)
