"""Webhooks in: an upstream says that a call is done, and the job is looked at immediately.

Open to callers that know an address of ours (``jobs.execution.callbacks``) and, where the operator has set the
provider's signing secret, sign with it. Off until DARKROOM_PUBLIC_URL is set.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, request

from app.http.endpoint import Answer, Endpoint, describe
from app.http.signing import SignatureInvalidError
from app.services import services
from core.errors import ServiceError
from core.ids import is_id
from jobs import lifecycle
from jobs.execution.callbacks import PATH
from providers.shared.signatures import is_genuine

bp = Blueprint("hooks", __name__, url_prefix=PATH)

MAX_BYTES = 1024 * 1024


class HookNotFoundError(ServiceError):
    """No address of ours, or webhooks are off: the same answer for both."""

    code = "not_found"


@bp.post("/<provider>/<call_id>/<token>")
@describe(
    Endpoint(
        "An upstream reports on a call",
        "hooks",
        (Answer(204, "Heard; a look at the upstream will say what is true.", media_types=()),),
        scope=None,
        spared=True,
        errors=("not_found", "signature_invalid", "request_too_large"),
        description="For upstreams alone, at addresses that only we make. A report is a hint and changes nothing by"
        " itself; the same one may come any number of times.",
    )
)
def report(provider: str, call_id: str, token: str) -> Response:
    parts = services()
    if not is_id(call_id, "call") or not parts.callbacks.knows(provider, call_id, token):
        raise HookNotFoundError("there is no such address")
    request.max_content_length = MAX_BYTES  # announced or not
    body = request.get_data(cache=False)
    secret = parts.hook_secrets.get(provider)
    if secret is not None and not is_genuine(provider, dict(request.headers), body, secret=secret.get_secret_value()):
        raise SignatureInvalidError("not signed with the secret set here, or too long ago")
    parts.publish(parts.connections.transaction(lifecycle.reported, call_id, _upstream_id(body)))
    return Response(status=204)


def _upstream_id(body: bytes) -> Any:
    """The upstream's own id of the call; replicate, wavespeed and flux all call it ``id``."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found.get("id") if isinstance(found, dict) else None
