"""Sending what waits in the outbox: bodies made, signed, posted to judged addresses, and the outcome recorded.

Each worker has one sender. Its pool serves accounts in turns, with few places for each account and each receiver, so
a receiver that hangs delays no other account's. No database connection is held during an attempt.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Connection

from core import failpoints, tracing
from core.db import Database
from core.errors import DatabaseAwayError
from core.fair_pool import FairPool
from core.outbound.untrusted import ADDRESS_REFUSED, Policy, post
from core.outbound.urls import UnsafeUrlError
from core.tracing import Span
from core.wire import json_text, rfc3339
from webhooks import counts, installation_key, operator, outbox, schedule, secrets
from webhooks.forms import BATCH_EVENTS, TEST, Form, Links, Message
from webhooks.outbox import Outcome, Taken, Waiting

log = structlog.get_logger(__name__)

TaskT = TypeVar("TaskT")

# Messages at work in a worker in all, of one account, and to one receiver; and how many of an account may wait here.
SLOTS = 128
SLOTS_PER_ACCOUNT = 8
SLOTS_PER_TARGET = 4
DEPTH = 1024
DEPTH_PER_ACCOUNT = 32
PAGE = 200


class Sender(Generic[TaskT]):
    """Sends callbacks.

    ``forms`` by name; ``find`` returns the task of a job of an account, or None once it is gone. ``policy`` says which
    addresses may be reached, and how long an attempt takes at most. ``find_batch`` returns what is told of a batch.
    ``operators`` says where messages to the operator go, and ``find_told`` returns what one is about, by its id.
    """

    def __init__(
        self,
        database: Database,
        *,
        forms: Mapping[str, Form[TaskT]],
        find: Callable[[Connection, str, str], TaskT | None],
        links: Links,
        policy: Policy,
        find_batch: Callable[[Connection, str, str], Mapping[str, Any] | None] = lambda *_: None,
        operators: operator.Receivers | None = None,
        find_told: Callable[[Connection, str], Mapping[str, Any] | None] = lambda *_: None,
    ) -> None:
        self._database = database
        self._forms = forms
        self._find = find
        self._links = links
        self._policy = policy
        self._find_batch = find_batch
        self._operators = operators or operator.Receivers()
        self._find_told = find_told
        self._pool = FairPool(SLOTS, SLOTS_PER_ACCOUNT, DEPTH, DEPTH_PER_ACCOUNT)
        self._lock = threading.Lock()
        self._taken: dict[str, Waiting] = {}  # waiting here or at work
        self._at_work: Counter[str] = Counter()  # by target
        self._seed: bytes | None = None
        self._stopped = False

    def stop(self) -> None:
        """Take nothing more. What is at work ends, or is sent again by another worker when its lease is over."""
        self._stopped = True

    def send_due(self) -> int:
        """Begin to send what is due, as far as there is room; return how many. Raises DatabaseAwayError."""
        with self._lock:
            targets, taken = [name for name, n in self._at_work.items() if n >= SLOTS_PER_TARGET], list(self._taken)
            accounts = Counter(each.account_id for each in self._taken.values())
        with self._database.hot() as hot:
            waiting = outbox.due(
                hot,
                full_targets=targets,
                full_accounts=[name for name, n in accounts.items() if n >= DEPTH_PER_ACCOUNT],
                taken=taken,
                most=PAGE,
            )
        return self._begin(waiting)

    def send_of_job(self, job_id: str) -> int:
        """Begin to send what is due of a job, in the order of its events; return how many. Raises DatabaseAwayError."""
        with self._database.hot() as hot:
            waiting = outbox.due_of_job(hot, job_id)
        return self._begin(waiting)

    def _begin(self, waiting: Sequence[Waiting]) -> int:
        begun = 0
        for each in waiting:
            with self._lock:
                if self._stopped or each.id in self._taken:
                    continue
                self._taken[each.id] = each
            if self._pool.give(each.account_id, partial(self._work, each)):
                begun += 1
            else:
                with self._lock:
                    del self._taken[each.id]
        return begun

    def _work(self, waiting: Waiting) -> None:
        """Send one message, and what follows it. Never raises: a message that is left behind is due again."""
        with self._lock:
            full = self._at_work[waiting.target] >= SLOTS_PER_TARGET
            self._at_work[waiting.target] += not full
        job_id = None
        try:
            if not full and not self._stopped:
                job_id = self._send(waiting.id)
        except DatabaseAwayError as error:
            log.debug("webhook_waits_for_database", message_id=waiting.id, detail=error.detail)
        except Exception:
            log.exception("webhook_crashed", message_id=waiting.id)
        finally:
            with self._lock:
                del self._taken[waiting.id]
                if not full:
                    self._at_work[waiting.target] -= 1
                    if not self._at_work[waiting.target]:
                        del self._at_work[waiting.target]
        if job_id is not None:
            self._go_on(job_id)

    def _go_on(self, job_id: str) -> None:
        """Send what waited for its turn behind a message of the same job."""
        try:
            self.send_of_job(job_id)
        except DatabaseAwayError as error:
            log.debug("webhook_waits_for_database", job_id=job_id, detail=error.detail)

    def _send(self, message_id: str) -> str | None:
        """Make one attempt; return the job of the message."""
        with self._database.hot() as hot:
            taken = outbox.take(hot, message_id)
        if taken is None:
            return None
        if taken.account_id == operator.ACCOUNT:
            taken = replace(taken, url=self._operators.urls.get(taken.target), secrets=self._operators.secrets)
        failpoints.hit("webhook.unsent")
        with _span(taken) as span:
            return self._send_taken(taken, span)

    def _send_taken(self, taken: Taken, span: Span) -> str | None:
        """Make the attempt for which a message was taken; return the job of the message."""
        message_id = taken.id
        if taken.url is None:
            self._drop(
                taken, "endpoint_gone" if taken.endpoint_id or taken.account_id == operator.ACCOUNT else "task_gone"
            )
            return taken.job_id
        try:
            made = self._made(taken)
        except DatabaseAwayError:
            raise
        except Exception:
            # An attempt like any other, or a task that cannot be written would come back forever.
            log.exception("webhook_crashed", message_id=message_id, form=taken.form)
            outcome = Outcome(None, "internal_error", 0, wait_s=schedule.wait_s(taken.attempts + 1))
        else:
            if made is None:
                self._drop(taken, "task_gone")
                return taken.job_id
            body, headers = made
            if span.traceparent:
                headers = {**headers, "traceparent": span.traceparent}
            rules = self._operators.policy if taken.account_id == operator.ACCOUNT else self._policy
            outcome = attempt(taken.url, body, headers, rules, ended=taken.attempts + 1)
        span.set({"http.response.status_code": outcome.status})
        if outcome.error:
            span.fail(outcome.error)
        failpoints.hit("webhook.sent")
        with self._database.hot() as hot:
            disabled_as = outbox.record(hot, message_id, outcome)
        _tell(taken, outcome, disabled_as)
        return taken.job_id

    def _drop(self, taken: Taken, error: str) -> None:
        with self._database.hot() as hot:
            outbox.drop(hot, taken.id, error)
        counts.ATTEMPTS.of("dropped").inc()
        log.info("webhook_dropped", message_id=taken.id, job_id=taken.job_id, code=error)

    def _made(self, taken: Taken) -> tuple[bytes, Mapping[str, str]] | None:
        """Return body and headers of an attempt; None where the job is gone. Raises KeyError for an unknown form."""
        with self._database.autocommit() as connection:
            task = told = None
            if taken.job_id and taken.event in operator.EVENTS:
                told = self._find_told(connection, taken.job_id)
            elif taken.job_id and taken.event in BATCH_EVENTS:
                told = self._find_batch(connection, taken.account_id, taken.job_id)
            elif taken.job_id:
                task = self._find(connection, taken.account_id, taken.job_id)
            signing = taken.secrets or secrets.account_signing(connection, taken.account_id)
            if self._seed is None:
                self._seed = installation_key.seed(connection)
        form = self._forms[taken.form]  # one that a newer version knows is left to its workers
        if taken.event == TEST:
            body = _test_body(taken)
        elif told is not None:
            body = _written(taken, told)
        elif task is None:
            return None
        else:
            body = form.body(task, taken.event, self._links)
        message = Message(
            id=taken.id,
            sent_at=int(taken.now.timestamp()),
            account_id=taken.account_id,
            job_id=taken.job_id or "",
            body=body,
            secrets=signing,
            ed25519_seed=self._seed,
        )
        return body, form.headers(message)


def _span(taken: Taken) -> AbstractContextManager[Span]:
    """The span of one attempt. Of the URL only its host is told."""
    told = {
        "http.request.method": "POST",
        "server.address": urlsplit(taken.url).hostname if taken.url else None,
        "http.request.resend_count": taken.attempts or None,
        "darkroom.job.id": taken.job_id,
        "darkroom.account.id": taken.account_id,
        "darkroom.webhook.message.id": taken.id,
        "darkroom.webhook.endpoint.id": taken.endpoint_id,
        "darkroom.webhook.event": taken.event,
    }
    return tracing.span("webhooks.deliver", "client", of=taken.traceparent, attributes=told)


def _test_body(taken: Taken) -> bytes:
    data = {"object": "webhook.test", "webhook_id": taken.endpoint_id}
    return _written(taken, data)


def _written(taken: Taken, data: Mapping[str, Any]) -> bytes:
    return json_text({"type": taken.event, "timestamp": rfc3339(taken.at), "data": data}).encode()


def attempt(url: str, body: bytes, headers: Mapping[str, str], policy: Policy, *, ended: int) -> Outcome:
    """Post once and return how it ended; ``ended``: attempts of the message, with this one. Never raises for a URL."""
    began = time.monotonic()
    status: int | None = None
    asked_s = 0.0
    try:
        answer = post(url, body, policy, headers=headers)
    except UnsafeUrlError as failure:
        # As for images by URL: to the caller a forbidden address looks like one where nothing is.
        error: str | None = "url_unreachable" if failure.detail == ADDRESS_REFUSED else failure.code
    else:
        status, error = answer.status, _error_of(answer.status)
        if status in schedule.SLOW_DOWN:
            asked_s = schedule.retry_after_s(answer.retry_after)
    duration_ms = round((time.monotonic() - began) * 1000)
    if error is None:
        return Outcome(status, None, duration_ms)
    gone = status == 410
    return Outcome(
        status,
        error,
        duration_ms,
        wait_s=None if gone else schedule.wait_s(ended, retry_after_s=asked_s),
        slow_down_s=max(asked_s, schedule.SLOW_DOWN_S) if status in schedule.SLOW_DOWN else 0.0,
        gone=gone,
    )


def _error_of(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if status == 410:
        return "gone"
    return "redirected" if 300 <= status < 400 else "bad_status"


def _tell(taken: Taken, outcome: Outcome, disabled_as: str | None) -> None:
    """One line for an attempt; neither URL nor secret."""
    facts = {
        "message_id": taken.id,
        "job_id": taken.job_id,
        "account_id": taken.account_id,
        "endpoint_id": taken.endpoint_id,
        "event_type": taken.event,
        "attempt": taken.attempts + 1,
        "status": outcome.status,
        "code": outcome.error,
        "ms": outcome.duration_ms,
    }
    told = {name: value for name, value in facts.items() if value is not None}
    ended = "delivered" if outcome.error is None else "failed" if outcome.wait_s is None else "put_off"
    counts.ATTEMPTS.of(ended).inc()
    counts.ATTEMPT_SECONDS.of().observe(outcome.duration_ms / 1000)
    if outcome.error is None:
        log.info("webhook_delivered", **told)
    elif outcome.wait_s is None:
        log.warning("webhook_failed", **told)
    else:
        log.info("webhook_put_off", wait_s=round(outcome.wait_s, 1), **told)
    if disabled_as:
        log.warning("webhook_disabled", endpoint_id=taken.endpoint_id, account_id=taken.account_id, reason=disabled_as)
