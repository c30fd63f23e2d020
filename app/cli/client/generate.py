"""``darkroom generate`` and ``darkroom edit``: submit an order, follow it, save the images."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from app.cli.client.answers import Document, Task, bad_answer
from app.cli.client.connection import Client, Parts
from app.cli.client.options import client_options
from app.cli.client.saving import check_targets, misnamed, read_image, save
from app.cli.client.watching import conclude, follow
from app.cli.here import settings
from app.cli.output import CommandError, Exit, Output, credits_of, output_options, plain, size_text
from app.cli.parameters import DURATION, SETTING
from core.ids import is_id

# The order fields that have an option of their own; --set reaches every other one.
ORDER_FIELDS = (
    "model",
    "n",
    "size",
    "width",
    "height",
    "aspect_ratio",
    "quality",
    "seed",
    "negative_prompt",
    "output_format",
    "priority",
    "deadline_s",
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What to do with an order and its images."""

    pattern: Path | None
    force: bool
    no_wait: bool
    estimate: bool
    timeout_s: int | None
    idempotency_key: str | None


def order_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of an order; the command receives the order's fields and a :class:`Delivery`."""

    @functools.wraps(command)
    def wrapped(*args: Any, lenient: bool, settings_given: Sequence[tuple[str, Any]], **kwargs: Any) -> Any:
        order = {k: kwargs.pop(k) for k in ORDER_FIELDS}
        delivery = Delivery(**{k: kwargs.pop(k) for k in Delivery.__dataclass_fields__})
        order |= {"lenient": True if lenient else None}
        return command(*args, order=merged(order, settings_given), delivery=delivery, **kwargs)

    option = click.option
    for decorate in reversed(
        (
            option("--output", "-o", "pattern", type=click.Path(path_type=Path), metavar="FILE",
                   help="Where to save; several images become FILE-0, FILE-1 or take the place of {index}. "
                        "[default: TASK-INDEX.EXT here]"),
            option("--force", "-f", is_flag=True, help="Replace files that exist."),
            option("--model", "-m", help="Model id, alias, auto, auto:budget or auto:quality."),
            option("-n", "--n", "n", type=click.IntRange(min=1), help="How many images."),
            option("--size", metavar="WxH", help="Such as 1024x1024; the model's nearest is used."),
            option("--width", type=click.IntRange(min=1), help="Pixels, with --height."),
            option("--height", type=click.IntRange(min=1), help="Pixels, with --width."),
            option("--aspect-ratio", metavar="W:H", help="Such as 16:9."),
            option("--quality", help="As the model names it."),
            option("--seed", type=click.IntRange(min=0), help="To make the same again, if the model can."),
            option("--negative-prompt", metavar="TEXT", help="What should not be seen."),
            option("--format", "output_format", help="png, jpeg or webp, where the model can."),
            option("--set", "settings_given", type=SETTING, multiple=True, metavar="NAME=VALUE",
                   help="Any other order field; the value is JSON or text. Repeatable."),
            option("--priority", type=click.Choice(["normal", "low"])),
            option("--deadline", "deadline_s", type=DURATION, metavar="TIME",
                   help="Latest start, such as 90s or 10m; afterwards the job fails, free of charge."),
            option("--lenient", is_flag=True, help="Drop fields that the model does not take."),
            option("--idempotency-key", metavar="KEY", help="The same key never makes a second job."),
            option("--no-wait", is_flag=True, help="Submit the order and print its id."),
            option("--estimate", is_flag=True, help="Show what it would cost; run nothing."),
            option("--timeout", "timeout_s", type=DURATION, metavar="TIME",
                   help="Stop waiting after this long (exit 7); the job goes on."),
        )
    ):  # fmt: skip
        wrapped = decorate(wrapped)
    return wrapped


def merged(order: Mapping[str, Any], settings_given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The fields that were given. Raises UsageError where --set names a field twice or an option's field."""
    fields = {name: value for name, value in order.items() if value is not None}
    for name, value in settings_given:
        if name in fields or name == "prompt":
            raise click.UsageError(f"{name} is given twice")
        fields[name] = value
    return fields


@click.command()
@output_options
@client_options
@click.argument("prompt")
@order_options
def generate(output: Output, client: Client, prompt: str, order: Document, delivery: Delivery) -> None:
    """Make an image from PROMPT (- reads it from stdin)."""
    fields = {"prompt": _prompt(prompt), **order}
    run_order(output, client, "generate", order=fields, parts=(), delivery=delivery)


@click.command()
@output_options
@client_options
@click.argument("prompt")
@click.option("--image", "-i", "images", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="An image to change, or the id of an upload. Repeatable.")  # fmt: skip
@click.option("--mask", type=click.Path(path_type=Path), metavar="FILE",
              help="A PNG of the image's size; what it leaves transparent is changed.")  # fmt: skip
@order_options
def edit(
    output: Output,
    client: Client,
    *,
    prompt: str,
    images: Sequence[Path],
    mask: Path | None,
    order: Document,
    delivery: Delivery,
) -> None:
    """Change images by PROMPT (- reads it from stdin)."""
    if not images and "images" not in order:
        raise click.UsageError("give at least one image: -i FILE")
    if images and "images" in order:
        raise click.UsageError("images is given twice")
    parts = read_parts(images, mask)
    fields = {"prompt": _prompt(prompt), **order}
    run_order(output, client, "edit", order=fields, parts=parts, delivery=delivery)


def _prompt(prompt: str) -> str:
    return sys.stdin.read().strip() if prompt == "-" else prompt


def read_parts(images: Sequence[Path], mask: Path | None, face: Path | None = None) -> Parts:
    """The images as multipart parts, uploads first. Raises CommandError naming the first that will not do."""
    limits = settings()
    single = [(part, path) for part, path in (("mask", mask), ("face", face)) if path]
    files = [*(("image", path) for path in images), *single]
    uploads = [(part, path.name) for part, path in files if _is_upload(path)]
    parts = [
        (p, (path, read_image(path, max_bytes=limits.max_image_bytes))) for p, path in files if not _is_upload(path)
    ]
    if sum(len(data) for _, (_, data) in parts) > limits.max_request_bytes:
        limit = size_text(limits.max_request_bytes)
        raise CommandError(Exit.USAGE, "request_too_large", f"the images have more than {limit} together")
    # A made-up name: the local one is private and may contain what a header may not.
    sent = [(part, (f"{part}-{i}", data)) for i, (part, (_, data)) in enumerate(parts)]
    return [*((part, (None, upload_id.encode())) for part, upload_id in uploads), *sent]


def _is_upload(path: Path) -> bool:
    """Whether it is the id of an image that the server keeps (``POST /api/uploads``) instead of a file."""
    return is_id(str(path), "upl") and not path.exists()


def run_order(
    output: Output, client: Client, operation: str, *, order: Document, parts: Parts, delivery: Delivery
) -> None:
    """Submit an order and do with it as ``delivery`` says. Raises CommandError unless it succeeds."""
    if delivery.estimate:
        show_estimate(output, client.estimate(operation, order, parts))
        return
    count = order.get("n", 1) if isinstance(order.get("n", 1), int) else 1
    if not delivery.no_wait:
        check_targets(delivery.pattern, count, force=delivery.force)
    task = client.submit(operation, order, parts, idempotency_key=delivery.idempotency_key)
    finish_order(output, client, task, count=count, delivery=delivery)


def finish_order(output: Output, client: Client, task: Task, *, count: int, delivery: Delivery) -> None:
    """Follow an order that was accepted, and save its images. Raises CommandError unless it succeeds."""
    for warning in task.warnings:
        output.warn(warning)
    if delivery.no_wait:
        _placed(output, task)
        return
    output.note(f"{task.id}  {task.model}  {credits_of(task.quoted_microcredits)} credits")
    ended = follow(client, task, output, timeout_s=delivery.timeout_s)
    deliver(output, client, ended, delivery.pattern, count=count, force=delivery.force)


def show_estimate(output: Output, estimate: Document) -> None:
    price = estimate.get("price")
    total = price.get("total") if isinstance(price, dict) else None
    if total is None:
        raise bad_answer("the server's estimate has no price")
    output.document(estimate)
    output.line(f"{total} credits  {estimate.get('model', '')}".rstrip())
    for warning in estimate.get("warnings") or ():
        output.warn(str(warning))


def _placed(output: Output, task: Task) -> None:
    output.document(task.document)
    output.line(task.id)
    output.note(f"placed; `darkroom watch {task.id} -o FILE` follows it and fetches the images")


def deliver(output: Output, client: Client, task: Task, pattern: Path | None, *, count: int, force: bool) -> None:
    """Save an ended task's images and say where. Raises CommandError unless the task succeeded."""
    if task.status != "succeeded":
        output.document(task.document)
        conclude(task, printed=output.as_json)
    files = []
    for saved in save(client, task, pattern, count=count, force=force):
        image, path = saved.image, saved.path
        if saved.converted:
            output.note(f"{path}: converted, as its name says; the task holds {image.mime}")
        elif misnamed(path, image):
            output.warn(f"{path} holds {image.mime}, whatever its name says")
        files.append(
            {"index": image.index, "path": str(path.absolute())} | ({"converted": True} if saved.converted else {})
        )
        facts = "  ".join(filter(None, (image.pixels, size_text(saved.size_bytes))))
        output.line(str(path) if output.quiet else f"{path}  {facts}")
        if image.text:
            output.line(image.text)
    output.document({**task.document, "files": files})
    price = plain(credits_of(task.captured_microcredits))
    output.note(f"{task.id}  {price} credits" if price else task.id)
