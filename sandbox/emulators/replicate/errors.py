"""Replicate's problem documents (section 7 of the contract); what they say is in ``errors.yaml``."""

from collections.abc import Mapping, Sequence

from flask import Response

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, html_answer, json_answer
from sandbox.plumbing.validation import Problem as Misfit
from sandbox.plumbing.validation import json_type, load_yaml

_SAID = load_yaml(__file__, "errors.yaml")
FAILURES: Mapping[str, str] = _SAID["failures"]


class Problem(WireError):  # noqa: N818 - the name of the standard for such documents
    """``{title?, detail, status, invalid_fields?}`` with an HTTP status; what it says follows from that by default."""

    def __init__(
        self, status: int, detail: str = "", *, title: str = "", invalid_fields: Sequence[dict[str, str]] = ()
    ) -> None:
        usual_title, usual_detail = _SAID["statuses"].get(status, ("", f"Scripted by the sandbox: HTTP {status}."))
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


def worded(misfit: Misfit) -> str:
    """What Replicate says of one field."""
    keyword, limit = misfit.keyword, misfit.limit
    if keyword == "type" and misfit.top in ("input", "version"):
        keyword = "required"  # what a body cannot do without is missing, whatever is there instead
    if keyword not in _SAID["fields"]:
        return misfit.message
    listed = ", ".join(map(str, limit)) if isinstance(limit, list) else ""
    said: str = _SAID["fields"][keyword]
    return said.format(name=misfit.top, limit=limit, given=json_type(misfit.value), listed=listed)


def _kind(text: str) -> str:
    return "required" if text.endswith("is required") else "invalid"


def for_fault(fault: Fault) -> Response:
    """The answer to a scripted bare status, or to an empty account."""
    status = 402 if fault.name == "quota" else fault.status or 503
    if status >= 500:
        return html_answer(status)
    # A scripted 422 is none about a version.
    return Problem(status, f"Scripted by the sandbox: HTTP {status}." if status == 422 else "").response()
