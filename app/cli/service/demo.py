"""``darkroom demo``: one image all the way through the real service, step by step.

The service it starts is complete, with its own servers, in a private folder that is removed when everything went
well. It draws with the sandbox whatever providers are configured, so that a demo costs nothing.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from app.cli.client.answers import Document, Image, Task
from app.cli.client.connection import Client, task_path
from app.cli.client.options import connect
from app.cli.client.quota import entry_credits
from app.cli.client.saving import save
from app.cli.client.watching import changes, conclude, interruptible
from app.cli.here import read_key, settings
from app.cli.output import CommandError, Exit, Output, credits_of, elapsed_text, output_options
from app.cli.parameters import DURATION

PROMPT = "a red fox asleep under a lemon tree, late afternoon light"
SIZE = "1024x1024"
MODEL = "chatgpt2api-gpt-image-2"  # its upstream works on while no one waits, so every step can be seen


class Narrator:
    """Prints what happens, each line with the time since the beginning; also a watching.Display."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        if not self._output.quiet:
            self._output.line(f"{elapsed_text(time.monotonic() - self._began):>6}  {text}")

    def show(self, task: Task) -> None:
        del task  # the timeline shows it in full

    def trouble(self, text: str) -> None:
        self.say(text)


@click.command()
@output_options
@click.option("--prompt", default=PROMPT, show_default=True)
@click.option("--size", default=SIZE, show_default=True, metavar="WxH")
@click.option("--model", "-m", default=MODEL, show_default=True)
@click.option("--server", metavar="URL", help="Use this running service instead of starting one.")
@click.option("--key", envvar="DARKROOM_KEY", metavar="KEY", help="With --server: API key.")
@click.option("--timeout", "timeout_s", type=DURATION, default=120, metavar="TIME", help="[default: 2m]")
def demo(output: Output, server: str | None, key: str | None, **asked: Any) -> None:
    """See one image go the whole way: submitted, queued, drawn, paid for, fetched and checked."""
    narrator = Narrator(output)
    size_px = parse_size(asked["size"])
    folder = make_folder(settings().var.absolute() / "demo")
    order = {name: asked[name] for name in ("prompt", "size", "model") if asked[name] is not None}
    if server:
        result = perform(connect(server, key), order, folder, narrator, timeout_s=asked["timeout_s"])
    else:
        with own_service(narrator) as client:
            result = perform(client, order, folder, narrator, timeout_s=asked["timeout_s"])
    path, image = result
    check_png(path, size_px)
    output.document({"path": str(path), "width": size_px[0], "height": size_px[1], "size_bytes": image.size_bytes})
    kilobytes = max(1, round(image.size_bytes / 1000))
    output.line(f"image: {path} ({size_px[0]}x{size_px[1]}, {kilobytes} kB)")


def parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})", text)
    if not match:
        raise click.UsageError(f"--size {text!r} is not of the form 1024x1024")
    return int(match[1]), int(match[2])


def make_folder(path: Path) -> Path:
    """A folder that only we can read. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


# --- a service of its own ----------------------------------------------------------------------------


@contextmanager
def own_service(narrator: Narrator) -> Iterator[Client]:
    """A complete service while the block runs. The folder of a failed one is kept, and the error says where."""
    from app.cli.service.up import run_stack
    from core.embedded.faults import EmbeddedError

    folder = make_folder(settings().var.absolute() / f"demo-{secrets.token_hex(4)}")
    narrator.say("starting PostgreSQL, Redis, the web server, a worker, Flower and the sandbox upstream")
    try:
        with terminable(), run_stack(private_settings(folder), environ=private_environ()) as running:
            narrator.say(f"ready at {running.url}")
            yield Client(running.url, read_key(running.admin_key_path))
            narrator.say("stopping")
    except EmbeddedError as error:
        raise kept(CommandError(Exit.AWAY, "stack_not_started", str(error)), folder) from error
    except CommandError as error:
        raise kept(error, folder) from error
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def private_settings(folder: Path) -> Any:
    """The settings of a service that shares nothing with another one of the same environment."""
    others = ("database_url_set", "redis_url_set", "broker_url_set", "public_url", "default_model", "catalog_local_set")
    none = dict.fromkeys(others)
    return settings().model_copy(update={**none, "var": folder, "host": "127.0.0.1"})


def private_environ() -> dict[str, str]:
    """This environment without any provider, so that the sandbox is used and no one is billed."""
    from core.settings import with_dotenv
    from providers.configured import PROVIDERS

    names = {name for known in PROVIDERS.values() for group in known.needed for name in group}
    # Set to nothing rather than left out: a process that reads .env itself must find them blank.
    return {**with_dotenv(os.environ), **dict.fromkeys(names, "")}


def kept(error: CommandError, folder: Path) -> CommandError:
    hint = f"Everything of this run is kept in {folder}; its log is {folder / 'run' / 'log'}"
    return CommandError(error.exit_code, error.code, error.detail, faults=error.faults, hint=hint, facts=error.facts)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block like an exception does, so that what was started is stopped."""

    def on_term(_number: int, _frame: object) -> NoReturn:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- one image -------------------------------------------------------------------------------------


def perform(client: Client, order: Document, folder: Path, narrator: Narrator, *, timeout_s: int) -> tuple[Path, Image]:
    """Order an image, print what happens to it, save it. Raises CommandError unless everything is right."""
    narrator.say(f'submitting: "{order["prompt"]}", {order["size"]}')
    task = client.submit("generate", order)
    narrator.say(
        f"accepted as {task.id}: {task.model} by {task.provider}, {credits_of(task.quoted_microcredits)} credits"
    )
    ended = print_timeline(client, task, narrator, timeout_s=timeout_s)
    conclude(ended, printed=False)
    path = folder / f"{slug(str(order['prompt']))}-{ended.id[-6:].lower()}.png"
    saved = [each.image for each in save(client, ended, path, count=1, force=True)]
    if len(saved) != 1:
        raise CommandError(Exit.FAILED, "demo_no_image", f"{len(saved)} images arrived instead of one")
    narrator.say(f"image fetched: {saved[0].size_bytes} bytes, sha256 agrees ({saved[0].sha256[:12]}…)")
    print_ledger(client, ended, narrator)
    return path, saved[0]


def print_timeline(client: Client, task: Task, narrator: Narrator, *, timeout_s: int) -> Task:
    """Print each step of the task as it happens; the ended task."""
    printed = 0
    with interruptible(task.id):
        for changed in changes(client, task, narrator, timeout_s=timeout_s):
            task = changed
            steps = client.page(f"{task_path(task.id)}/timeline").items
            for step in steps[printed:]:
                narrator.say(sentence(step))
            printed = max(printed, len(steps))
    return task


def sentence(step: Document) -> str:
    """A step of the timeline in words; a step that has none as its name and facts."""
    data = step.get("data")
    facts = {**step, **(data if isinstance(data, Mapping) else {})}
    kind = str(step.get("type", "")).removeprefix("task.")
    if kind in _WORDS:
        return _WORDS[kind] + _reasons(facts)
    known = {k: v for k, v in facts.items() if k not in ("type", "at", "seq", "data") and v is not None}
    return " ".join([kind, *(f"{k}={v}" for k, v in known.items())])


_WORDS = {
    "queued": "queued: a row in PostgreSQL, a message on Redis",
    "started": "a worker took it and held the credits",
    "collecting": "the upstream is done: the image is fetched, verified and kept",
    "held": "the worker held the credits",
    "waiting": "the upstream accepted it and works; no one here waits, a poller asks again when it is due",
    "image": "an image came: verified and kept",
    "retry": "that attempt did not run; it goes back to the queue",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


def _reasons(facts: Mapping[str, Any]) -> str:
    """``(5.3 credits, chatgpt2api, attempt 1)``, of what the step knows."""
    amount = facts.get("microcredits", facts.get("held_microcredits"))
    parts = [
        f"{credits_of(amount)} credits" if isinstance(amount, int) else "",
        str(facts.get("provider") or ""),
        f"attempt {facts['attempt']}" if facts.get("attempt") else "",
        str(facts.get("code") or ""),
    ]
    known = ", ".join(part for part in parts if part)
    return f" ({known})" if known else ""


def print_ledger(client: Client, task: Task, narrator: Narrator) -> None:
    """Print the task's transfers. Raises CommandError unless there are a hold and a capture of its price."""
    entries = [e for e in client.page("/api/quota/ledger").items if e.get("task_id") == task.id]
    for entry in reversed(entries):
        where = f"{entry.get('source')} -> {entry.get('target')}"
        narrator.say(f"ledger: {entry.get('kind')} {entry_credits(entry)} credits, {where}")
    amounts = {str(entry.get("kind")): entry.get("amount_microcredits") for entry in entries}
    if amounts.get("hold") != task.quoted_microcredits or amounts.get("capture") != task.captured_microcredits:
        detail = f"the ledger of {task.id} shows {amounts or 'nothing'}, not a hold and a capture of its price"
        raise CommandError(Exit.FAILED, "demo_unbalanced", detail)


def check_png(path: Path, size_px: tuple[int, int]) -> None:
    """Decode the file in full. Raises CommandError unless it is a PNG of this size."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            found = image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise CommandError(Exit.FAILED, "demo_not_a_png", f"{path} is not a valid PNG: {error}") from error
    if found != size_px:
        detail = f"{path} is {found[0]}x{found[1]}, not {size_px[0]}x{size_px[1]}"
        raise CommandError(Exit.FAILED, "demo_wrong_size", detail)


def slug(text: str) -> str:
    """A file name's worth of a prompt: ``a-red-fox-asleep``."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower())[:4]) or "image"
