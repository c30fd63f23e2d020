"""How Replicate says an error: a problem document, whose ``detail`` is a text, and without the member ``error``.

@ai-sdk/replicate reads ``error`` as a text, and a body where it is an object not at all.
"""

from __future__ import annotations

import re
from typing import Any

from flask import Response

from app.dialects.replicate.prediction import FLAGGED
from app.http.dialect import Dialect, Problem, Said
from app.http.errors import PROBLEM_JSON
from app.http.limit_headers import nearest, told

PREFIXES = ("/v1/predictions", "/v1/deployments/", "/v1/account", "/v1/webhooks/", "/v1/models/")
MODEL_PATH = re.compile(r"/v1/models/[^/]+/[^/]")

_TITLES = {
    "key_missing": "Unauthenticated",
    "key_invalid": "Unauthenticated",
    "scope_missing": "Forbidden",
    "insufficient_credits": "Insufficient credit",
    "unknown_model": "Invalid version or not permitted",
    "model_not_allowed": "Invalid version or not permitted",
    "spending_limit": "Spend limit reached",
    "content_refused": "Content flagged",
}
# Codes that Replicate has another status for.
_STATUS = {"model_not_allowed": 422}
_DETAILS = {
    "key_missing": "You did not pass an authentication token",
    "key_invalid": "You did not pass a valid authentication token",
}
# Where Replicate's titles are the same for every fault of a field.
_VALIDATION = "Input validation failed"


def say(problem: Problem) -> Said:
    """An error as Replicate's clients read it. Of a fault in a field ``invalid_fields`` has name and reason."""
    code = problem["code"]
    status: int = _STATUS.get(code) or problem["status"]
    detail = _DETAILS.get(code) or problem["detail"]
    if status == 429:
        return Said({"detail": f"Request was throttled: {detail}", "status": status}, status, PROBLEM_JSON)
    body: dict[str, Any] = {"title": _TITLES.get(code) or problem["title"]}
    if errors := problem.get("errors"):
        if code == "content_refused":
            detail = f"{FLAGGED} ({detail})"
        elif code != "unknown_model":
            body["title"] = _VALIDATION
            detail = "".join(f"- {each['field']}: {each['message']}\n" for each in errors)
        body["invalid_fields"] = [
            {"type": each["code"], "field": each["field"], "description": each["message"]} for each in errors
        ]
    kept = {name: problem[name] for name in ("type", "instance", "code", "request_id", *_FACTS) if name in problem}
    return Said({**body, "detail": detail, "status": status, **kept}, status, PROBLEM_JSON)


# Members of our own problems that help a caller on.
_FACTS = ("category", "price_microcredits", "balance_microcredits", "limit_microcredits", "resets_at", "more_errors")


def is_ours(path: str) -> bool:
    """Whether a path below our prefixes is Replicate's: ``/v1/models/{id}``, with one part, is OpenAI's."""
    return not path.startswith("/v1/models/") or MODEL_PATH.match(path) is not None


def finish(response: Response) -> None:
    """Add the headers by which Replicate tells a limit, of several the one nearest to its end."""
    if (near := nearest(told())) is not None:
        response.headers["ratelimit-limit"] = str(near.limit)
        response.headers["ratelimit-remaining"] = str(near.left)
        response.headers["ratelimit-reset"] = str(near.reset_s)


REPLICATE = Dialect(
    name="replicate", prefixes=PREFIXES, say=say, schemes=("bearer", "token"), claims=is_ours, finish=finish
)
