"""The public key of callbacks, as a JWKS: receivers check signatures with it."""

from __future__ import annotations

import base64
import hashlib

from flask import Blueprint, Response, current_app

from app.dialects.fal.schemas import Keys
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.services import services
from webhooks import installation_key

bp = Blueprint("fal_keys", __name__, url_prefix="/fal")

SEED = "darkroom_installation_seed"
MAX_AGE_S = 24 * 3600  # as receivers are told to keep fal's own


@bp.get("/.well-known/jwks.json")
@describe(
    Endpoint(
        "The key that signs callbacks",
        "fal",
        (Answer(200, "A JWKS with one Ed25519 key.", Keys, headers=("Cache-Control",)),),
        scope=None,
        errors=("database_unavailable",),
        description="Signed is `request id, user id, timestamp, SHA-256 of the body in hex`, a line each; the signature"
        " is in hex. Made once for each installation, and kept in its database.",
    )
)
def jwks() -> Response:
    extensions = current_app.extensions
    if SEED not in extensions:  # it never changes, and anyone may ask
        extensions[SEED] = services().connections.transaction(installation_key.seed)
    seed: bytes = extensions[SEED]
    public = installation_key.public_key(seed)
    key = {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": hashlib.sha256(public).hexdigest()[:16],
        "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode(),
    }
    return json_answer({"keys": [key]}, headers={"Cache-Control": f"public, max-age={MAX_AGE_S}"})
