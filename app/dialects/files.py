"""``/v1/files``: uploads as Replicate's clients and OpenAI's know them.

Both services have this address. A file is created in the form that its part has (``content`` or ``file``); otherwise
the client says whose it is by its own headers, and where it does not, how the file was made decides. An answer has the
members of both forms; the two that they write differently, the times, are those of the form.
"""

from __future__ import annotations

from typing import Any, Literal

from flask import Blueprint, Request, Response, g, request

from app.http import links
from app.http.bodies import parse_object, read_query
from app.http.dialect import Dialect, Problem, Said
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import PROBLEM_JSON, InvalidRequestError, MalformedJsonError, UnsupportedMediaTypeError
from app.http.links import Here
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.files import FileDeleted, FileObject, FileQuery, Files, FilesQuery
from app.shapes.schemas.uploads import ContentQuery
from app.uploads import CONTENT_TYPES, IMAGE_ERRORS, file_of, files_of, found, serve
from core.wire import rfc3339
from jobs.errors import FieldFault
from jobs.reads.uploads import Upload, list_uploads
from jobs.submission.uploads import NewUpload

Form = Literal["openai", "replicate"]

PATH = "/v1/files"
PARTS = ("file", "content")
PURPOSES = ("vision", "user_data")
MAX_METADATA_BYTES = 2048
MIN_EXPIRES_S, MAX_EXPIRES_S = 3600, 2_592_000
PAGE = 100

bp = Blueprint("files", __name__, url_prefix=PATH)


def form_of(asked: Request) -> Form | None:
    """Whose client asks; None for one that does not say."""
    agent = asked.headers.get("User-Agent", "").lower()
    if "x-stainless-lang" in asked.headers or agent.startswith(("openai/", "asyncopenai/")):
        return "openai"
    return "replicate" if "replicate" in agent else None


def _say(problem: Problem) -> Said:
    """The problem itself has the members that both look for; OpenAI has its own word for a wrong key."""
    if (form_of(request) or _sent_as(request)) == "replicate":
        return Said(problem, problem["status"], PROBLEM_JSON)
    body = {**problem, "error": {**problem["error"]}}
    if problem["status"] == 401:
        body["error"]["code"] = "invalid_api_key"
    final = problem["status"] not in (408, 429, 500, 502, 503, 504)
    return Said(body, problem["status"], headers={"x-should-retry": "false"} if final else None)


def _sent_as(asked: Request) -> Form | None:
    """The form by the parts of the body, where those have been read."""
    files = asked.__dict__.get("files")
    return "replicate" if files and "content" in files else None


DIALECT = Dialect("files", (PATH,), _say, schemes=("bearer", "token"))


@bp.post("")
@describe(
    Endpoint(
        "Upload an image, as by OpenAI's clients or Replicate's",
        "files",
        (
            Answer(200, "The file, as OpenAI describes one.", FileObject),
            Answer(201, "The file, as Replicate describes one.", FileObject),
        ),
        scope="jobs:write",
        errors=("malformed_form", "unsupported_media_type", "invalid_request", "host_not_allowed", *IMAGE_ERRORS),
        description="OpenAI's form: `multipart/form-data` with the parts `file` and `purpose` (`vision` or"
        " `user_data`), also `expires_after[anchor]` and `expires_after[seconds]`. Replicate's: the part `content`,"
        " also `metadata`. The id goes wherever an order takes an image, and so does Replicate's `urls.get`.",
    )
)
def create() -> Response:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaTypeError("send the file as multipart/form-data, in the part file or content")
    faults: list[FieldFault] = []
    file = file_of(request, PARTS, faults, others=("metadata",))
    form: Form = "replicate" if file and file.part == "content" else form_of(request) or "openai"
    here = links.here()
    if form == "replicate":
        here.absolute(PATH)  # its client follows it: refused before anything is kept
        new = NewUpload(form, file.name if file else "", metadata=_metadata(request, faults))
    else:
        purpose = _purpose(request, faults)
        new = NewUpload(form, file.name if file else "", purpose=purpose, expires_in_s=_expires_s(request, faults))
    if file is None or faults:
        raise InvalidRequestError(faults)
    kept = services().uploads.keep(g.caller.account_id, file.data, new)
    return json_answer(file_json(kept.upload, here, form), 201 if form == "replicate" else 200)


def _metadata(asked: Request, faults: list[FieldFault]) -> dict[str, Any]:
    """Replicate's part ``metadata``: JSON, as a text or as a file."""
    texts = [asked.form["metadata"].encode()] if "metadata" in asked.form else []
    texts += [file.read(MAX_METADATA_BYTES + 1) for name, file in files_of(asked) if name == "metadata"]
    if not texts or not texts[0].strip():
        return {}
    if len(texts[0]) > MAX_METADATA_BYTES:
        faults.append(FieldFault("metadata", "too_long", f"is more than {MAX_METADATA_BYTES} bytes"))
        return {}
    try:
        return parse_object(texts[0])
    except MalformedJsonError as error:
        faults.append(FieldFault("metadata", "wrong_type", f"must be a JSON object: {error.detail}"))
        return {}


def _purpose(asked: Request, faults: list[FieldFault]) -> str:
    """OpenAI's part ``purpose``; only images are kept here."""
    purpose = asked.form.get("purpose", "vision")
    if purpose not in PURPOSES:
        faults.append(FieldFault("purpose", "not_allowed", f"must be {' or '.join(PURPOSES)}: only images are kept"))
    return purpose


def _expires_s(asked: Request, faults: list[FieldFault]) -> int | None:
    """OpenAI's ``expires_after``, in seconds from now."""
    given = asked.form.get("expires_after[seconds]", "")
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and MIN_EXPIRES_S <= int(given[:12]) <= MAX_EXPIRES_S):
        words = f"must be a whole number from {MIN_EXPIRES_S} to {MAX_EXPIRES_S}"
        faults.append(FieldFault("expires_after.seconds", "out_of_range", words))
        return None
    if asked.form.get("expires_after[anchor]", "created_at") != "created_at":
        faults.append(FieldFault("expires_after.anchor", "not_allowed", "must be created_at"))
    return int(given)


@bp.get("")
@describe(
    Endpoint(
        "List files, newest first",
        "files",
        (Answer(200, "One page, in both services' members.", Files),),
        errors=("invalid_request", "host_not_allowed"),
        query=FilesQuery,
    )
)
def list_all() -> Response:
    query = read_query(FilesQuery, request.args)
    limit = min(query.limit, PAGE)
    several = services().connections.autocommit(
        list_uploads, g.caller.account_id, before_id=query.after, limit=limit + 1
    )
    here, form = links.here(), form_of(request)
    page = [file_json(each, here, form) for each in several[:limit]]
    more = len(several) > limit
    return json_answer(
        {
            "object": "list",
            "data": page,
            "has_more": more,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "results": page,
            "next": f"{here.base}{PATH}?after={page[-1]['id']}&limit={limit}" if more else None,
            "previous": None,
        }
    )


@bp.get("/<file_id>")
@describe(
    Endpoint(
        "Read a file",
        "files",
        (Answer(200, "The file.", FileObject),),
        errors=("upload_not_found", "upload_gone", "host_not_allowed", "invalid_request"),
        query=FileQuery,
    )
)
def read(file_id: str) -> Response:
    read_query(FileQuery, request.args)
    return json_answer(file_json(found(file_id), links.here(), form_of(request)))


@bp.get("/<file_id>/content")
@describe(
    Endpoint(
        "Fetch the image of a file",
        "files",
        (
            Answer(200, "The image as it is kept.", media_types=(*CONTENT_TYPES, "application/binary")),
            Answer(206, "The part asked for.", media_types=CONTENT_TYPES, headers=("ETag", "Content-Range")),
            Answer(304, "Unchanged since the ETag in If-None-Match.", headers=("ETag",)),
        ),
        pace="read",
        signed=True,
        errors=(
            *("upload_not_found", "upload_gone", "image_gone", "range_not_satisfiable", "invalid_request"),
            *("signature_invalid", "signature_expired", "storage_unavailable"),
        ),
        query=ContentQuery,
    )
)
def content(file_id: str) -> Response:
    return serve(file_id, any_type=True)


@bp.delete("/<file_id>")
@describe(
    Endpoint(
        "Delete a file",
        "files",
        (
            Answer(200, "Deleted, as OpenAI says it.", FileDeleted),
            Answer(204, "Deleted, as Replicate says it.", media_types=()),
        ),
        scope="jobs:write",
        errors=("upload_not_found",),
    )
)
def delete(file_id: str) -> Response:
    services().delete_upload(g.caller.account_id, file_id)
    if form_of(request) == "replicate":
        return Response(status=204)
    return json_answer({"id": file_id, "object": "file", "deleted": True})


def file_json(upload: Upload, here: Here, form: Form | None) -> dict[str, Any]:
    """An upload as app.shapes.schemas.files.FileObject. Raises HostNotAllowedError, for Replicate's clients."""
    as_text = (form or upload.source) == "replicate"
    created, expires = upload.created_at, upload.expires_at
    name = upload.file_name or upload.id
    path = f"{PATH}/{upload.id}"
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.sent_bytes,
        "filename": name,
        "purpose": upload.purpose or "vision",
        "status": "processed",
        "name": name,
        "content_type": upload.mime,
        "size": upload.sent_bytes,
        "etag": upload.sha256,
        "checksums": {"sha256": upload.sent_sha256},
        "metadata": dict(upload.metadata),
        "urls": {"get": here.absolute(path) if form == "replicate" else f"{here.base}{path}"},
        "created_at": rfc3339(created) if as_text else int(created.timestamp()),
        "expires_at": None if expires is None else rfc3339(expires) if as_text else int(expires.timestamp()),
    }
