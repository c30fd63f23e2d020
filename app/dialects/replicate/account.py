"""Who is calling, and the secret of its callbacks, as Replicate's clients ask for them."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from app.dialects.replicate.predictions import TAG
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.replicate import ReplicateAccount, ReplicateSecret
from webhooks import secrets

bp = Blueprint("replicate_account", __name__)


@bp.get("/v1/account")
@describe(Endpoint("Read your account", TAG, (Answer(200, "The account of the key.", ReplicateAccount),)))
def account() -> Response:
    read_query(Empty, request.args)
    name = g.caller.account_name or g.caller.account_id
    return json_answer({"type": "organization", "username": name, "name": name, "github_url": None})


@bp.get("/v1/webhooks/default/secret")
@describe(
    Endpoint(
        "Read the secret that signs your callbacks",
        TAG,
        (Answer(200, "That of your account.", ReplicateSecret),),
        scope="webhooks",
        description="The one that `GET /api/webhooks/secret` answers, where it is rotated too.",
    )
)
def secret() -> Response:
    read_query(Empty, request.args)
    found = services().connections.autocommit(secrets.account_secret, g.caller.account_id)
    return json_answer({"key": found.value})
