"""``darkroom tasks``, ``show``, ``watch`` and ``cancel``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from app.cli.client.admin_tasks import admin_options, list_wide, show_of_any_account
from app.cli.client.answers import Document, Image, Task, read_task, time_text
from app.cli.client.connection import Client, task_path
from app.cli.client.generate import deliver
from app.cli.client.options import client_options
from app.cli.client.saving import check_targets
from app.cli.client.watching import conclude, follow, headline
from app.cli.output import CommandError, Exit, Output, credits_of, one_line, output_options, size_text
from app.cli.parameters import DURATION, LABEL

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
# Where a task failed: the stages of its `error`.
_STAGE_WORDS = {
    "queued": "it was queued",
    "submit": "the upstream was asked",
    "running": "it ran",
    "download": "the result was fetched",
    "store": "the result was stored",
}


@click.command()
@output_options
@client_options
@click.option("--status", type=click.Choice(STATUSES))
@click.option("--operation", metavar="NAME", help="Such as generate or edit.")
@click.option("--model", metavar="ID")
@click.option("--created-after", metavar="TIME", help="Such as 2026-01-31T00:00:00Z.")
@click.option("--metadata", type=LABEL, multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--limit", type=click.IntRange(1, 100), help="How many at most.")
@click.option("--cursor", help="Continue a list where the page before ended.")
@admin_options
def tasks(
    output: Output, client: Client, metadata: Sequence[tuple[str, Any]], wide: dict[str, Any], **filters: Any
) -> None:
    """List your tasks, newest first; with the scope admin, search those of every account."""
    wanted = {**filters, **{f"metadata.{name}": value for name, value in metadata}}
    if wide:
        list_wide(output, client, wide, wanted)
        return
    page = client.page("/api/images/tasks", wanted)
    rows = [_row_or_id(item) for item in page.items]
    output.document(page.document)
    output.table(("task", "status", "operation", "model", "credits", "created", "prompt"), rows)
    if page.next_cursor:
        output.note(f"more: --cursor {page.next_cursor}")


def _row_or_id(item: Document) -> tuple[str, ...]:
    """A row of the list. A task that this command cannot read, of a newer server perhaps, does not cost the others."""
    try:
        return _row(read_task(item))
    except CommandError:
        return (str(item.get("id", "?")), str(item.get("status", "?")), "", "", "", "", "(unreadable)")


def _row(task: Task) -> tuple[str, ...]:
    price = credits_of(task.quoted_microcredits if task.captured_microcredits is None else task.captured_microcredits)
    prompt = _request(task).get("prompt")
    created = time_text(task.document.get("created_at", ""))
    return (
        task.id,
        headline(task),
        task.operation,
        task.model,
        price,
        created,
        one_line(str(prompt or ""), 48),
    )


@click.command()
@output_options
@client_options
@click.argument("task_id", metavar="ID")
@click.option("--contents", is_flag=True, help="Of another account's task, show the prompt, too; scope admin.")
def show(output: Output, client: Client, task_id: str, contents: bool) -> None:
    """Show one task: what was asked, where it stands, its images, its price.

    With the scope admin also one of another account, with its calls and its timeline.
    """
    try:
        task = client.task(task_id)
    except CommandError as error:
        if error.facts.get("status") != 404:
            raise
        show_of_any_account(output, client, task_id, error, contents=contents)
        return
    output.document(task.document)
    for label, value in _facts(task):
        if value:
            output.line(f"{label:<10} {value}")
    for warning in task.warnings:
        output.warn(warning)


def _facts(task: Task) -> list[tuple[str, str]]:
    document = task.document
    moments = [(name, document.get(f"{name}_at")) for name in ("created", "started", "finished")]
    error = f"{task.error_code}: {task.error_detail}" if task.error_code else ""
    return [
        ("task", task.id),
        ("status", headline(task)),
        ("operation", task.operation),
        ("model", f"{task.model} ({task.provider})" if task.provider else task.model),
        ("chosen", _why(document.get("chosen"))),
        ("prompt", one_line(str(_request(task).get("prompt") or ""), 400)),
        ("error", error),
        ("failed", _where(document.get("error"))),
        ("credits", _money(task)),
        *((name, time_text(moment) if moment else "") for name, moment in moments),
        *((f"image {p.index}", _image_facts(p)) for p in task.images),
        *((f"text {p.index}", one_line(p.text, 400)) for p in task.images),
    ]


def _why(chosen: object) -> str:
    """The reason for the model, where the order named none."""
    return one_line(str(chosen.get("reason") or ""), 400) if isinstance(chosen, dict) else ""


def _where(error: object) -> str:
    """``while running, at openai``, of what the server says."""
    if not isinstance(error, dict) or not error.get("stage"):
        return ""
    at = f", at {error['provider']}" if error.get("provider") else ""
    return f"while {_STAGE_WORDS.get(str(error['stage']), error['stage'])}{at}"


def _image_facts(p: Image) -> str:
    facts = (p.pixels, p.mime, size_text(p.size_bytes), f"sha256 {p.sha256}", "deleted" if p.deleted else "")
    return "  ".join(filter(None, facts))


def _money(task: Task) -> str:
    """``quoted 5.3, captured 5.3``, of what is known."""
    amounts = (
        ("quoted", task.quoted_microcredits),
        ("captured", task.captured_microcredits),
        ("released", task.released_microcredits),
    )
    return ", ".join(f"{name} {credits_of(amount)}" for name, amount in amounts if amount is not None)


def _request(task: Task) -> Mapping[str, Any]:
    request = task.document.get("request")
    return request if isinstance(request, dict) else {}


@click.command()
@output_options
@client_options
@click.argument("task_id", metavar="ID")
@click.option("--output", "-o", "pattern", type=click.Path(path_type=Path), metavar="FILE", help="Save the images.")
@click.option("--force", "-f", is_flag=True, help="Replace files that exist.")
@click.option("--timeout", "timeout_s", type=DURATION, metavar="TIME", help="Stop waiting after this long (exit 7).")
def watch(
    output: Output, client: Client, *, task_id: str, pattern: Path | None, force: bool, timeout_s: int | None
) -> None:
    """Follow a task to its end; with -o, save its images. With --json, one line per change."""
    task = client.task(task_id)
    count = count_of(task)
    if pattern is not None:
        check_targets(pattern, count, force=force)
    ended = follow(client, task, output, timeout_s=timeout_s, stream=True)
    conclude(ended, printed=output.as_json)
    if pattern is not None:
        deliver(output, client, ended, pattern, count=count, force=force)
    else:
        output.line(f"{ended.id}  {headline(ended)}")


def count_of(task: Task) -> int:
    """How many images were ordered, so that names do not depend on how many were made."""
    asked = _request(task).get("n")
    return max(asked if isinstance(asked, int) else 1, len(task.images))


# The outcome of a cancel request, in words (docs/api-conventions.md, "Follow").
OUTCOMES = {
    "freed_in_queue": "cancelled before it started; nothing was charged",
    "stop_requested": "asked to stop; `darkroom watch` shows what becomes of it",
    "stopped_upstream": "stopped while it was being made",
    "too_late": "too late: it had ended, or the provider could not stop it",
}


@click.command()
@output_options
@client_options
@click.argument("task_id", metavar="ID")
def cancel(output: Output, client: Client, task_id: str) -> None:
    """Stop a task and show the outcome; exit 1 when it was too late."""
    answer = client.post(f"{task_path(task_id)}/cancel")
    outcome = str(answer.get("outcome") or "stop_requested")
    output.document(answer)
    output.line(f"{task_id}  {outcome}")
    output.note(OUTCOMES.get(outcome, ""))
    if outcome == "too_late":
        raise CommandError(Exit.FAILED, "too_late", f"{task_id} could not be cancelled", printed=output.as_json)
