"""The server's refusals as errors of a command: exit code, code, bad fields and what to do next."""

from __future__ import annotations

import requests

from app.cli.client.answers import Document
from app.cli.output import CommandError, Exit, Fault

# Members of a problem that the error has in its own fields, or that are for other clients.
_SHOWN_ELSEWHERE = ("code", "detail", "errors", "type", "title", "error", "error_type", "message")

# With one of these codes a 502 or 503 comes from a server that works.
_EXIT_BY_CODE = {"upstream_failed": Exit.FAILED, "enhancer_not_configured": Exit.FAILED}

_EXIT_BY_STATUS = {
    401: Exit.NOT_ALLOWED,
    402: Exit.INSUFFICIENT_CREDITS,
    403: Exit.NOT_ALLOWED,
    502: Exit.AWAY,
    503: Exit.AWAY,
    504: Exit.AWAY,
}


def refusal(response: requests.Response) -> CommandError:
    """A problem+json response as an error; other responses by their status alone, never by their text."""
    status = response.status_code
    problem = _problem(response)
    if problem is None:
        request_id = response.headers.get("X-Request-Id")
        facts = {"status": status} | ({"request_id": request_id} if request_id else {})
        exit_code = _EXIT_BY_STATUS.get(status, Exit.FAILED if status >= 500 else Exit.AWAY)
        detail = f"the server answered {status} {response.reason or ''}".rstrip() + " without saying why"
        return CommandError(exit_code, f"http_{status}", detail, facts=facts)
    code = str(problem.get("code") or f"http_{status}")
    return CommandError(
        _EXIT_BY_CODE.get(code, _EXIT_BY_STATUS.get(status, Exit.FAILED)),
        code,
        str(problem.get("detail") or problem.get("title") or f"the server answered {status}"),
        faults=_faults(problem),
        hint=_hint(status, response),
        facts={k: v for k, v in problem.items() if k not in _SHOWN_ELSEWHERE},
    )


def _hint(status: int, response: requests.Response) -> str:
    if status == 401:
        return "Give a key with --key or DARKROOM_KEY; `darkroom key create ACCOUNT` makes one."
    if status == 402:
        return "`darkroom grant ACCOUNT CREDITS` adds credits."
    retry_after = response.headers.get("Retry-After", "")
    return f"Try again in {retry_after} s." if retry_after.isdigit() else ""


def _problem(response: requests.Response) -> Document | None:
    try:
        value = response.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) and ("code" in value or "detail" in value) else None


def _faults(problem: Document) -> list[Fault]:
    errors = problem.get("errors")
    rows = [row for row in errors if isinstance(row, dict)] if isinstance(errors, list) else []
    return [Fault(*(str(row.get(k, "")) for k in ("field", "code", "message"))) for row in rows]
