"""Tasks of other accounts for ``darkroom tasks`` and ``darkroom show``: for keys with the scope admin."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from app.cli.client.answers import Document, time_text
from app.cli.client.connection import Client
from app.cli.client.waiting import waits_for
from app.cli.output import CommandError, Exit, Output, credits_of, one_line

ROUTE = "/api/admin/tasks"
# Any of these options asks for the tasks of every account.
OPTIONS = (
    "all_accounts", "account", "key_id", "request_id", "upstream_id", "prompt", "prompt_sha256", "provider", "code",
    "created_before", "contents",
)  # fmt: skip


def admin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that search all accounts; the command receives them as ``wide``, empty where none is given."""

    @click.option("--all-accounts", is_flag=True, help="Tasks of every account; this and the next need scope admin.")
    @click.option("--account", metavar="NAME", help="Tasks of this account, by name or id.")
    @click.option("--key-id", metavar="ID", help="By the API key that ordered them.")
    @click.option("--request-id", metavar="ID", help="By X-Request-Id of the submit.")
    @click.option("--upstream-id", metavar="ID", help="By the upstream's own id.")
    @click.option("--prompt", metavar="TEXT", help="By the whole prompt; only its SHA-256 is sent.")
    @click.option("--prompt-hash", "prompt_sha256", metavar="SHA256", help="By the SHA-256 of the prompt.")
    @click.option("--provider", metavar="NAME")
    @click.option("--code", metavar="CODE", help="By the code of the failure.")
    @click.option("--created-before", metavar="TIME")
    @click.option("--contents", is_flag=True, help="Show the prompts, too; the server logs who asked.")
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in OPTIONS}
        return command(*args, wide={name: value for name, value in given.items() if value}, **kwargs)

    return wrapped


def list_wide(output: Output, client: Client, wide: Mapping[str, Any], filters: Mapping[str, Any]) -> None:
    """Search every account and print what was found. Raises CommandError for what this search does not take."""
    if any(name.startswith("metadata.") for name in filters):
        raise CommandError(Exit.USAGE, "bad_option", "--metadata does not go with a search of all accounts")
    asked = {name: value for name, value in {**filters, **wide}.items() if name not in ("all_accounts", "prompt")}
    if prompt := wide.get("prompt"):
        asked["prompt_sha256"] = hashlib.sha256(prompt.encode()).hexdigest()
    if asked.get("contents"):
        asked["contents"] = "true"
    page = client.page(ROUTE, asked)
    output.document(page.document)
    output.table(("task", "account", "status", "model", "credits", "created", "prompt"), map(_row, page.items))
    if page.next_cursor:
        output.note(f"more: --cursor {page.next_cursor}")


def _row(task: Document) -> tuple[str, ...]:
    price = _mapping(task.get("price"))
    charged = price.get("captured_microcredits")
    return (
        str(task.get("id", "")),
        str(_mapping(task.get("account")).get("name", "")),
        _state(task),
        f"{task.get('model')} ({task.get('provider')})",
        credits_of(price.get("quoted_microcredits") if charged is None else charged),
        time_text(task.get("created_at", "")),
        _prompt(task, 48),
    )


def _state(task: Document) -> str:
    more = _mapping(task.get("error")).get("code") or waits_for(task)
    return f"{task.get('status')}, {more}" if more else str(task.get("status"))


def _prompt(task: Document, width: int) -> str:
    contents = task.get("contents")
    if isinstance(contents, Mapping):
        return one_line(str(_mapping(contents.get("request")).get("prompt") or ""), width)
    digest = task.get("prompt_sha256")
    return f"sha256 {str(digest)[:12]}…, {task.get('prompt_chars')} characters" if digest else ""


def show_of_any_account(output: Output, client: Client, task_id: str, refused: CommandError, *, contents: bool) -> None:
    """Print a task that is not the caller's own. Raises ``refused`` where the key may not see it either."""
    try:
        task = client.get(f"{ROUTE}/{task_id}", {"contents": "true"} if contents else {})
    except CommandError as error:
        raise (refused if error.facts.get("status") in (403, 404) else error) from None
    output.document(task)
    for label, value in _facts(task):
        if value:
            output.line(f"{label:<10} {value}")
    for call in task.get("calls") or ():
        output.line(f"{'call':<10} {_call(call)}")
    for step in task.get("timeline") or ():
        output.line(f"{'step':<10} {time_text(step.get('at', ''))}  {step.get('type')}")


def _facts(task: Document) -> list[tuple[str, str]]:
    account, price, error = (_mapping(task.get(name)) for name in ("account", "price", "error"))
    amounts = ((name, price.get(name)) for name in ("quoted", "captured", "released"))
    return [
        ("task", str(task.get("id"))),
        ("account", f"{account.get('name')} ({account.get('id')})"),
        ("status", _state(task)),
        ("operation", str(task.get("operation"))),
        ("model", f"{task.get('model')} ({task.get('provider')})"),
        ("request", str(task.get("request_id") or "")),
        ("prompt", _prompt(task, 400)),
        ("error", f"{error.get('code')}: {error.get('message')}" if error else ""),
        ("credits", ", ".join(f"{name} {amount}" for name, amount in amounts if amount is not None)),
        *((name, time_text(task[f"{name}_at"]) if task.get(f"{name}_at") else "")
          for name in ("created", "started", "finished")),
        ("images", str(len(task.get("images") or ()))),
    ]  # fmt: skip


def _call(call: Document) -> str:
    parts = (call.get("id"), call.get("credential"), call.get("model"), call.get("outcome") or "open",
             call.get("upstream_id"), call.get("error_code"), call.get("error_detail"))  # fmt: skip
    return "  ".join(str(part) for part in parts if part)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
