"""What Replicate has next to predictions: files that go in, the account, models and their versions."""

import json
from typing import Any

from flask import Blueprint, Response, jsonify, request

from sandbox.emulators.replicate import errors, hooks, models
from sandbox.emulators.replicate.caller import NAME, base_url, key_of_caller, owner_of_caller, store
from sandbox.emulators.replicate.errors import Problem
from sandbox.emulators.replicate.models import Model
from sandbox.emulators.replicate.predictions import iso
from sandbox.emulators.replicate.store import Upload
from sandbox.plumbing.calls import json_answer
from sandbox.state import current_state

FILE_MAX_BYTES = 100 * 2**20
FILE_NAME_MAX_BYTES = 255
_UPLOAD_TEXTS = frozenset({"metadata", "filename", "type"})
_UNKNOWN_TO_US = ("description", "github_url", "paper_url", "license_url", "cover_image_url", "default_example")

bp = Blueprint("replicate_account", __name__)


# ---------------------------------------------------------------- files that go in


@bp.post("/v1/files")
def upload() -> Response:
    """``content``, and perhaps ``metadata``, ``filename`` and ``type``."""
    owner, content, texts = owner_of_caller(), request.files.get("content"), request.form
    if stray := sorted(set(texts) - _UPLOAD_TEXTS):
        raise errors.invalid([(stray[0], "unknown field")])
    if content is None or len(request.files) != 1:
        raise errors.invalid([("content", "content is required")])
    name = texts.get("filename") or content.filename or ""
    if not 0 < len(name.encode()) <= FILE_NAME_MAX_BYTES:
        raise errors.invalid([("filename", "must have 1 to 255 bytes")])
    data = content.read()
    if len(data) > FILE_MAX_BYTES:
        raise Problem(413, "The file is larger than 100 MB")
    kept = store().upload(
        owner,
        name=name,
        content_type=texts.get("type") or content.content_type or "application/octet-stream",
        data=data,
        metadata=_json(texts.get("metadata", "{}")),
    )
    shown = kept.describe(base_url())
    current_state().counts.uploaded(shown["urls"]["get"], data)
    return json_answer(shown, 201)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise errors.invalid([("metadata", "must be JSON")]) from error


@bp.get("/v1/files")
def list_files() -> Response:
    """All of one's files."""
    found = store().uploads_of(owner_of_caller())
    return jsonify(previous=None, next=None, results=[kept.describe(base_url()) for kept in found])


@bp.get("/v1/files/<number>")
def get_file(number: str) -> Response:
    """What is known of a file, without its content."""
    return jsonify(_upload(number).describe(base_url()))


@bp.delete("/v1/files/<number>")
def delete_file(number: str) -> tuple[str, int]:
    """Gone."""
    store().delete_upload(_upload(number).number)
    return "", 204


def _upload(number: str) -> Upload:
    found = store().find_upload(owner_of_caller(), number)
    if found is None:
        raise Problem(404)
    return found


# ---------------------------------------------------------------- account, models


@bp.get("/v1/account")
def account() -> Response:
    """The probe of a token."""
    key_of_caller()
    return jsonify(type="organization", username="sandbox", name="Sandbox", github_url=None, avatar_url=None)


@bp.get("/v1/webhooks/default/secret")
def webhook_secret() -> Response:
    """The key of all deliveries."""
    key_of_caller()
    return jsonify(key=hooks.SECRET)


@bp.get("/v1/models/<owner>/<name>")
def get_model(owner: str, name: str) -> Response:
    """A model with the schema of its latest version."""
    key_of_caller()
    model = _model(owner, name)
    described = {
        **dict.fromkeys(_UNKNOWN_TO_US),
        "url": f"https://replicate.com/{model.path}",
        "owner": owner,
        "name": name,
        "visibility": "public",
        "is_official": model.is_official,
        "run_count": 1,
        "latest_version": _version(model),
    }
    return jsonify(_changed(model, described))


def _changed(model: Model, described: dict[str, Any]) -> dict[str, Any]:
    """The answer as the control says it now. Raises Problem where the model is dropped."""
    changed = current_state().lists.changed(NAME, [{**described, "path": model.path}], "path")
    if not changed:
        raise Problem(404)
    return {name: value for name, value in changed[0].items() if name != "path"}


@bp.get("/v1/models/<owner>/<name>/versions")
def list_versions(owner: str, name: str) -> Response:
    """Its one version."""
    key_of_caller()
    return jsonify(previous=None, next=None, results=[_version(_model(owner, name))])


@bp.get("/v1/models/<owner>/<name>/versions/<number>")
def get_version(owner: str, name: str, number: str) -> Response:
    """That version."""
    key_of_caller()
    model = _model(owner, name)
    if _version(model)["id"] != number:
        raise Problem(404)
    return jsonify(_changed(model, _version(model)))


def _model(owner: str, name: str) -> Model:
    found = models.model_of(f"{owner}/{name}")
    if found is None:
        raise Problem(404)
    return found


def _version(model: Model) -> dict[str, Any]:
    return {
        "id": model.version or "hidden",
        "created_at": iso(1_760_000_000.0),
        "cog_version": "0.16.0",
        "openapi_schema": model.openapi_schema(),
    }
