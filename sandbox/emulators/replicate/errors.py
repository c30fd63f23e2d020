"""Replicate's problem documents (section 7 of the contract sheet), and those that have a fixed text."""

from collections.abc import Sequence

from flask import Response, jsonify

from sandbox.markers import Fault

FLAGGED = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"
# What ``fail=`` may name, beside any text of its own.
FAILURES = {
    "": "The model stopped without a word of reason",
    "policy": FLAGGED,
    "moderation": FLAGGED,
    "nsfw": "NSFW content detected. Try running it again, or try a different prompt.",
    "oom": "CUDA out of memory (E1001)",
    "unknown": "Something went wrong (E1000)",
    "start": "Prediction timed out while starting (E6716)",
    "webhook": "Webhook URL is empty (E4875)",
    "upstream": "Upstream trouble (E8765)",
}


class Problem(Exception):  # noqa: N818 - the name of the document's standard
    """``{title?, detail, status, invalid_fields?}`` with an HTTP status; without a title only ``detail``."""

    def __init__(
        self, status: int, detail: str, *, title: str = "", invalid_fields: Sequence[dict[str, str]] = ()
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.invalid_fields = status, title, invalid_fields

    def response(self) -> Response:
        """The answer."""
        document: dict[str, object] = {"title": self.title} if self.title else {}
        document |= {"detail": str(self), "status": self.status}
        if self.invalid_fields:
            document["invalid_fields"] = list(self.invalid_fields)
        answer = jsonify(document)
        answer.status_code = self.status
        answer.content_type = "application/problem+json"
        return answer


def unauthenticated() -> Problem:
    """401."""
    text = "You did not pass a valid authentication token"
    return Problem(401, text, title="Unauthenticated")


def out_of_credit() -> Problem:
    """402."""
    text = "You have insufficient credit to run this model. Go to the billing page to purchase credit."
    return Problem(402, text, title="Insufficient credit")


def forbidden() -> Problem:
    """403."""
    return Problem(403, "The token may not do this")


def not_found() -> Problem:
    """404: only a detail."""
    return Problem(404, "The requested resource could not be found.")


def invalid(faults: Sequence[tuple[str, str]], *, place: str = "") -> Problem:
    """422 naming every (field, description)."""
    named = [{"type": _kind(text), "field": f"{place}.{name}".strip("."), "description": text} for name, text in faults]
    # What is missing is told of the object that lacks it.
    lines = (
        f"- {place if each['type'] == 'required' and place else each['field']}: {each['description']}\n"
        for each in named
    )
    detail = "".join(lines)
    return Problem(422, detail, title="Input validation failed", invalid_fields=named)


def _kind(text: str) -> str:
    return "required" if text.endswith("is required") else "invalid"


def invalid_version() -> Problem:
    """422: no such version, or none for this account."""
    text = "The specified version does not exist (or perhaps you don't have permission to use it?)"
    return Problem(422, text, title="Invalid version or not permitted")


def throttled() -> Problem:
    """429: the wait stands in the words alone."""
    return Problem(429, "Request was throttled. Your rate limit resets in ~30s.")


def for_fault(fault: Fault) -> Response:
    """The answer to a scripted bare status, or to an empty purse."""
    if fault.name == "quota":
        return out_of_credit().response()
    status = fault.status or 503
    if status >= 500:
        page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
        return Response(page, status=status, content_type="text/html")
    known = {401: unauthenticated, 402: out_of_credit, 403: forbidden, 404: not_found, 429: throttled}
    problem = known[status]() if status in known else Problem(status, f"Scripted by the sandbox: HTTP {status}.")
    return problem.response()
