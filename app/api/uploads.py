"""Uploads: an image is sent once, and ordered with by its id."""

from __future__ import annotations

from flask import Blueprint, Request, Response, g, request

from app.http import links
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError, UnsupportedMediaTypeError
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.uploads import (
    MAX_EXPIRES_S,
    ContentQuery,
    UploadBody,
    UploadDeleted,
    UploadList,
    UploadOut,
    UploadQuery,
)
from app.shapes.upload_json import UPLOADS, upload_json
from app.uploads import CONTENT_TYPES, IMAGE_ERRORS, file_of, found, serve
from jobs.errors import FieldFault, InvalidOrderError
from jobs.reads.uploads import list_uploads
from jobs.submission.order import ReferenceImage
from jobs.submission.uploads import NewUpload

bp = Blueprint("uploads", __name__, url_prefix=UPLOADS)

FILE_PARTS = ("file", "image")


@bp.post("")
@describe(
    Endpoint(
        "Upload an image",
        "uploads",
        (
            Answer(201, "Kept.", UploadOut, headers=("Location",)),
            Answer(200, "You had sent the same bytes before: the same upload, its expiry put off.", UploadOut),
        ),
        scope="jobs:write",
        errors=("malformed_form", "malformed_json", "unsupported_media_type", "invalid_request", *IMAGE_ERRORS),
        body=UploadBody,
        multipart=True,
        description="As `multipart/form-data` with the part `file` or `image` (and, if you like, `expires_s`), or as"
        " JSON with the `url` of an image, which is fetched. The `id` goes wherever an order takes an image.",
    )
)
def create() -> Response:
    read_query(Empty, request.args)
    account_id = g.caller.account_id
    data, new = _from_form(request) if request.mimetype == "multipart/form-data" else _from_url(account_id)
    kept = services().uploads.keep(account_id, data, new)
    here = links.here()
    headers = {} if kept.known else {"Location": f"{here.base}{UPLOADS}/{kept.upload.id}"}
    return json_answer(upload_json(kept.upload, here), 200 if kept.known else 201, headers)


def _from_url(account_id: str) -> tuple[bytes, NewUpload]:
    if not request.is_json:
        raise UnsupportedMediaTypeError("send the image as multipart/form-data, or its URL as application/json")
    body = read_body(UploadBody, request)
    try:
        [data] = services().uploads.references.read(
            account_id, [ReferenceImage("image", field_name="url", text=body.url)]
        )
    except InvalidOrderError as error:
        raise InvalidRequestError(error.faults) from None
    return data, NewUpload("url", body.file_name or "", expires_in_s=body.expires_s)


def _from_form(asked: Request) -> tuple[bytes, NewUpload]:
    faults: list[FieldFault] = []
    file = file_of(asked, FILE_PARTS, faults)
    for name in asked.form:
        if name in FILE_PARTS:
            faults.append(FieldFault(name, "wrong_type", "must be a file, with a file name"))
        elif name != "expires_s":
            faults.append(FieldFault(name[:100], "not_supported", "is not a part of this form"))
    expires = asked.form.get("expires_s", "")
    if expires and not (expires.isascii() and expires.isdigit() and 60 <= int(expires[:12]) <= MAX_EXPIRES_S):
        faults.append(FieldFault("expires_s", "out_of_range", f"must be a whole number from 60 to {MAX_EXPIRES_S}"))
    if file is None or faults:
        raise InvalidRequestError(faults)
    return file.data, NewUpload("file", file.name, expires_in_s=int(expires) if expires else None)


@bp.get("")
@describe(
    Endpoint(
        "List uploads, newest first",
        "uploads",
        (Answer(200, "One page, without those that have expired.", UploadList),),
        errors=("invalid_request",),
        query=UploadQuery,
    )
)
def list_all() -> Response:
    query = read_query(UploadQuery, request.args)
    several = services().connections.autocommit(
        list_uploads, g.caller.account_id, before_id=query.cursor, limit=query.limit + 1
    )
    page, here = several[: query.limit], links.here()
    return json_answer(
        {
            "object": "list",
            "data": [upload_json(each, here) for each in page],
            "next_cursor": page[-1].id if len(several) > len(page) else None,
        }
    )


@bp.get("/<upload_id>")
@describe(
    Endpoint(
        "Read an upload",
        "uploads",
        (Answer(200, "The upload.", UploadOut),),
        errors=("upload_not_found", "upload_gone", "invalid_request"),
    )
)
def read(upload_id: str) -> Response:
    read_query(Empty, request.args)
    return json_answer(upload_json(found(upload_id), links.here()))


@bp.get("/<upload_id>/content")
@describe(
    Endpoint(
        "Fetch the image of an upload",
        "uploads",
        (
            Answer(
                200,
                "The image as it is kept.",
                media_types=CONTENT_TYPES,
                headers=("ETag", "Accept-Ranges", "Content-Disposition", "Cache-Control"),
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
        request_headers=("If-None-Match", "Range", "If-Range"),
        description="Takes your key, or the expiring signature of `signed_url` instead of it.",
    )
)
def content(upload_id: str) -> Response:
    return serve(upload_id)


@bp.delete("/<upload_id>")
@describe(
    Endpoint(
        "Delete an upload",
        "uploads",
        (Answer(200, "Deleted. Orders that came with it keep their copies.", UploadDeleted),),
        scope="jobs:write",
        errors=("upload_not_found", "invalid_request"),
    )
)
def delete(upload_id: str) -> Response:
    read_query(Empty, request.args)
    services().delete_upload(g.caller.account_id, upload_id)
    return json_answer({"id": upload_id, "object": "image.upload", "deleted": True})
