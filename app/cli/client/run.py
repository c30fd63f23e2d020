"""``darkroom run``: any operation of the API, with its fields as ``name=value``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.cli.client.answers import Document
from app.cli.client.connection import Client
from app.cli.client.generate import Delivery, order_options, read_parts, run_order
from app.cli.client.options import client_options
from app.cli.output import Output, output_options
from app.cli.parameters import SETTING

# As the API spells them in its URLs.
OPERATIONS = (
    "generate",
    "edit",
    "upscale",
    "variations",
    "inpaint",
    "outpaint",
    "erase",
    "remove-background",
    "replace-background",
    "remove-text",
    "face-swap",
    "translate",
    "style-transfer",
    "character",
    "caption",
    "to-3d",
    "text-to-3d",
    "sketch-to-3d",
)


@click.command(epilog=f"Operations: {', '.join(OPERATIONS)}. `darkroom models NAME` shows the fields of a model.")
@output_options
@client_options
@click.argument("operation", type=click.Choice(OPERATIONS), metavar="OPERATION")
@click.argument("fields", type=SETTING, nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--image", "-i", "images", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="An image that goes in, or the id of an upload. Repeatable.")  # fmt: skip
@click.option("--mask", type=click.Path(path_type=Path), metavar="FILE",
              help="A PNG of the image's size; what it leaves transparent is changed.")  # fmt: skip
@click.option("--face", type=click.Path(path_type=Path), metavar="FILE", help="Of face-swap: whose face it becomes.")
@order_options
def run(
    output: Output,
    client: Client,
    *,
    operation: str,
    fields: Sequence[tuple[str, Any]],
    images: Sequence[Path],
    mask: Path | None,
    face: Path | None,
    order: Document,
    delivery: Delivery,
) -> None:
    """Order OPERATION with the fields NAME=VALUE (a value is JSON or text), follow it, save the results.

    For example: darkroom run outpaint left=256 prompt="more sky" -i fox.png -o wide.png
    """
    if twice := [name for name, _ in fields if name in order or [each for each, _ in fields].count(name) > 1]:
        raise click.UsageError(f"{twice[0]} is given twice")
    parts = read_parts(images, mask, face)
    run_order(output, client, operation, order={**order, **dict(fields)}, parts=parts, delivery=delivery)
