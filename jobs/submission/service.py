"""Accepting orders: an order is quoted, its images are kept, and it becomes a row and a wake-up message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from accounts.keys import Caller
from core import failpoints, tracing
from core.db import Database
from core.errors import DatabaseAwayError
from core.ids import new_id
from core.outbound.untrusted import Policy
from core.outbound.urls import UnsafeUrlError, origin_of
from jobs import counts, lifecycle, states
from jobs.dispatch.publishing import ShareBy
from jobs.documents import StoredFallback, StoredInput, StoredRequest, StoredSelection, StoredWebhook
from jobs.errors import FieldFault, InvalidOrderError, JobNotFoundError
from jobs.lifecycle import NewJob, SourceGoneError, Submitted
from jobs.reads import tasks
from jobs.screening.screening import Screening
from jobs.states import Priority
from jobs.submission import batch_lines, idempotency, result_cache, sdk_attempts
from jobs.submission.admission import Admission
from jobs.submission.batch_lines import BatchLine
from jobs.submission.fallbacks import Fallback
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.load import LoadLimitError, LoadStanding
from jobs.submission.order import JobWebhook, Order
from jobs.submission.own_key_prices import OwnKeyPrices, check_usable
from jobs.submission.quoting import Allowed, Quote, Quoting
from jobs.submission.references import References
from jobs.submission.result_cache import ResultCache
from jobs.submission.screened import subject_of
from jobs.submission.sdk_attempts import SdkAttempt
from jobs.submission.spending import SpendingLimitError
from providers.catalog.catalog import Model
from providers.orders import aliases
from providers.orders.costs import expected_cost_microusd
from providers.orders.rules import CheckedOrder
from quota import ledger
from quota.errors import InsufficientCreditsError
from webhooks.receivers import policy as webhook_policy
from webhooks.receivers import refusal

# What makes one job of an order that is submitted more than once.
Key = IdempotencyKey | SdkAttempt | BatchLine


class SubmissionService:
    """Puts orders in the queue.

    ``publish_window``: how many jobs of an account may be published at a provider, per unit of its weight.
    ``share_by``: what a job counts there. ``short_life_s``: how long the images of an order with ``store: false`` are
    kept after its end. ``receivers``: where callbacks may go. ``admission``: the limits that orders have to keep.
    ``cache``: what answers equal orders; None: every order is made. ``screening`` judges orders before anything of them
    is kept. ``own_keys``: who has keys of providers; None: no one.
    """

    def __init__(
        self,
        database: Database,
        quoting: Quoting,
        references: References,
        *,
        default_deadline_s: int,
        publish_window: int,
        share_by: ShareBy = "jobs",
        short_life_s: int = 600,
        receivers: Policy | None = None,
        admission: Admission | None = None,
        cache: ResultCache | None = None,
        screening: Screening | None = None,
        own_keys: OwnKeyPrices | None = None,
    ) -> None:
        self.quoting = quoting
        self.screening = screening or Screening()
        self._own_keys = own_keys
        self._database = database
        self._references = references
        self._default_deadline_s = default_deadline_s
        self._publish_window = publish_window
        self._share_by: ShareBy = share_by
        self._short_life_s = short_life_s
        self._receivers = receivers or webhook_policy()
        self._cache = cache
        self.admission = admission or Admission()

    def submit(
        self,
        caller: Caller,
        order: Order,
        *,
        key: Key | None = None,
        request_id: str = "",
    ) -> Submitted:
        """Accept an order: verified images, exact admission, a row; publish the returned nudges now.

        ``key`` may find the job of an earlier submit, which is returned instead, marked as replayed. An order is quoted
        once and its images are read once; nothing is fetched for an order that cannot run.
        Raises what Quoting.quote, References.read, Screening.check and References.keep raise, InsufficientCreditsError,
        OwnKeyPausedError, SpendingLimitError, LoadLimitError, IdempotencyMismatchError, idempotency.TakenError for a
        line of a batch that takes no more, DatabaseAwayError. Nothing is kept and nothing is charged when it raises.
        """
        with tracing.span("jobs.submit") as span:
            try:
                submitted = self._submit(caller, order, key=key, request_id=request_id, traceparent=span.traceparent)
            except (SpendingLimitError, LoadLimitError) as error:
                counts.LIMITED.of(error.limit).inc()
                raise
            span.set(_told_of(submitted))
            return submitted

    def _submit(
        self,
        caller: Caller,
        order: Order,
        *,
        key: Key | None,
        request_id: str,
        traceparent: str | None,
    ) -> Submitted:
        order = replace(order, faults=[*order.faults, *self._receiver_faults(order)])
        try:
            self.quoting.refuse_faults(order)
            # The lines of a batch are looked up by the page; one that is taken nevertheless is found by its claim.
            if key and not isinstance(key, BatchLine) and (earlier := self._earlier(caller, key)):
                return earlier
            quote = self._quote(caller, order)
        except InvalidOrderError as error:
            raise InvalidOrderError([*error.faults, *self._references.misnamed(order.images)]) from None
        job_id = new_id("job")
        kept = self._screen_and_keep(caller, job_id, order, quote)
        quote = self.quoting.with_inputs(quote, _sizes_px(kept))
        job = self._new_job(caller, job_id, quote, order, kept=kept, request_id=request_id, traceparent=traceparent)
        if self._cache:
            job = self._cache.noted(job, order, quote.model)
        try:
            submitted = self._answered(caller, key, job, order, quote.model) or self._queued(caller, key, job)
        except DatabaseAwayError:
            # The COMMIT may have happened although its answer was lost. While that is unknown, the images stay.
            if accepted := self._accepted(caller, quote.model.provider, job_id):
                return accepted
            self._references.delete(kept)
            raise
        except BaseException as error:
            self._references.delete(kept)
            if isinstance(error, idempotency.TakenError) and key and (earlier := self._earlier(caller, key)):
                return earlier
            raise
        failpoints.hit("submit.committed")
        counts.SUBMITTED.of(job.provider, job.operation).inc()
        return submitted

    def _queued(self, caller: Caller, key: Key | None, job: NewJob) -> Submitted:
        if key is None and not job.low_priority and not self.admission.concerns(caller):
            # A single statement, which needs no BEGIN and COMMIT around it.
            with self._database.hot() as hot:
                return lifecycle.submit(hot, job, window=self._publish_window, share_by=self._share_by)
        with self._database.transaction() as connection:
            standings = self._admit(connection, caller, key, job)
            submitted = lifecycle.submit(connection, job, window=self._publish_window, share_by=self._share_by)
            failpoints.hit("submit.uncommitted")
        return replace(submitted, standings=standings)

    def _answered(self, caller: Caller, key: Key | None, job: NewJob, order: Order, model: Model) -> Submitted | None:
        """The job as an earlier equal one has answered it; None: it has to be made."""
        hit = self._cache.find(job, order, model) if self._cache else None
        if self._cache is None or hit is None:
            return None
        try:
            with self._database.transaction() as connection:
                standings = self._admit(connection, caller, key, hit.job)
                submitted = lifecycle.answer(connection, hit.job, cached_from=hit.cached_from, copies=hit.copies)
                failpoints.hit("cache.uncommitted")
        except DatabaseAwayError:
            raise  # the COMMIT may have happened, so the copies stay; without a row they are orphans
        except BaseException as error:
            self._cache.discard(hit)
            if isinstance(error, SourceGoneError):
                return None
            raise
        result_cache.count_hit(hit)
        return replace(submitted, standings=standings)

    def _admit(self, connection: Connection, caller: Caller, key: Key | None, job: NewJob) -> Sequence[LoadStanding]:
        """What comes before the job in its transaction: where its limits then stand. Raises TakenError,
        SpendingLimitError, LoadLimitError."""
        _claim(connection, caller, key, job.id)
        return self.admission.admit(connection, caller, job.quoted_microcredits, job.n)

    def estimate(self, caller: Caller, order: Order) -> Quote:
        """What the order of this caller would be and cost; its images are not read, and so not screened.

        Raises what Quoting.quote and Screening.check raise, OwnKeyPausedError; a refusal is not counted.
        """
        quote = self._quote(caller, order)
        if self.screening.screens:
            self.screening.check(caller, subject_of(caller, order, quote), tries=True)
        if self._cache is None or order.wants_fresh or not result_cache.is_seeded(quote.model, quote.checked.params):
            return quote
        unit_price = self._cache.terms.unit_price_microcredits(quote.unit_price_microcredits)
        return replace(quote, cached_unit_price_microcredits=unit_price)

    def _quote(self, caller: Caller, order: Order) -> Quote:
        own = self._own_keys.providers_of(caller.account_id) if self._own_keys else {}
        quote = self.quoting.quote(order, allowed=_allowed(caller), own=own)
        check_usable(quote.model.provider, own)
        return quote

    def _receiver_faults(self, order: Order) -> list[FieldFault]:
        if order.webhook is None:
            return []
        try:
            self._receivers.check_written(order.webhook.url)
        except UnsafeUrlError as error:
            return [FieldFault(order.webhook.field_name, "url_not_allowed", refusal(error))]
        return []

    def _earlier(self, caller: Caller, key: Key) -> Submitted | None:
        """What an earlier submit with this key was answered. Raises IdempotencyMismatchError."""
        with self._database.autocommit() as connection:
            if isinstance(key, SdkAttempt):
                job_id = sdk_attempts.join(connection, caller.account_id, key)
            elif isinstance(key, BatchLine):
                job_id = batch_lines.find(connection, key)
            else:
                job_id = idempotency.find(connection, caller.account_id, key)
            if job_id is None:
                return None
            return Submitted(tasks.find_task(connection, caller.account_id, job_id), [], replayed=True)

    def _accepted(self, caller: Caller, provider: str, job_id: str) -> Submitted | None:
        """A job whose COMMIT was not answered, if it is there. Raises DatabaseAwayError."""
        try:
            with self._database.autocommit() as connection:
                task = tasks.find_task(connection, caller.account_id, job_id)
        except JobNotFoundError:
            return None
        return Submitted(task, [states.wake(job_id) if task.ended else states.run(provider, job_id)])

    def _screen_and_keep(self, caller: Caller, job_id: str, order: Order, quote: Quote) -> list[StoredInput]:
        """Screen the order, and keep its images where it has some."""
        contents = self._references.read(caller.account_id, order.images) if order.images else []
        if contents or self.screening.screens:
            self._check_balance(caller, quote)  # an empty balance pays neither for screening nor for decoding
            self.screening.check(caller, subject_of(caller, order, quote, contents))
        if not contents:
            return []
        return self._references.keep(caller.account_id, job_id, order.images, contents)

    def _check_balance(self, caller: Caller, quote: Quote) -> None:
        with self._database.autocommit() as connection:
            spendable = ledger.balance(connection, caller.account_id).spendable_microcredits
            self.admission.look_ahead(connection, caller, quote.total_microcredits, quote.checked.n)
        if spendable < quote.total_microcredits:
            raise InsufficientCreditsError(
                price_microcredits=quote.total_microcredits, spendable_microcredits=spendable
            )

    def _new_job(
        self,
        caller: Caller,
        job_id: str,
        quote: Quote,
        order: Order,
        *,
        kept: Sequence[StoredInput],
        request_id: str,
        traceparent: str | None,
    ) -> NewJob:
        fields = order.fields
        return NewJob(
            id=job_id,
            account_id=caller.account_id,
            key_id=caller.key_id or None,
            weight=caller.weight,
            operation=quote.operation,
            model=quote.model.id,
            provider=quote.model.provider,
            n=quote.checked.n,
            low_priority=fields.get("priority") == Priority.LOW,
            start_within_s=int(fields.get("deadline_s") or self._default_deadline_s),
            unit_price_microcredits=quote.unit_price_microcredits,
            quoted_microcredits=quote.total_microcredits,
            request=stored_request(quote.model, quote.checked, fields, chosen=quote.chosen),
            warnings=quote.warnings,
            metadata=fields.get("metadata") or {},
            inputs=kept,
            price_version=quote.price_version,
            request_id=request_id,
            traceparent=traceparent,
            client=order.client,
            cancel_after_s=order.cancel_after_s,
            webhook=_stored_webhook(order.webhook, caller) if order.webhook else None,
            parent_id=order.parent_id,
            fallbacks=[_stored_fallback(each, fields) for each in quote.fallbacks],
            keep_s=self._short_life_s if fields.get("store") is False else None,
            per_call=quote.model.max_per_call,
            unit_cost_microusd=0 if quote.own_key else expected_cost_microusd(quote.model, quote.checked),
            own_key=quote.own_key,
            safe_prompt=bool(fields.get("safe_prompt") and quote.checked.prompt),
        )


def _claim(connection: Connection, caller: Caller, key: Key | None, job_id: str) -> None:
    """Note what a repeat of the submit is known by. Raises idempotency.TakenError."""
    if isinstance(key, SdkAttempt):
        sdk_attempts.note(connection, caller.account_id, key, job_id)
    elif isinstance(key, BatchLine):
        if not batch_lines.claim(connection, key, job_id):
            raise idempotency.TakenError(key.batch_id)
    elif key:
        idempotency.claim(connection, caller.account_id, key, job_id)


def _allowed(caller: Caller) -> Allowed | None:
    """Which models the caller's key may use; None: all."""
    if caller.models is None and caller.providers is None:
        return None
    return lambda model: caller.may_use(model.id, model.provider)


def _told_of(submitted: Submitted) -> tracing.Attributes:
    task = submitted.task
    return {
        "darkroom.job.id": task.id,
        "darkroom.account.id": task.account_id,
        "darkroom.operation": task.operation,
        "darkroom.provider": task.provider,
        "gen_ai.request.model": task.model,
        "gen_ai.request.choice.count": task.n,
        "darkroom.replayed": submitted.replayed,
    }


def _sizes_px(kept: Sequence[StoredInput]) -> list[tuple[int, int]]:
    """Of the input images, the face among them and the mask not."""
    return [(each["width_px"], each["height_px"]) for each in kept if each["role"] != "mask"]


def stored_request(
    model: Model, checked: CheckedOrder, fields: Mapping[str, Any], *, chosen: StoredSelection | None = None
) -> StoredRequest:
    """What will really be asked of a model."""
    request: StoredRequest = {
        "prompt": checked.prompt,
        "n": checked.n,
        "size": dict(checked.size),
        "params": dict(checked.params),
        "normalised": dict(checked.normalised),
    }
    # What is a setting of the model under another name is among ``params``.
    if extra := aliases.lifted(fields.get("extra") or {}, model)[1]:
        request["extra"] = extra
    if fields.get("safe_prompt") and checked.prompt:
        request["safe_prompt"] = True
    if chosen:
        request["chosen"] = chosen
    return request


def _stored_webhook(webhook: JobWebhook, caller: Caller) -> StoredWebhook:
    """Where callbacks go. Raises ValueError for what is no URL: the edge has judged it before."""
    return {
        "url": webhook.url,
        "events": list(webhook.events),
        "form": webhook.form,
        "target": f"{caller.account_id} {origin_of(webhook.url)}",
    }


def _stored_fallback(each: Fallback, fields: Mapping[str, Any]) -> StoredFallback:
    stored: StoredFallback = {
        "model": each.model.id,
        "provider": each.model.provider,
        "unit_price": each.unit_price_microcredits,
        "per_call": each.model.max_per_call,
        "unit_cost": 0 if each.own_key else expected_cost_microusd(each.model, each.checked),
        "request": stored_request(each.model, each.checked, fields),
    }
    if each.own_key:
        stored["own_key"] = True
    return stored
