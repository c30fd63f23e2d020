"""Who is calling, as Replicate's clients ask it."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from app.dialects.replicate.predictions import TAG
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.shapes.schemas.base import Empty
from app.shapes.schemas.replicate import ReplicateAccount

bp = Blueprint("replicate_account", __name__)


@bp.get("/v1/account")
@describe(Endpoint("Read your account", TAG, (Answer(200, "The account of the key.", ReplicateAccount),)))
def account() -> Response:
    read_query(Empty, request.args)
    name = g.caller.account_name or g.caller.account_id
    return json_answer({"type": "organization", "username": name, "name": name, "github_url": None})
