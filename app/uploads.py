"""What every route for uploads shares: the file in a form, and the image of an upload as an answer."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Request, Response, g, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException

from app.http.accept import check_accepts
from app.http.bodies import read_query, storable
from app.http.errors import MalformedFormError, answer
from app.http.responses import not_modified, unchanged
from app.image_bytes import EXTENSIONS, guarded, send, span_of
from app.services import services
from app.shapes.schemas.uploads import ContentQuery
from jobs.errors import FieldFault
from jobs.reads.uploads import Upload, find_upload
from storage.base import StoredImage

MAX_NAME_CHARS = 255
IMAGE_ERRORS = (
    *("request_too_large", "image_too_large_bytes", "not_an_image", "unsupported_image_type", "truncated_image"),
    *("image_undecodable", "image_too_many_pixels", "image_too_many_frames"),
    *("too_many_uploads", "storage_unavailable"),
)
CONTENT_TYPES = tuple(mime for mime in EXTENSIONS if mime.startswith("image/"))


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file of a form: the part that it came in, its bytes and its name."""

    part: str
    data: bytes
    name: str


def files_of(asked: Request) -> list[tuple[str, FileStorage]]:
    """The files of a form. Raises MalformedFormError, or a 413."""
    try:
        return list(asked.files.items(multi=True))
    except HTTPException:
        raise
    except ValueError as error:
        raise MalformedFormError("the multipart body ends early or has no valid boundary") from error


def file_of(
    asked: Request, parts: tuple[str, ...], faults: list[FieldFault], *, others: tuple[str, ...] = ()
) -> SentFile | None:
    """The one file of a form, under one of these names; what is wrong with its files is added to ``faults``.

    ``others``: parts that may be files as well. Raises MalformedFormError, or a 413.
    """
    files = [(name, file) for name, file in files_of(asked) if name not in others]
    faults += [
        FieldFault(name[:100], "not_supported", f"is no part for a file; send {' or '.join(parts)}")
        for name, _ in files
        if name not in parts
    ]
    found = [(name, file) for name, file in files if name in parts]
    if not found:
        faults.append(FieldFault(parts[0], "required", "is needed: the image, as a file"))
        return None
    if len(found) > 1:
        faults.append(FieldFault(found[1][0], "too_many", "one file a request"))
    part, file = found[0]
    name = file.filename or ""
    return SentFile(part, file.read(), name[:MAX_NAME_CHARS] if storable(name) else "")


def found(upload_id: str) -> Upload:
    """The caller's upload. Raises UploadNotFoundError, UploadGoneError."""
    return services().connections.autocommit(find_upload, g.caller.account_id, upload_id)


def serve(upload_id: str, *, any_type: bool = False) -> Response:
    """The bytes of an upload, whole or in part. ``any_type``: whatever the caller accepts, for clients that ask for
    bytes of no type. Raises UploadNotFoundError, UploadGoneError, InvalidRequestError, NotAcceptableError."""
    query = read_query(ContentQuery, request.args)
    upload = found(upload_id)
    if not any_type:
        check_accepts(request, upload.mime)
    expires = g.get("link_expires")
    headers = guarded(upload.sha256, upload.mime, name=upload.id, expires=expires, download=query.download == "1")
    if unchanged(headers["ETag"]):
        return not_modified(headers)
    span = span_of(upload.size_bytes, headers["ETag"]) if request.method == "GET" else None
    if span == ():
        return answer("range_not_satisfiable", headers={"Content-Range": f"bytes */{upload.size_bytes}"})
    size = upload.width_px, upload.height_px
    image = StoredImage(upload.key, upload.mime, *size, upload.size_bytes, upload.sha256)
    return send(services(), image, upload.mime, headers, span)
