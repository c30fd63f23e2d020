"""An order from a request of fal's clients: its name, its input, its headers."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from flask import Request, g

from app.dialects.fal import apps, inputs
from app.dialects.fal.client import DIALECT, Kept
from app.dialects.fal.inputs import Input
from app.http.bodies import parse_object, storable
from app.http.errors import UnsupportedMediaTypeError
from app.http.strict_request import StrictRequest
from app.orders import forms, idempotency_key, request_body
from app.services import Services
from app.shapes.schemas.orders import OrderFields
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import JobWebhook, Order
from jobs.submission.sdk_attempts import SdkAttempt
from providers.catalog.catalog import Catalog, Model

WHERE = "fal_where"  # of flask.g: where the client said the fields of its order, for errors.py
MAX_DEADLINE_S = 30 * 86_400
MAX_WEBHOOK_CHARS = 2000
_TRUE = ("1", "true", "yes")
_WHOLE = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Asked:
    """An order and its key. ``attempt`` is equal for equal requests of one client alone; ``ignored`` are the members of
    the input that nothing here takes."""

    name: str
    order: Order
    key: IdempotencyKey | SdkAttempt | None
    attempt: bytes
    ignored: list[str]


def read(service: Services, request: Request, name: str, *, key_id: str, queued: bool) -> Asked:
    """The order in a request for an application. ``queued``: it goes to the queue, which knows priorities and webhooks.

    Raises UnknownAppError, MalformedJsonError, UnsupportedMediaTypeError, IdempotencyKeyError; faults of the order are
    in it.
    """
    catalog = service.catalog
    app = apps.find(name, catalog)
    raw = request.get_data(cache=True)  # what makes an SDK's repeat is read from it as well
    found = inputs.read(_members(request, raw), _settings(catalog, app))
    g.fal_where = found.where
    target = apps.choose(
        app,
        catalog,
        service.configured,
        may_use=lambda model: g.caller.may_use(model.id, model.provider),
        has_image=found.has_image,
        has_mask=found.has_mask,
    )
    _coerce(found.fields, catalog.models.get(target.model))
    found.fields |= {"model": target.model, "lenient": True}
    timeout = _take_headers(found, request, queued=queued)
    webhook = _webhook(found, request) if queued else None
    body = request_body.of_members(found.fields, forms.kinds_of(catalog))
    kept = Kept(dialect=DIALECT, app=name, data_urls=found.data_urls, start_timeout=timeout)
    faults = [*found.faults, *body.faults]
    order = Order(target.operation, body.fields, body.images, faults, client=kept, webhook=webhook)
    key = idempotency_key.read(request, order, key_id=key_id)
    asked = Asked(name, order, key, _attempt(request, raw, key_id), found.ignored)
    cast("StrictRequest", request).let_go()
    return asked


def _attempt(request: Request, raw: bytes, key_id: str) -> bytes:
    agent = request.headers.get("User-Agent", "")
    head = "\n".join((key_id, request.path, request.remote_addr or "", agent, ""))
    return hashlib.sha256(head.encode() + raw).digest()


def _members(request: Request, raw: bytes) -> Mapping[str, Any]:
    """The input; an empty body is an empty one."""
    if not raw.strip():
        return {}
    if not request.is_json:
        raise UnsupportedMediaTypeError("send the input as application/json")
    return parse_object(raw)


def _settings(catalog: Catalog, app: apps.App) -> set[str]:
    return {name for each in app.models if (model := catalog.models.get(each)) for name in (*model.params, *model.size)}


def _coerce(fields: dict[str, Any], model: Model | None) -> None:
    """Settings of a model's own that fal's schemas have as words of a list ("2") become numbers where it takes one."""
    for name, spec in model.params.items() if model else ():
        value = fields.get(name)
        own = spec.type == "int" and name not in OrderFields.model_fields
        if own and isinstance(value, str) and _WHOLE.fullmatch(value):
            fields[name] = int(value)


def _take_headers(found: Input, request: Request, *, queued: bool) -> bool:
    """Take what fal's headers say of the job. Returns whether the client has set a latest start of its own."""
    headers = request.headers
    if queued and (priority := headers.get("X-Fal-Queue-Priority")) is not None:
        if priority in ("normal", "low"):
            found.fields["priority"] = priority
        else:
            found.fault(("header", "x-fal-queue-priority"), "not_allowed", "must be normal or low")
    if headers.get("x-fal-no-retry", "").lower() in _TRUE:
        found.fields["fallback_models"] = []
    timeout = headers.get("X-Fal-Request-Timeout")
    if timeout is None:
        return False
    seconds = _seconds(timeout)
    if seconds is None:
        found.fault(("header", "x-fal-request-timeout"), "wrong_type", "must be a number of seconds above 0")
    else:
        found.fields["deadline_s"] = min(math.ceil(seconds), MAX_DEADLINE_S)
    return True


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _webhook(found: Input, request: Request) -> JobWebhook | None:
    found.where["webhook_url"] = ("query", "fal_webhook")  # whether it may be called is judged with the order
    urls = request.args.getlist("fal_webhook")
    if not urls or urls == [""]:
        return None
    if len(urls) > 1 or not re.match(r"https?://[^/]", urls[0]) or len(urls[0]) > MAX_WEBHOOK_CHARS:
        found.fault(("query", "fal_webhook"), "not_allowed", "must be one http or https URL")
    elif not storable(urls[0]):
        found.fault(("query", "fal_webhook"), "wrong_type", "is not text")
    return JobWebhook(urls[0], form=DIALECT)
