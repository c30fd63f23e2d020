"""What WaveSpeed's emulator has next to its tasks: uploads, balance, webhook secret, models, prices."""

from flask import Blueprint, Response, request

from sandbox.emulators import keys
from sandbox.emulators.wavespeed import hooks, model_list, tasks
from sandbox.emulators.wavespeed.envelope import (
    CALLS,
    NAME,
    ApiError,
    base_url,
    envelope,
    json_body,
    key_of_caller,
    not_found,
    refuse_keys,
    store,
)
from sandbox.emulators.wavespeed.models import MODELS, check
from sandbox.state import current_state

UPLOAD_BYTES_MAX = 20 * 2**20
BALANCE_USD = 12.34
PRICE_USD = 0.04

bp = Blueprint("wavespeed_account", __name__)


# ---------------------------------------------------------------- uploads


@bp.post("/api/v3/media/uploads")
def open_upload() -> Response:
    """A ticket: where to put the bytes, with which headers, and the link they will have."""
    key_of_caller()
    asked = json_body("upload")
    call = CALLS.begin("upload")
    content_type = str(asked.get("content_type") or "application/octet-stream")
    upload = store().open_upload(asked["filename"], asked["size"], content_type)
    ticket = {
        "method": "PUT",
        "url": f"{base_url()}/storage/{upload.number}?signature={upload.token}",
        "headers": {"Content-Type": upload.content_type, "x-upload-token": upload.token},
    }
    return call.answer(envelope({"download_url": _download_url(upload), "upload": ticket}))


@bp.put("/storage/<number>")
def put_upload(number: str) -> Response:
    """The bytes of a ticket, with exactly its headers and without any key."""
    refuse_keys()
    upload, data = store().upload(number), request.get_data()
    given = (request.args.get("signature"), request.headers.get("x-upload-token"), request.content_type)
    if upload is None or given != (upload.token, upload.token, upload.content_type):
        return Response("SignatureDoesNotMatch", 403, content_type="text/plain")
    if len(data) != upload.size_bytes:
        return Response("the size differs from the ticket's", 400, content_type="text/plain")
    upload.data = data
    current_state().counts.uploaded(_download_url(upload), data)
    return Response(status=204)


@bp.post("/api/v3/media/upload/binary")
def upload_at_once() -> Response:
    """The older upload in one step."""
    key_of_caller()
    sent = request.files.get("file")
    data = sent.read() if sent else b""
    if sent is None or len(data) > UPLOAD_BYTES_MAX:
        raise ApiError(400, "file is too large" if sent else "file is required")
    name = (sent.filename or "upload").rpartition("/")[2]
    upload = store().open_upload(name, len(data), sent.content_type or "application/octet-stream")
    upload.data = data
    current_state().counts.uploaded(_download_url(upload), data)
    return envelope({"type": "image", "download_url": _download_url(upload), "filename": name, "size": len(data)})


@bp.get("/media/uploads/<number>/<name>")
def uploaded(number: str, name: str) -> Response:
    """An upload, as a model would fetch it."""
    refuse_keys()
    upload = store().upload(number)
    if upload is None or upload.data is None or upload.filename != name:
        return not_found()
    return Response(upload.data, content_type=upload.content_type)


def _download_url(upload: tasks.Upload) -> str:
    return f"{base_url()}/media/uploads/{upload.number}/{upload.filename}"


# ---------------------------------------------------------------- the account and the models


@bp.get("/api/v3/balance")
def balance() -> Response:
    """What is left, in USD; a good probe of a key."""
    return envelope({"balance": 0.0 if key_of_caller() == keys.NO_QUOTA_KEY else BALANCE_USD})


@bp.get("/api/v3/webhook/secret")
def webhook_secret() -> Response:
    """The signing secret of this key."""
    return envelope({"secret": hooks.secret_of(keys.owner_of(key_of_caller()))})


@bp.get("/api/v3/models")
def models() -> Response:
    """Every model with the schema of its input."""
    key_of_caller()
    call = CALLS.begin("models")
    return call.answer(envelope(current_state().lists.changed(NAME, model_list.listed(), "model_id")))


@bp.post("/api/v3/model/price")
@bp.post("/api/v3/model/pricing")
def price() -> Response:
    """What an input would cost; the older route calls it ``unit_price``."""
    key_of_caller()
    asked = json_body()
    model = MODELS.get(str(asked.get("model_id")))
    if model is None:
        raise ApiError(404, "product not found")
    if request.path.endswith("/pricing"):
        return envelope({"unit_price": PRICE_USD})
    check(model.schema, asked.get("inputs") or {})
    return envelope({"price": PRICE_USD, "discounted_price": PRICE_USD, "discount_rate": 1.0, "currency": "USD"})
