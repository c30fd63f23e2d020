"""``/v1/files``: uploads as Replicate's clients and OpenAI's know them, and files of lines, which batches go by.

Both services have this address. A file is created in the form that its part has (``content`` or ``file``); otherwise
the client says whose it is by its own headers, and where it does not, how the file was made decides. An answer has the
members of both forms; the two that they write differently, the times, are those of the form.
"""

from __future__ import annotations

from os import SEEK_END
from typing import IO, Any, Literal

from flask import Blueprint, Request, Response, current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from app.dialects.openai import batch_outputs
from app.http import links
from app.http.bodies import parse_object, read_query, storable
from app.http.dialect import Dialect, Problem, Said
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import PROBLEM_JSON, InvalidRequestError, MalformedJsonError, UnsupportedMediaTypeError
from app.http.links import Here
from app.http.responses import IN_PIECES, json_answer
from app.services import services
from app.shapes.schemas.files import FileDeleted, FileObject, FileQuery, Files, FilesQuery
from app.shapes.schemas.uploads import ContentQuery
from app.uploads import CONTENT_TYPES, IMAGE_ERRORS, file_of, files_of, found, serve
from core.wire import rfc3339
from jobs.errors import FieldFault
from jobs.reads.files import LinesFile, find_file, list_files
from jobs.reads.uploads import Upload, list_uploads
from jobs.submission.files import delete_file
from jobs.submission.uploads import NewUpload

Form = Literal["openai", "replicate"]

PATH = "/v1/files"
PARTS = ("file", "content")
PURPOSES = ("vision", "user_data")
BATCH = "batch"
READ_BYTES = 4096
# Of kinds of files of lines, as OpenAI's clients say them.
LINES_PURPOSES = {"input": BATCH, "output": "batch_output", "errors": "batch_output"}
JSONL = "application/jsonl"
FORM_BYTES = 64 * 1024  # of a form, besides its file
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
        "Upload an image, or the lines of a batch, as by OpenAI's clients or Replicate's",
        "files",
        (
            Answer(200, "The file, as OpenAI describes one.", FileObject),
            Answer(201, "The file, as Replicate describes one.", FileObject),
        ),
        scope="jobs:write",
        errors=("malformed_form", "unsupported_media_type", "invalid_request", "host_not_allowed", *IMAGE_ERRORS),
        description="OpenAI's form: `multipart/form-data` with the parts `file` and `purpose` (`vision` or"
        " `user_data` for an image, `batch` for one JSON object a line), also `expires_after[anchor]` and"
        " `expires_after[seconds]`. Replicate's: the part `content`, also `metadata`. The id of an image goes wherever"
        " an order takes one, and so does Replicate's `urls.get`.",
    )
)
def create() -> Response:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaTypeError("send the file as multipart/form-data, in the part file or content")
    # The lines of a batch may be more than any other body; they go to the disk as they arrive.
    request.max_content_length = max(_most_bytes(), current_app.config["MAX_BATCH_FILE_BYTES"] + FORM_BYTES)
    files_of(request)
    if request.form.get("purpose") == BATCH:
        return _lines_kept()
    faults: list[FieldFault] = []
    _check_size()
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


def _most_bytes() -> int:
    most: int = current_app.config["MAX_CONTENT_LENGTH"]
    return most


def _check_size() -> None:
    """An image comes in a request like any other. Raises RequestEntityTooLarge."""
    for _, file in files_of(request):
        size = file.stream.seek(0, SEEK_END)
        file.stream.seek(0)
        if size > _most_bytes():
            raise RequestEntityTooLarge


def _lines_kept() -> Response:
    """The file of a batch, kept without ever being in memory. Raises LinesFileError, TooManyUploadsError."""
    faults: list[FieldFault] = []
    expires_in_s = _expires_s(request, faults)
    files = [file for name, file in files_of(request) if name == "file"]
    if len(files) != 1:
        code, words = ("too_many", "one file a request") if files else ("required", "is needed: one order a line")
        faults.append(FieldFault("file", code, words))
    elif not _begins_as_lines(files[0].stream):
        faults.append(FieldFault("file", "wrong_type", "must have one JSON object a line; the first line is none"))
    if faults:
        raise InvalidRequestError(faults)
    name = files[0].filename or ""
    kept = services().files.keep(
        g.caller.account_id, files[0].stream, name=name if storable(name) else "", expires_in_s=expires_in_s
    )
    return json_answer(lines_json(kept, links.here(), "openai"))


def _begins_as_lines(stream: IO[bytes]) -> bool:
    """A file of another kind, such as an image, is told so at once and not line by line."""
    start = stream.read(READ_BYTES).lstrip()
    stream.seek(0)
    return not start or start.startswith(b"{")


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
        faults.append(FieldFault("purpose", "not_allowed", f"must be {' or '.join((*PURPOSES, BATCH))}"))
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
    several = _several(query, limit + 1)
    here, form = links.here(), form_of(request)
    page = [_any_json(each, here, form) for each in several[:limit]]
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


def _several(query: FilesQuery, limit: int) -> list[Upload | LinesFile]:
    """Images and files of lines, newest first: the ids of both are in the order in which they were made."""
    connections, account_id = services().connections, g.caller.account_id
    number = query.after.partition("_")[2] if query.after else None
    found: list[Upload | LinesFile] = []
    if query.purpose not in LINES_PURPOSES.values():
        before = number and f"upl_{number}"
        found += connections.autocommit(list_uploads, account_id, before_id=before, limit=limit)
    if form_of(request) != "replicate":  # which knows no such files
        kinds = [kind for kind, purpose in LINES_PURPOSES.items() if query.purpose in (None, purpose)]
        before = number and f"file_{number}"
        found += connections.autocommit(list_files, account_id, before_id=before, limit=limit, kinds=kinds)
    if query.purpose in PURPOSES:
        found = [each for each in found if isinstance(each, Upload) and (each.purpose or "vision") == query.purpose]
    return sorted(found, key=lambda each: each.id.partition("_")[2], reverse=True)[:limit]


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
    file = _lines(file_id) if file_id.startswith("file_") else found(file_id)
    return json_answer(_any_json(file, links.here(), form_of(request)))


def _lines(file_id: str) -> LinesFile:
    """The caller's file of lines. Raises UploadNotFoundError, UploadGoneError."""
    return services().connections.autocommit(find_file, g.caller.account_id, file_id)


@bp.get("/<file_id>/content")
@describe(
    Endpoint(
        "Fetch the content of a file",
        "files",
        (
            Answer(
                200,
                "The image as it is kept, or the lines.",
                media_types=(*CONTENT_TYPES, "application/binary", JSONL),
            ),
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
    if file_id.startswith("file_"):
        return _lines_sent(_lines(file_id))
    return serve(file_id, any_type=True)


def _lines_sent(file: LinesFile) -> Response:
    """The lines of a file, as they came or, of a batch's results, as they are now."""
    service = services()
    if file.kind == "input":
        pieces = service.file_lines(file.id)
    else:
        pieces = batch_outputs.pieces(service, file, links.here().base)
    response = Response(pieces, content_type=JSONL)
    response.headers.update(IN_PIECES)
    response.headers["Content-Disposition"] = f'attachment; filename="{file.id}.jsonl"'
    return response


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
        errors=("upload_not_found", "file_in_use"),
    )
)
def delete(file_id: str) -> Response:
    if file_id.startswith("file_"):
        services().connections.transaction(delete_file, g.caller.account_id, file_id)
    else:
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


def _any_json(file: Upload | LinesFile, here: Here, form: Form | None) -> dict[str, Any]:
    return file_json(file, here, form) if isinstance(file, Upload) else lines_json(file, here, form)


def lines_json(file: LinesFile, here: Here, form: Form | None) -> dict[str, Any]:
    """A file of lines as app.shapes.schemas.files.FileObject."""
    created, expires, as_text = file.created_at, file.expires_at, form == "replicate"
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "filename": file.file_name,
        "purpose": LINES_PURPOSES[file.kind],
        "status": "processed",
        "name": file.file_name,
        "content_type": JSONL,
        "size": file.size_bytes,
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": {},
        "urls": {"get": f"{here.base}{PATH}/{file.id}"},
        "created_at": rfc3339(created) if as_text else int(created.timestamp()),
        "expires_at": None if expires is None else rfc3339(expires) if as_text else int(expires.timestamp()),
    }
