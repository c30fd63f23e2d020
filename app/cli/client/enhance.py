"""``darkroom enhance``: a prompt rewritten by a language model, shown while it is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click

from app.cli.client.answers import Document, bad_answer
from app.cli.client.connection import CONNECT_TIMEOUT_S, Client
from app.cli.client.event_stream import Event, arriving, read_events
from app.cli.client.options import client_options
from app.cli.output import CommandError, Exit, Output, output_options, plain

READ_TIMEOUT_S = 120.0


@click.command()
@output_options
@client_options
@click.argument("prompt")
@click.option("--mode", type=click.Choice(["detail", "creative"]), default="detail", show_default=True)
@click.option("--model", "-m", help="The language model, or its provider; left out: the first configured one.")
@click.option("--language", help="The language to answer in.")
def enhance(output: Output, client: Client, prompt: str, **settings: str | None) -> None:
    """Have PROMPT (- reads stdin) rewritten. With --json, one line per piece."""
    text = sys.stdin.read().strip() if prompt == "-" else prompt
    body = {"prompt": text, **{k: v for k, v in settings.items() if v is not None}}
    pieces = []
    try:
        for piece in stream(client, body):
            pieces.append(piece)
            _show(output, piece)
    finally:
        # The shell's prompt, or the error, begins on a new line.
        if pieces and not output.as_json:
            click.echo()
    output.document({"done": True, "text": "".join(pieces)})


def _show(output: Output, piece: str) -> None:
    output.document({"delta": piece})
    if not output.as_json:
        click.echo(plain(piece), nl=False)


def stream(client: Client, body: Document) -> Iterator[str]:
    """The pieces of the answer. Raises CommandError, also when the stream breaks off or ends in an error."""
    headers = {"Accept": "text/event-stream"}
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with client.open(
        "POST", "/api/prompts/enhance", json=body, headers=headers, stream=True, timeout=timeout
    ) as response:
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise bad_answer("the answer is not a stream of events")
        ended = False
        for event in read_events(arriving(response)):
            if ended := event.data == "[DONE]" or event.name in ("done", "end"):
                break
            yield from _piece(event)
        if not ended:
            raise CommandError(Exit.FAILED, "stream_broken", "the answer broke off before its end")


def _piece(event: Event) -> Iterator[str]:
    """The text in an event, if it holds any. Raises CommandError for an error event."""
    try:
        value = json.loads(event.data)
    except ValueError:
        raise bad_answer("an event of the answer is not JSON") from None
    if event.name == "error" or (isinstance(value, dict) and "error" in value):
        raise _upstream_fault(value)
    piece = value if isinstance(value, str) else _first_text(value)
    if piece:
        yield piece


def _first_text(value: object) -> str:
    fields = value if isinstance(value, dict) else {}
    return next((fields[k] for k in ("delta", "text", "content") if isinstance(fields.get(k), str)), "")


def _upstream_fault(value: object) -> CommandError:
    inner = value.get("error", value) if isinstance(value, dict) else {}
    fault = inner if isinstance(inner, dict) else {"detail": inner}
    detail = fault.get("detail") or fault.get("message") or "the model failed while it was answering"
    return CommandError(Exit.FAILED, str(fault.get("code") or "upstream_fault"), str(detail))
