"""The front desk: an order comes in raw, is checked, priced, verified and put in the queue.

The web process stands behind it; estimate and submit share every step up to the queue, so that
what was quoted is what is held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from types import MappingProxyType
from typing import Any, Literal

from core import failpoints
from core.db import Database
from core.errors import DatabaseAwayError
from core.ids import new_id
from jobs import lifecycle, states
from jobs.errors import BadImageError, FieldFault, InvalidOrderError, JobNotFoundError, UnknownOperationError
from jobs.lifecycle import NewJob, Queued
from jobs.reads import tasks
from jobs.reads.tasks import Task
from jobs.states import Nudge, Priority
from jobs.submission import fallbacks, idempotency, selection
from jobs.submission.fallbacks import Fallback
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.selection import AUTO, Choice
from providers.catalog.catalog import OPERATIONS, Catalog, CatalogSource, Model, UnknownModelError
from providers.catalog.ranking import ranked
from providers.orders.costs import cost_usd, expected_cost_microusd
from providers.orders.rules import CheckedOrder, OrderProblems, check_order
from providers.shared.extra import reserved_extra
from quota import ledger
from quota.errors import InsufficientCreditsError
from quota.prices import unit_price_microcredits
from storage.base import MediaError, Store, StoredImage
from storage.media import Media

Role = Literal["image", "mask", "face"]

# Fields that are about the job and not about the image.
ENVELOPE = ("model", "fallback_models", "priority", "deadline_s", "metadata", "extra", "lenient", "store")


@dataclass(frozen=True, slots=True)
class Customer:
    """Whose order it is."""

    account_id: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that came with the order, not yet verified."""

    role: Role
    data: bytes = field(repr=False)
    name: str = ""  # the field it came in, for error messages: "images[0]"


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order would be and cost. Micro-credits.

    ``unit_price`` is that of ``model``; ``total`` what is held: n times the dearest that may run.
    ``chosen`` says why this model, where the order did not name it; ``price_version`` names the catalogue.
    """

    model: Model
    operation: str
    checked: CheckedOrder
    unit_price: int
    total: int
    warnings: Sequence[str]
    fallbacks: Sequence[Fallback] = ()
    chosen: Mapping[str, Any] | None = None
    price_version: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    task: Task
    nudges: Sequence[Nudge]  # publish these now: the commit has happened
    replayed: bool = False  # an earlier submit with the same Idempotency-Key answers


@dataclass(frozen=True, slots=True)
class _Asked:
    """An order before it has a model. ``roles`` are those of the images that come with it."""

    operation: str
    fields: Mapping[str, Any] = field(repr=False)
    roles: Sequence[Role]

    @property
    def lenient(self) -> bool:
        return bool(self.fields.get("lenient"))

    def check(self, model: Model, *, lenient: bool) -> CheckedOrder:
        """The order by the rules of a model. Raises InvalidOrderError naming every fault."""
        _check_extra(model, self.fields.get("extra") or {})
        try:
            return check_order(
                model,
                self.operation,
                {name: value for name, value in self.fields.items() if name not in ENVELOPE},
                image_count=self.roles.count("image"),
                has_mask="mask" in self.roles,
                has_face="face" in self.roles,
                lenient=lenient,
            )
        except OrderProblems as error:
            raise InvalidOrderError([FieldFault(p.field, p.code, p.message) for p in error.problems]) from None


class Desk:
    """Where every order comes in. ``configured`` are the providers that can run something."""

    def __init__(
        self,
        database: Database,
        media: Media,
        store: Store,
        catalogs: CatalogSource,
        *,
        configured: Collection[str],
        markup: Decimal,
        minimum_unit_price: int,
        default_model: str | None,
        default_deadline_s: int,
        publish_window: int,
        chains: Mapping[str, Sequence[str]] = MappingProxyType({}),
        short_life_s: int = 600,
    ) -> None:
        self._database = database
        self._media = media
        self._store = store
        self._catalogs = catalogs
        self._configured = frozenset(configured)
        self._markup = markup
        self._minimum_unit_price = minimum_unit_price
        self._default_model = default_model
        self._default_deadline_s = default_deadline_s
        self._publish_window = publish_window
        self._chains = chains
        self._short_life_s = short_life_s

    def quote(self, operation: str, fields: Mapping[str, Any], *, roles: Sequence[Role] = ()) -> Quote:
        """Check and price an order without running it.

        ``fields`` are the native order fields as the caller sent them (API.md "Submit"), without the
        images; ``roles`` says which images come with it. Raises UnknownOperationError,
        InvalidOrderError naming every fault.
        """
        if operation not in OPERATIONS:
            raise UnknownOperationError(f"there is no operation {operation[:50]!r}")
        _check_storable(fields)
        catalog = self._catalogs.current()
        behind = fallbacks.names_in(fields)
        asked = _Asked(operation, fields, roles)
        pick = self._pick(catalog, asked, fields.get("model"))
        unit_price = self.unit_price(pick.model, cost_usd(pick.model, pick.checked))
        others = self._behind(catalog, pick.model, asked, behind)
        return Quote(
            model=pick.model,
            operation=operation,
            checked=pick.checked,
            unit_price=unit_price,
            total=max([unit_price, *(each.unit_price for each in others)]) * pick.checked.n,
            warnings=[*pick.warnings, *pick.checked.warnings],
            fallbacks=others,
            chosen=pick.chosen(),
            price_version=catalog.version,
        )

    def _behind(self, catalog: Catalog, model: Model, asked: _Asked, names: Sequence[str] | None) -> list[Fallback]:
        """The models behind the first. A caller hears of every fault in those named; the operator's
        own chain, or the successor of a doubtful model, is just left out where it cannot take this order."""
        own = names is not None
        found: list[Fallback] = []
        faults: list[FieldFault] = []
        for position, name in enumerate(names if names is not None else self._chains.get(model.id, _successor(model))):
            try:
                found.append(self._fallback(catalog, asked, name))
            except InvalidOrderError as error:
                faults += fallbacks.faults_at(position, error)
        if own and faults:
            raise InvalidOrderError(faults)
        return fallbacks.distinct(model, found)

    def _fallback(self, catalog: Catalog, asked: _Asked, name: str) -> Fallback:
        pick = self._pick(catalog, asked, name)
        return Fallback(pick.model, pick.checked, self.unit_price(pick.model, cost_usd(pick.model, pick.checked)))

    def unit_price(self, model: Model, cost: Decimal) -> int:
        """Our price of one image by ``model`` that costs ``cost`` US dollars upstream, in micro-credits."""
        return unit_price_microcredits(
            cost, markup=model.markup or self._markup, minimum_microcredits=self._minimum_unit_price
        )

    def submit(
        self,
        customer: Customer,
        operation: str,
        fields: Mapping[str, Any],
        references: Sequence[Reference] = (),
        *,
        idempotency_key: IdempotencyKey | None = None,
        request_id: str = "",
    ) -> Submitted:
        """Accept an order: verified images, exact admission, a row, and the nudges to publish.

        Raises what :meth:`quote` raises, BadPictureError, InsufficientCreditsError,
        IdempotencyMismatchError, DatabaseAwayError. Nothing is kept and nothing is charged when it
        raises.
        """
        if idempotency_key and (earlier := self._replay(customer, idempotency_key)):
            return earlier
        quote = self.quote(operation, fields, roles=[reference.role for reference in references])
        if references:
            self._check_balance(customer, quote)  # decoding images is work; not for an empty purse
        job_id = new_id("job")
        kept = self._keep(job_id, references)
        try:
            return self._accept(
                customer, self._job(customer, job_id, quote, fields, kept=kept, request_id=request_id), idempotency_key
            )
        except DatabaseAwayError:
            # The COMMIT may have happened although its answer was lost.
            if accepted := self._find_accepted(customer, quote.model.provider, job_id):
                return accepted
            self._drop(kept)
            raise
        except BaseException:
            self._drop(kept)
            raise

    def _find_accepted(self, customer: Customer, provider: str, job_id: str) -> Submitted | None:
        """A job whose COMMIT's answer was lost. Raises DatabaseAwayError: then its images stay, to be safe."""
        try:
            with self._database.autocommit() as connection:
                task = tasks.find_task(connection, customer.account_id, job_id)
        except JobNotFoundError:
            return None
        return Submitted(task, [states.run(provider, job_id)])

    def _accept(self, customer: Customer, job: NewJob, key: IdempotencyKey | None) -> Submitted:
        # A plain submit is a single statement and needs no BEGIN and COMMIT around it.
        try:
            if key is None and not job.low_priority:
                with self._database.hot() as hot:
                    queued = lifecycle.submit(hot, job, window=self._publish_window)
            else:
                queued = self._accept_with_key(customer, job, key)
        except idempotency.TakenError:
            if key and (earlier := self._replay(customer, key)):
                self._drop_inputs(job)
                return earlier
            raise
        failpoints.hit("submit.committed")
        return Submitted(queued.task, queued.nudges)

    def _accept_with_key(self, customer: Customer, job: NewJob, key: IdempotencyKey | None) -> Queued:
        with self._database.transaction() as connection:
            if key:
                idempotency.claim(connection, customer.account_id, key, job.id)
            queued = lifecycle.submit(connection, job, window=self._publish_window)
            failpoints.hit("submit.uncommitted")
        return queued

    def _replay(self, customer: Customer, key: IdempotencyKey) -> Submitted | None:
        with self._database.autocommit() as connection:
            job_id = idempotency.find(connection, customer.account_id, key)
            if job_id is None:
                return None
            return Submitted(tasks.find_task(connection, customer.account_id, job_id), [], replayed=True)

    def _check_balance(self, customer: Customer, quote: Quote) -> None:
        with self._database.autocommit() as connection:
            spendable = ledger.balance(connection, customer.account_id).spendable_microcredits
        if spendable < quote.total:
            raise InsufficientCreditsError(price_microcredits=quote.total, spendable_microcredits=spendable)

    def _pick(self, catalog: Catalog, asked: _Asked, name: object) -> Choice:
        """The model an order names, or the one it gets when it names none, and the order by its rules."""
        if name is not None and not isinstance(name, str):
            raise _bad("model", "wrong_type", "a model is named by a text")
        operation, lenient = asked.operation, asked.lenient
        if name is None and (default := self._default_for(catalog, operation)) is not None:
            return Choice(default, asked.check(default, lenient=lenient), reason="the default model of this service")
        if name is None or name in AUTO:
            goal = AUTO[name or "auto"]
            candidates = ranked(catalog, operation, self._configured, goal, self._markup)
            return selection.choose(
                candidates, asked.check, operation=operation, asked=name, goal=goal, lenient=lenient
            )
        model, warnings = self._named(catalog, name)
        return Choice(model, asked.check(model, lenient=lenient), warnings=warnings)

    def default_for(self, operation: str) -> Model | None:
        """The operator's default model, if it can do this here."""
        return self._default_for(self._catalogs.current(), operation)

    def _default_for(self, catalog: Catalog, operation: str) -> Model | None:
        # The operator's catalogue file goes before the setting: it can be changed without a restart.
        preferred = catalog.preferred or self._default_model
        if preferred is None:
            return None
        try:
            model = catalog.resolve(preferred).model
        except UnknownModelError:
            return None
        return model if operation in model.operations and model.provider in self._configured else None

    def _named(self, catalog: Catalog, name: str) -> tuple[Model, Sequence[str]]:
        try:
            resolution = catalog.resolve(name)
        except UnknownModelError as error:
            raise _bad("model", "unknown_model", str(error)) from None
        if resolution.model.provider not in self._configured:
            raise _bad(
                "model",
                "provider_not_configured",
                f"{resolution.model.id} is made by {resolution.model.provider}, which is not configured here",
            )
        return resolution.model, resolution.warnings

    def _keep(self, job_id: str, references: Sequence[Reference]) -> list[tuple[Role, StoredImage]]:
        """Verify and keep every reference image; all that are bad are named at once."""
        kept: list[tuple[Role, StoredImage]] = []
        faults: list[FieldFault] = []
        for reference in references:
            try:
                stored = self._media.keep_upload(
                    reference.data, prefix=f"inputs/{job_id}/{len(kept)}", role=reference.role
                )
                kept.append((reference.role, stored))
            except MediaError as error:
                faults.append(FieldFault(reference.name or reference.role, error.code, error.detail or error.code))
            except BaseException:
                self._drop(kept)
                raise
        faults += _mask_faults(kept) if not faults else []
        if faults:
            self._drop(kept)
            raise BadImageError(faults)
        return kept

    def _drop(self, kept: Sequence[tuple[Role, StoredImage]]) -> None:
        for _, stored in kept:
            self._store.delete(stored.key)

    def _drop_inputs(self, job: NewJob) -> None:
        for row in job.inputs:
            self._store.delete(row["key"])

    def _job(
        self,
        customer: Customer,
        job_id: str,
        quote: Quote,
        fields: Mapping[str, Any],
        *,
        kept: Sequence[tuple[Role, StoredImage]],
        request_id: str,
    ) -> NewJob:
        return NewJob(
            id=job_id,
            account_id=customer.account_id,
            weight=customer.weight,
            operation=quote.operation,
            model=quote.model.id,
            provider=quote.model.provider,
            n=quote.checked.n,
            low_priority=fields.get("priority") == Priority.LOW,
            start_within_s=int(fields.get("deadline_s") or self._default_deadline_s),
            unit_price=quote.unit_price,
            quoted=quote.total,
            request=request_of(quote.checked, fields, chosen=quote.chosen),
            warnings=quote.warnings,
            metadata=fields.get("metadata") or {},
            inputs=_input_rows(kept),
            price_version=quote.price_version,
            request_id=request_id,
            fallbacks=[_fallback_row(each, fields) for each in quote.fallbacks],
            keep_s=self._short_life_s if fields.get("store") is False else None,
            per_call=quote.model.max_per_call,
            unit_cost=expected_cost_microusd(quote.model, quote.checked),
        )


def _successor(model: Model) -> Sequence[str]:
    """Who follows a model that its provider may have withdrawn: that costs nothing, and is known only when asked."""
    return (model.replaced_by,) if model.status == "unknown" and model.replaced_by else ()


def _fallback_row(each: Fallback, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": each.model.id,
        "provider": each.model.provider,
        "unit_price": each.unit_price,
        "per_call": each.model.max_per_call,
        "unit_cost": expected_cost_microusd(each.model, each.checked),
        "request": request_of(each.checked, fields),
    }


def request_of(
    checked: CheckedOrder, fields: Mapping[str, Any], *, chosen: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What will really be asked: it is stored, shown to the caller, and built into the paid call."""
    request: dict[str, Any] = {
        "prompt": checked.prompt,
        "n": checked.n,
        "size": dict(checked.size),
        "params": dict(checked.params),
        "normalised": dict(checked.normalised),
    }
    if fields.get("extra"):
        request["extra"] = fields["extra"]
    if chosen:
        request["chosen"] = dict(chosen)
    return request


def _check_extra(model: Model, extra: Mapping[str, Any]) -> None:
    """Refused here, before anything is held, and again by the adapter."""
    if clash := sorted(reserved_extra(model) & extra.keys()):
        raise InvalidOrderError(
            [FieldFault(f"extra.{name}", "not_allowed", "set this by the order's own fields") for name in clash]
        )


def _check_storable(fields: Mapping[str, Any]) -> None:
    """Refuse what no JSON column takes: NUL, half a surrogate pair, NaN and the infinities.

    The prompt is cleaned by the catalogue's rules; metadata, ``extra`` and settings go as they are.
    """
    bad = [name for name, value in fields.items() if name != "prompt" and not _is_storable(value)]
    if bad:
        message = "holds a character or a number that cannot be kept"
        raise InvalidOrderError([FieldFault(name, "not_storable", message) for name in bad])


def _is_storable(value: Any) -> bool:
    match value:
        case str():
            return tasks.UNSTORABLE.search(value) is None
        case float():
            return isfinite(value)
        case dict():
            return all(_is_storable(part) for pair in value.items() for part in pair)
        case list() | tuple():
            return all(map(_is_storable, value))
        case _:
            return True


def _mask_faults(kept: Sequence[tuple[Role, StoredImage]]) -> list[FieldFault]:
    """A mask lies over the first image, so it must have its size."""
    by_role = dict(reversed(kept))
    image, mask = by_role.get("image"), by_role.get("mask")
    if image is None or mask is None or (image.width_px, image.height_px) == (mask.width_px, mask.height_px):
        return []
    sizes = f"{mask.width_px}x{mask.height_px}, the image {image.width_px}x{image.height_px}"
    return [FieldFault("mask", "mask_size_mismatch", f"the mask is {sizes}")]


def _input_rows(kept: Sequence[tuple[Role, StoredImage]]) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "position": position,
            "key": stored.key,
            "mime": stored.mime,
            "width_px": stored.width_px,
            "height_px": stored.height_px,
            "size_bytes": stored.size_bytes,
            "sha256": stored.sha256,
        }
        for position, (role, stored) in enumerate(kept)
    ]


def _bad(field: str, code: str, message: str) -> InvalidOrderError:
    return InvalidOrderError([FieldFault(field, code, message)])
