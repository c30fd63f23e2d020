"""``darkroom rerun``: the order of a task again, as it was or with other fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.cli.client.connection import Client
from app.cli.client.generate import Delivery, finish_order
from app.cli.client.options import client_options
from app.cli.client.saving import check_targets
from app.cli.client.tasks import count_of
from app.cli.output import Output, output_options
from app.cli.parameters import DURATION, SETTING


@click.command()
@output_options
@client_options
@click.argument("task_id", metavar="ID")
@click.argument("fields", type=SETTING, nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--output", "-o", "pattern", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to save. [default: TASK-INDEX.EXT here]")  # fmt: skip
@click.option("--force", "-f", is_flag=True, help="Replace files that exist.")
@click.option("--idempotency-key", metavar="KEY", help="The same key never makes a second job.")
@click.option("--no-wait", is_flag=True, help="Submit the order and print its id.")
@click.option("--timeout", "timeout_s", type=DURATION, metavar="TIME",
              help="Stop waiting after this long (exit 7); the job goes on.")  # fmt: skip
def rerun(output: Output, client: Client, *, task_id: str, fields: Sequence[tuple[str, Any]], **kept: Any) -> None:
    """Place the order of task ID again; NAME=VALUE replaces a field, NAME=null removes it.

    For example: darkroom rerun job_01M7... prompt="at night" -o night.png
    """
    names = [name for name, _ in fields]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.UsageError(f"{twice[0]} is given twice")
    delivery, changes = Delivery(estimate=False, **kept), dict(fields)
    asked = changes.get("n")
    count = asked if isinstance(asked, int) else count_of(client.task(task_id))
    if not delivery.no_wait:
        check_targets(delivery.pattern, count, force=delivery.force)
    task = client.rerun(task_id, changes, idempotency_key=delivery.idempotency_key)
    finish_order(output, client, task, count=count, delivery=delivery)
