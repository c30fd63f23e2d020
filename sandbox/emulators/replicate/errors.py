"""Replicate's problem documents (section 7 of the contract), and those that have a fixed text."""

from collections.abc import Sequence

from flask import Response

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, html_answer, json_answer

FLAGGED = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"
# What ``fail=`` may name, next to any text of its own.
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
_NO_VERSION = "The specified version does not exist (or perhaps you don't have permission to use it?)"
# By status: title and detail. The wait of a 429 stands in the words alone.
_SAID = {
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: (
        "Insufficient credit",
        "You have insufficient credit to run this model. Go to the billing page to purchase credit.",
    ),
    403: ("", "The token may not do this"),
    404: ("", "The requested resource could not be found."),
    422: ("Invalid version or not permitted", _NO_VERSION),
    429: ("", "Request was throttled. Your rate limit resets in ~30s."),
}


class Problem(WireError):  # noqa: N818 - the name of the standard for such documents
    """``{title?, detail, status, invalid_fields?}`` with an HTTP status; what it says follows from that by default."""

    def __init__(
        self, status: int, detail: str = "", *, title: str = "", invalid_fields: Sequence[dict[str, str]] = ()
    ) -> None:
        usual_title, usual_detail = _SAID.get(status, ("", f"Scripted by the sandbox: HTTP {status}."))
        super().__init__(detail or usual_detail)
        self.status, self.invalid_fields = status, list(invalid_fields)
        self.title = title if detail else usual_title

    def response(self) -> Response:
        """The answer."""
        document: dict[str, object] = {"title": self.title} if self.title else {}
        document |= {"detail": str(self), "status": self.status}
        document |= {"invalid_fields": self.invalid_fields} if self.invalid_fields else {}
        return json_answer(document, self.status, content_type="application/problem+json")


def invalid(faults: Sequence[tuple[str, str]], *, place: str = "") -> Problem:
    """422 naming every (field, description)."""
    named = [{"type": _kind(text), "field": f"{place}.{name}".strip("."), "description": text} for name, text in faults]
    # What is missing is told of the object that lacks it.
    lines = (
        f"- {place if each['type'] == 'required' and place else each['field']}: {each['description']}\n"
        for each in named
    )
    return Problem(422, "".join(lines), title="Input validation failed", invalid_fields=named)


def _kind(text: str) -> str:
    return "required" if text.endswith("is required") else "invalid"


def for_fault(fault: Fault) -> Response:
    """The answer to a scripted bare status, or to an empty account."""
    status = 402 if fault.name == "quota" else fault.status or 503
    if status >= 500:
        return html_answer(status)
    # A scripted 422 is none about a version.
    return Problem(status, f"Scripted by the sandbox: HTTP {status}." if status == 422 else "").response()
