"""``darkroom models``: what can be ordered, and the limits of one model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import click

from app.cli.client import order_fields
from app.cli.client.answers import Document
from app.cli.client.connection import Client
from app.cli.client.options import client_options
from app.cli.output import Output, credits_of, output_options


@click.command()
@output_options
@client_options
@click.argument("model_id", metavar="[MODEL]", required=False)
@click.option("--operation", metavar="NAME", help="Such as generate, edit or upscale.")
@click.option("--provider", metavar="NAME")
@click.option("--capability", metavar="NAME", help="Such as typography or transparent_background.")
@click.option("--max-price", metavar="CREDITS", help="The highest price of an image, in credits.")
@click.option("--status", metavar="NAME", help="live, retiring, redirected, shutdown, unknown or all.")
@click.option("--configured", is_flag=True, help="Only models that can run here.")
@click.option("--recommend", is_flag=True, help="A few models for --operation, each with the reasons for it.")
def models(
    output: Output, client: Client, model_id: str | None, configured: bool, recommend: bool, **filters: str | None
) -> None:
    """List the models, or show what MODEL takes."""
    if model_id is not None and (configured or recommend or any(filters.values())):
        raise click.UsageError("filters belong to the list, not to one model")
    if (price := filters.get("max_price")) is not None:
        _check_price(price)
    if recommend:
        _recommend(output, client, filters)
    elif model_id is None:
        _list(output, client, {**filters, "configured": "true" if configured else None})
    else:
        # An id may hold slashes (black-forest-labs/flux-...); they are part of the path.
        _show(output, client.get(f"/api/models/{quote(model_id, safe='/')}"))


def _list(output: Output, client: Client, filters: Mapping[str, str | None]) -> None:
    page = client.page("/api/models", filters)
    output.document(page.document)
    output.table(("model", "provider", "operations", "credits", "name", ""), [_row(m) for m in page.items])


def _recommend(output: Output, client: Client, filters: Mapping[str, str | None]) -> None:
    if not filters.get("operation") or filters.get("status"):
        raise click.UsageError("--recommend needs --operation, and takes no --status")
    page = client.page("/api/models/recommend", filters)
    output.document(page.document)
    rows = [(*_row(each["model"])[:4:3], reason["message"]) for each in page.items for reason in each["reasons"]]
    output.table(("model", "credits", "why"), rows)


def _check_price(text: str) -> None:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise click.UsageError(f"--max-price {text!r} is not a number of credits such as 5 or 0.25")


def _row(model: Document) -> tuple[object, ...]:
    price = model.get("price")
    unit = price.get("unit") if isinstance(price, dict) else None
    operations = ", ".join(map(str, model.get("operations") or ()))
    status = str(model.get("status") or "live")
    if status == "retiring" and (last := model.get("retires_on")):
        status = f"retiring on {last}"
    remark = ", ".join(
        [*([status] if status != "live" else ()), *([] if model.get("configured", True) else ["not configured"])]
    )
    return model.get("id"), model.get("provider"), operations, unit, model.get("name"), remark


def _show(output: Output, model: Document) -> None:
    output.document(model)
    for path, value in flat({**model, "tiers": _tiers(model)}):
        output.line(f"{path:<28} {value}")
    orders = model.get("orders")
    if isinstance(orders, dict):
        output.line("")
        output.table(order_fields.COLUMNS, order_fields.rows(orders))


def _tiers(model: Document) -> dict[str, str]:
    """Prices that depend on settings, each on a line of its own; in credits, like the price of a plain order."""
    told = {}
    for tier in model.get("tiers") or ():
        when = ", ".join(f"{name} {value}" for name, value in tier["when"].items())
        amount, more = tier.get("unit_microcredits"), tier.get("add_microcredits")
        told[when] = credits_of(amount) if amount is not None else f"+{credits_of(more)}"
    return told


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A nested document as lines of dotted path and value, without what is empty; the orders' schemas have a table."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "orders":
                yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from flat(item, f"{path}[{index}]")
    elif isinstance(value, list) and value:
        yield path, ", ".join(map(str, value))
    elif value is not None and value != []:
        yield path, str(value).lower() if isinstance(value, bool) else str(value)
