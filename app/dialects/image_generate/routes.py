"""``POST /image/generate``: one image, waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from flask import Blueprint, Response, g, request

from accounts.keys import Caller
from app.accepting import accept
from app.dialects.image_generate.words import Answers, CustomerMismatchError
from app.dialects.watching import Watching
from app.http import links
from app.http.bodies import read_json_object
from app.http.endpoint import Answer, Endpoint, describe
from app.http.held import held, hold_here
from app.http.responses import json_answer
from app.http.strict_request import StrictRequest
from app.orders import forms, idempotency_key, request_body
from app.services import services
from app.shapes.schemas.replaced import ImageGenerateBody, ImageGenerateOut
from core.wire import json_text
from jobs.errors import FieldFault
from jobs.submission.order import Order

bp = Blueprint("image_generate", __name__)

SETTINGS = ("model", "width", "height", "quality")


@bp.post("/image/generate")
@describe(
    Endpoint(
        "Make one image and wait for it",
        "replaced",
        (Answer(200, "The image; or, after 15 s, a failure that the wrapper tells.", ImageGenerateOut),),
        scope="jobs:write",
        pace="submit",
        errors=(
            *("malformed_json", "insufficient_credits", "spending_limit", "model_not_allowed", "customer_mismatch"),
            *("content_refused", "screening_unavailable", "upstream_failed", "host_not_allowed"),
        ),
        body=ImageGenerateBody,
        request_headers=("Idempotency-Key", "Cache-Control"),
        description="A bad order is 400 here, with every bad field in `message`. Spaces keep the answer alive after 15"
        " s, when its status is already 200: `success` and `code` tell how it went.",
    )
)
def generate() -> Response:
    here = links.here()
    here.absolute("/")  # refused before anything is accepted, not when the image is there
    service, caller = services(), g.caller
    service.waits.places.check(caller.account_id)
    order = _order(read_json_object(request), forms.kinds_of(service.catalog), caller)
    key = idempotency_key.read(request, order, key_id=caller.key_id)
    task = accept(service, caller, order, key=key, request_id=g.request_id).task
    del order
    cast("StrictRequest", request).let_go()  # what waits on holds no image
    watching, answers, hold = Watching(service, task), Answers(here, service.store), hold_here()
    if (ended := watching.end(hold.quiet_s)) is not None:
        body, status = answers.of(ended)
        return json_answer(body, status, {"X-Task-Id": task.id})
    # A job that outlasts the answer is told as it is, and goes on.
    response = held(
        watching.end_within(hold.most_s),
        lambda found: json_text(answers.of(found)[0]).encode(),
        beat_s=hold.beat_s,
        stopping=hold.stopping,
        content_type="application/json",
    )
    response.headers["X-Task-Id"] = task.id
    return response


def _order(members: Mapping[str, Any], kinds: Mapping[str, str], caller: Caller) -> Order:
    """The native order. Raises CustomerMismatchError; every other fault is told with those of the order itself."""
    faults: list[FieldFault] = []
    prompt = members.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        faults.append(FieldFault("prompt", "required", "must say what the image shall show"))
    customer = _customer(members.get("customer_id"), faults)
    fields: dict[str, Any] = {
        "prompt": prompt,
        **_settings(members.get("settings"), faults),
        "n": 1,
        "lenient": True,  # one form of settings serves every model
    }
    if not _flag(members.get("save_to_db", True), faults):
        fields["store"] = False
    if customer:
        fields["metadata"] = {"customer_id": customer}
        if caller.external_ids and customer not in caller.external_ids:
            raise CustomerMismatchError
    order = request_body.of_members(fields, kinds).order("generate")
    known = {fault.field for fault in faults}
    others = [fault for fault in order.faults if fault.field not in known]
    return replace(order, faults=[*faults, *others], client={"dialect": "image_generate", "customer_id": customer})


def _customer(value: object, faults: list[FieldFault]) -> str:
    """The customer as text; empty, with a fault, where there is none."""
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 10**20:
        return str(number)
    faults.append(FieldFault("customer_id", "out_of_range", "must be a whole number above 0"))
    return ""


def _settings(value: object, faults: list[FieldFault]) -> dict[str, Any]:
    image = _object(value, "settings", faults).get("image")
    found = _object(image, "settings.image", faults)
    return {name: found[name] for name in SETTINGS if found.get(name) not in (None, "")}


def _object(value: object, name: str, faults: list[FieldFault]) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    if value is not None:
        faults.append(FieldFault(name, "wrong_type", "must be an object"))
    return {}


_FLAGS: Mapping[object, bool] = {"true": True, "1": True, "false": False, "0": False}


def _flag(value: object, faults: list[FieldFault]) -> bool:
    known: Callable[[Any], bool | None] = _FLAGS.get
    flag = True if value is None else value if isinstance(value, bool) else known(str(value).lower())
    if flag is None:
        faults.append(FieldFault("save_to_db", "wrong_type", "must be true or false"))
        return True
    return flag
