"""An order as it was read from a request, before it has a model: plain data, and its check against a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.errors import FieldFault, InvalidOrderError
from providers.catalog.catalog import Model
from providers.orders import aliases
from providers.orders.costs import cost_usd
from providers.orders.rules import CheckedOrder, OrderProblems, check_order
from providers.shared.extra import reserved_extra
from webhooks.forms import ENDS, STANDARD

Role = Literal["image", "mask", "face"]

# Fields that are about the job and not about the image.
JOB_FIELDS = (
    *("model", "fallback_models", "priority", "deadline_s", "metadata", "extra", "lenient", "store"),
    *("safe_prompt", "webhook_url", "webhook_events", "use_cache"),
)


@dataclass(frozen=True, slots=True)
class KeptInput:
    """A reference image of an earlier order of the same account, as it is in the store."""

    key: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """An image that comes with an order, not yet verified: its bytes, or a text that says where they are.

    ``field_name`` is the field it came in, for messages: "images[0]". ``text`` is an https URL, base64 with or without
    ``data:`` in front, the id of an upload, or ``job_id#index`` of the caller's own task; the address of either on
    this service is understood as well. ``kept``: it is in the store already, and ``text`` only names it.
    """

    role: Role
    data: bytes | None = field(default=None, repr=False)
    field_name: str = ""
    text: str = field(default="", repr=False)
    kept: KeptInput | None = None


@dataclass(frozen=True, slots=True)
class JobWebhook:
    """Where an order's callbacks go: the events of :mod:`webhooks.forms` that ``url`` is told of, in which form.

    ``field_name`` is the field that it came in, for messages.
    """

    url: str = field(repr=False)  # its query may hold a secret of the receiver
    events: Sequence[str] = ENDS
    form: str = STANDARD  # a name of workers/wiring.py
    field_name: str = "webhook_url"


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asks for.

    ``operation`` is the catalogue's word. ``fields`` are those of the body (docs/api-conventions.md, "Submit") without
    the images; a field that was sent as null is left out. ``faults`` are those found in the body itself: the order is
    refused, and the answer names them together with what its model finds. ``client`` is what the dialect that read
    the order wants to find again on its job, as JSON; nothing else reads it. ``webhook`` is told of the job's events.
    ``parent_id``: the job that it repeats.
    ``cancel_after_s``: unless it has ended, the job is cancelled so many seconds after it was accepted.
    ``cache_control``: the directives of the request, of which ``no-cache`` and ``no-store`` are heard.
    """

    operation: str
    fields: Mapping[str, Any] = field(repr=False)
    images: Sequence[ReferenceImage] = ()
    faults: Sequence[FieldFault] = ()
    client: Mapping[str, Any] | None = field(default=None, repr=False)
    webhook: JobWebhook | None = None
    parent_id: str | None = None
    cancel_after_s: int | None = None
    cache_control: frozenset[str] = frozenset()

    @property
    def wants_fresh(self) -> bool:
        """Whether no earlier job may answer it: as it says itself, and where it repeats a job on purpose."""
        said = self.fields.get("use_cache") is False or not self.cache_control.isdisjoint({"no-cache", "no-store"})
        return said or self.parent_id is not None

    @property
    def keeps_out_of_cache(self) -> bool:
        """Whether its job may answer no later order."""
        return "no-store" in self.cache_control

    @property
    def roles(self) -> list[Role]:
        return [image.role for image in self.images]

    @property
    def lenient(self) -> bool:
        """Whether fields that the model does not take are dropped instead of refused."""
        return bool(self.fields.get("lenient"))

    def check(self, model: Model, *, lenient: bool) -> CheckedOrder:
        """The order by the rules of a model. Raises InvalidOrderError naming every fault."""
        lifted, rest = aliases.lifted(self.fields.get("extra") or {}, model)
        _check_extra(model, rest)
        own = {name: value for name, value in self.fields.items() if name not in JOB_FIELDS}
        faults = _lift(lifted, own)
        roles = self.roles
        try:
            checked = check_order(
                model,
                self.operation,
                own,
                image_count=roles.count("image"),
                has_mask="mask" in roles,
                has_face="face" in roles,
                lenient=lenient,
            )
            cost_usd(model, checked)  # here, so that a model that cannot price this order counts as not taking it
        except OrderProblems as error:
            faults += [FieldFault(p.field, p.code, p.message) for p in error.problems]
            raise InvalidOrderError(faults) from None
        if faults:
            raise InvalidOrderError(faults)
        return checked


def _lift(lifted: Mapping[str, Any], fields: dict[str, Any]) -> list[FieldFault]:
    """Add what ``extra`` says under an alias to ``fields``; returns what both say, and not alike."""
    faults: list[FieldFault] = []
    for alias, value in lifted.items():
        name = aliases.ALIASES[alias]
        if fields.get(name) is None:
            fields[name] = value
        elif not aliases.same(fields[name], value):
            faults.append(FieldFault(f"extra.{alias}", "conflict", aliases.Clash(alias, name).message))
    return faults


def _check_extra(model: Model, extra: Mapping[str, Any]) -> None:
    """Refused here, before anything is held, and again by the adapter."""
    if clash := sorted(reserved_extra(model) & extra.keys()):
        raise InvalidOrderError(
            [FieldFault(f"extra.{name}", "not_allowed", "set this by the order's own fields") for name in clash]
        )
