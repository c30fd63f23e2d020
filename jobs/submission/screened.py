"""What of an order its screens are shown: every text and image of it that may reach a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accounts.keys import Caller
from jobs.screening.subject import InputImage, Subject
from jobs.submission.order import JOB_FIELDS, Order
from jobs.submission.quoting import Quote

_OWN = ("prompt", "negative_prompt")


def subject_of(caller: Caller, order: Order, quote: Quote, contents: Sequence[bytes] = ()) -> Subject:
    """The subject of an order. ``contents``: the bytes of its images, none where they were not read."""
    fields = order.fields
    negative = fields.get("negative_prompt")
    return Subject(
        "order",
        caller.account_id,
        prompt=quote.checked.prompt or "",
        negative_prompt=negative if isinstance(negative, str) else "",
        texts=dict(_texts(fields, quote)),
        model=quote.model.id,
        operation=quote.operation,
        images=[
            InputImage(image.role, image.field_name or image.role, data)
            for image, data in zip(order.images, contents, strict=False)
        ],
    )


def _texts(fields: Mapping[str, Any], quote: Quote) -> Iterator[tuple[str, str]]:
    """The other texts, by where they stand. A setting with a list of values has been checked against it."""
    for name, value in fields.items():
        spec = quote.model.params.get(name)
        if name in _OWN or (name in JOB_FIELDS and name != "extra") or (spec is not None and spec.enum):
            continue
        yield from _strings(name, value)


def _strings(where: str, value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case str() if value.strip():
            yield where, value
        case dict():
            for name, part in value.items():
                yield from _strings(f"{where}.{name}", part)
        case list() | tuple():
            for at, part in enumerate(value):
                yield from _strings(f"{where}[{at}]", part)
