"""fal's storage: a client asks for a link, puts its file there without a key, and orders with the file's address.

The file is an upload. Its address is signed for as long as uploads are kept, and an order that names it does not fetch
it.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, g, request

from accounts.keys import Caller
from app.http import links
from app.http.bodies import read_body, read_query
from app.http.dialect import Dialect, Problem, Said
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.links import Here
from app.http.responses import json_answer
from app.http.signing import SignatureInvalidError
from app.services import services
from app.shapes.schemas.fal_storage import InitiateBody, Initiated, InitiateQuery, Put, PutQuery
from app.shapes.upload_json import content_path
from app.uploads import IMAGE_ERRORS
from core.ids import is_id, new_id
from jobs.errors import FieldFault
from jobs.submission.uploads import NewUpload

PREFIX = "/fal/rest/storage/upload"
LINK_LIFE_S = 3600
# Of a file that is kept forever.
LONGEST_LINK_S = 10 * 365 * 86_400
LIFECYCLE_HEADERS = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")
EXPIRATION = "expiration_duration_seconds"

bp = Blueprint("fal_storage", __name__, url_prefix=PREFIX)


def _say(problem: Problem) -> Said:
    """``message`` for fal-js, ``detail`` and ``error_type`` for fal-py."""
    detail: Any = problem["detail"]
    if problem["status"] == 422:
        errors = problem.get("errors") or [{"field": "", "code": problem["code"], "message": detail}]
        detail = [{"loc": ["body", each["field"]], "msg": each["message"], "type": each["code"]} for each in errors]
    body = {**problem, "detail": detail}
    return Said(body, problem["status"], headers={"x-fal-error-type": problem["code"]})


DIALECT = Dialect("fal_storage", ("/fal/rest/",), _say, schemes=("key", "bearer"))


@bp.post("/initiate")
@describe(
    Endpoint(
        "Ask for a link to upload to, as fal's clients do",
        "files",
        (Answer(200, "Where to put the file, and where it will be.", Initiated),),
        scope="jobs:write",
        errors=("malformed_json", "unsupported_media_type", "invalid_request", "host_not_allowed"),
        body=InitiateBody,
        query=InitiateQuery,
    )
)
def initiate() -> Response:
    read_query(InitiateQuery, request.args)
    body = read_body(InitiateBody, request)
    here, account_id, upload_id = links.here(), g.caller.account_id, new_id("upl")
    keep_s = _lifecycle_s()
    path = _path(upload_id, body.file_name or "", keep_s)
    signed = here.signer.link(path, account_id=account_id, index=0, life_s=LINK_LIFE_S)
    more = f"&name={quote(body.file_name, safe='')}" if body.file_name else ""
    more += f"&keep_s={keep_s}" if keep_s else ""
    return json_answer(
        {
            "upload_url": here.absolute(f"{PREFIX}/{upload_id}?{signed}{more}"),
            "file_url": _file_url(here, account_id, upload_id, keep_s),
        }
    )


@bp.put("/<upload_id>")
@describe(
    Endpoint(
        "Put a file at a link to upload to",
        "files",
        (Answer(200, "Kept.", Put),),
        scope=None,
        spared=True,
        errors=(
            *("invalid_request", "signature_invalid", "signature_expired", "upload_link_used", "rate_limited"),
            *IMAGE_ERRORS,
        ),
        query=PutQuery,
        description="Takes no key: the link is the right to upload one file. The same bytes may come again.",
    )
)
def put(upload_id: str) -> Response:
    query = read_query(PutQuery, request.args)
    parts, here = services(), links.here()
    parts.signer.check(
        _path(upload_id, query.name, query.keep_s),
        account_id=query.account,
        index=query.index,
        expires=query.expires,
        kid=query.kid,
        signature=query.signature,
    )
    parts.limits.charge("account", Caller(query.account, f"link:{query.kid}", "link", frozenset()))
    request.max_content_length = parts.uploads.references.max_bytes
    data = request.get_data(cache=False)
    if not data:
        raise InvalidRequestError([FieldFault("body", "required", "is needed: the bytes of the file")])
    new = NewUpload("fal", query.name, expires_in_s=query.keep_s, link_id=upload_id)
    parts.uploads.keep(query.account, data, new)
    return json_answer({"id": upload_id, "file_url": _file_url(here, query.account, upload_id, query.keep_s)})


def _path(upload_id: str, name: str, keep_s: int | None) -> str:
    """What the signature of a link to upload to covers: never a path that is served. Raises SignatureInvalidError for
    what is no id: with blanks in it, another id and name would make the same text."""
    if not is_id(upload_id, "upl"):
        raise SignatureInvalidError
    return f"PUT {PREFIX}/{upload_id} {keep_s} {quote(name, safe='')}"


def _file_url(here: Here, account_id: str, upload_id: str, keep_s: int | None) -> str:
    """The address of the file, signed for as long as it is kept."""
    lives = [each for each in (keep_s, services().uploads.keep_s) if each is not None]
    path = content_path(upload_id)
    life_s = LINK_LIFE_S + min(lives, default=LONGEST_LINK_S)
    return here.absolute(f"{path}?{here.signer.link(path, account_id=account_id, index=0, life_s=life_s)}")


def _lifecycle_s() -> int | None:
    """How long the client wants its file to be kept, in seconds; None for what cannot be read, as fal takes it."""
    for name in LIFECYCLE_HEADERS:
        try:
            seconds = json.loads(request.headers.get(name, "null"))[EXPIRATION]
        except (ValueError, TypeError, KeyError):
            continue
        if type(seconds) is int and 1 <= seconds <= LONGEST_LINK_S:
            return max(60, seconds)
    return None
