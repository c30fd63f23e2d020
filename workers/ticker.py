"""What every worker does periodically: heartbeat, due polls and the sweep. There is no Celery beat and no leader.

This is a bootstep of the worker and not of its consumer, because the consumer and its timer stop while the broker is
away, when the sweep and the polls are needed most.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.worker.state import active_requests

from core.errors import DatabaseAwayError
from core.redis import RedisError
from jobs import states
from jobs.batches import moves
from jobs.dispatch import due, heartbeats, publishing, refill
from jobs.execution.poll import poll_provider
from jobs.maintenance import audit_check, catalog_check, retention, sweep
from jobs.states import Nudge, Signal
from storage.base import StorageUnavailableError
from workers import drain, metering, stepping, wiring
from workers.bulkheads import Bulkheads, install, paid_slots
from workers.celery_app import app
from workers.flower.task_events import RUN
from workers.watchdog import CANARY_EVERY_S, CanaryStep, Watchdog

log = structlog.get_logger(__name__)

TICK_EVERY_S = 0.25
SWEEP_EVERY_S = 3.0
CALLBACKS_EVERY_S = 0.5
BATCHES_EVERY_S = 0.5
START_AGAIN_S = 1.0
STEADY_AFTER_S = 15.0
POLL_UNREAD_MS = 2_000
EPOCH_KEY = "darkroom:epoch"


def poll_key(provider: str) -> str:
    """Return the Redis key that exists while a poll of the provider is queued, so that polls do not pile up."""
    return f"darkroom:poll:{provider}"


class Steadiness:
    """Whether this worker's heartbeats have been written without a gap for a while."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if self._since is None or now - self._last > 2 * heartbeats.HEARTBEAT_EVERY_S:
            self._since = now
        self._last = now

    def steady(self) -> bool:
        now = time.monotonic()
        return (
            self._since is not None
            and now - self._since >= STEADY_AFTER_S
            and now - self._last <= 2 * heartbeats.HEARTBEAT_EVERY_S
        )


class Ticker:
    """Loops on threads (greenlets in a worker), each of which survives any outage.

    Heartbeat, tick and sweep use a database engine of their own. The heartbeat continues while the pool drains, until
    the worker signs off; the other loops stop at once.
    """

    def __init__(self) -> None:
        self._context = wiring.worker_context()
        self._database = wiring.ticker_database()
        self._stop = threading.Event()
        self._steadiness = Steadiness()
        swept = replace(self._context, database=self._database)
        self._sweeper = sweep.Sweeper(swept, steady=self._steadiness.steady, epoch=_epoch)
        self._inline = threading.Lock()
        self._watchdog = Watchdog(
            queue=f"canary.{self._context.owner}",
            send=wiring.publisher().send_canary,
            could_hear=lambda: len(active_requests) < _settings.worker_pool and wiring.servers_answer(),
            leave=lambda: drain.leave_after_calls(_BULKHEADS.busy, at_most_s=max(self._context.step_s.values())),
        )
        CanaryStep.watchdog = self._watchdog
        self._limited = any(
            wiring.limits(name, wiring.environment()).any for name in self._context.registry.configured()
        )

    def start(self) -> None:
        self.beat()  # before the first claim, so that the owner of a job counts as alive
        # It goes on while the worker drains, or other workers would take over its calls. Only the end of the process
        # ends this loop; after signing off it writes nothing.
        self._start("heartbeat", self.beat, heartbeats.HEARTBEAT_EVERY_S, until=threading.Event())
        self._start("tick", self.tick, TICK_EVERY_S)
        # The first sweep is at once, because this worker may replace a killed one whose jobs wait.
        self._start("sweep", self.sweep, SWEEP_EVERY_S, first_s=0.0)
        self._start("webhooks", self.send_callbacks, CALLBACKS_EVERY_S)
        # A line may wait for an image that is fetched or decoded, so no other loop waits for this one.
        self._start("batches", self.feed_batches, BATCHES_EVERY_S)
        self._start("watchdog", self._watchdog.look, CANARY_EVERY_S)
        # In a loop of its own, so that a slow disk does not delay the sweep.
        self._start("retention", self.delete_expired, retention.EVERY_S)
        if _settings.catalog_check_hours:
            # The first look is late, because a fleet that starts has better things to do.
            self._start("catalog", self.check_catalog, catalog_check.LOOK_EVERY_S)

        if _settings.audit_hours:
            self._start("audit", self.audit, audit_check.LOOK_EVERY_S)

        if _settings.abuse_every_s:
            self._start("abuse", self.judge_abuse, _settings.abuse_every_s)

    def stop(self) -> None:
        self._stop.set()
        wiring.sender().stop()

    def _start(
        self,
        name: str,
        step: Callable[[], None],
        every_s: float,
        *,
        first_s: float | None = None,
        until: threading.Event | None = None,
    ) -> None:
        waits = (every_s if first_s is None else first_s, every_s)
        threading.Thread(target=_loop, args=(name, step, waits, until or self._stop), name=name, daemon=True).start()

    def beat(self) -> None:
        wiring.heartbeat().beat()
        self._steadiness.beat()

    def tick(self) -> None:
        """Publish a poll for every provider with due jobs; poll here when the broker is away."""
        with self._database.autocommit() as connection:
            providers = due.providers_due(connection, self._context.registry.configured())
        for provider in providers:
            try:
                unread = wiring.redis_client().set(poll_key(provider), "1", nx=True, px=POLL_UNREAD_MS) is None
            except RedisError:
                self._poll_here(provider)
                continue
            if not unread and not self._context.publish([states.poll(provider)]):
                self._poll_here(provider)
        if self._limited:
            self._publish_for_free_permits()

    def _publish_for_free_permits(self) -> None:
        """Publish jobs for permits that came free at limited providers, without waiting for the sweep."""
        with self._database.transaction() as connection:
            nudges = refill.refill_limited(
                connection, window=self._context.publish_window, share_by=self._context.share_by
            )
        if nudges:
            self._publish(nudges)

    def _poll_here(self, provider: str) -> None:
        threading.Thread(target=self._poll_once, args=(provider,), name="poll", daemon=True).start()

    def _poll_once(self, provider: str) -> None:
        if not self._inline.acquire(blocking=False):
            return
        try:
            self._context.publish(stepping.perform_to_the_end(poll_provider, provider))
        finally:
            self._inline.release()

    def sweep(self) -> None:
        self._publish(self._sweeper.sweep())

    def send_callbacks(self) -> None:
        """Begin to send the callbacks that are due: retries, and those whose message was lost."""
        wiring.sender().send_due()

    def feed_batches(self) -> None:
        """Take the batches that are due one step further."""
        with self._database.autocommit() as connection:
            if not moves.any_due(connection):
                return
        wiring.feeder().feed_due(lambda: not self._stop.is_set())

    def delete_expired(self) -> None:
        """Delete expired data; one worker of the fleet does this, once a minute."""
        try:
            wiring.retention().delete_expired()
        except StorageUnavailableError as error:
            log.warning("retention_waits_for_storage", error=str(error))

    def check_catalog(self) -> None:
        """Compare the catalogue with the upstreams' lists; one worker of the fleet does this, once a day."""
        catalog_check.check_in_turn(self._context, every_s=_settings.catalog_check_hours * 3600)

    def audit(self) -> None:
        """Check every invariant of money and jobs; one worker of the fleet does this, once a day."""
        audit_check.check_in_turn(
            self._context.database, owner=self._context.owner, every_s=_settings.audit_hours * 3600
        )

    def judge_abuse(self) -> None:
        """Judge the rules on abuse; one worker of the fleet does this."""
        wiring.abuse().evaluate_in_turn(owner=self._context.owner, every_s=_settings.abuse_every_s)

    def _publish(self, signals: Sequence[Signal]) -> None:
        """Publish signals; jobs whose messages cannot be sent are marked unpublished again, for the next round."""
        if self._context.publish(signals):
            return
        runs = [each.argument for each in signals if isinstance(each, Nudge) and each.task == RUN]
        if runs:
            with self._database.autocommit() as connection:
                publishing.mark_unpublished(connection, runs)


def _loop(name: str, step: Callable[[], None], waits: tuple[float, float], until: threading.Event) -> None:
    """Run ``step`` repeatedly. ``waits``: seconds before the first run, and between two."""
    wait_s, every_s = waits
    while not until.wait(wait_s * random.uniform(0.8, 1.2)):
        wait_s = every_s
        began = time.monotonic()
        try:
            step()
        except DatabaseAwayError as error:
            metering.CLOCK_FAILURES.of(name, "database_away").inc()
            log.debug("clock_waits_for_database", loop=name, detail=error.detail)  # core/db.py tells of the outage
        except Exception:
            metering.CLOCK_FAILURES.of(name, "fault").inc()
            log.exception("clock_step_failed", loop=name)
        else:
            metering.CLOCK_SECONDS.of(name).observe(time.monotonic() - began)


def _epoch() -> str | None:
    """Return the broker's epoch: a random key in Redis that is lost together with the queues."""
    try:
        client = wiring.redis_client()
        client.set(EPOCH_KEY, secrets.token_hex(8), nx=True)
        value = client.get(EPOCH_KEY)
    except RedisError:
        return None
    return str(value) if value else None


def _started_ticker() -> Ticker:
    wiring.announce_credentials(wiring.worker_context())
    clock = Ticker()
    clock.start()
    return clock


def _once_the_database_answers(begin: Callable[[], Ticker]) -> Ticker:
    """Wait until the database answers and run ``begin``.

    The worker does not exit instead, because Celery ends a failed start with status 0, which some supervisors do not
    restart.
    """
    told = False
    while not drain.draining():
        try:
            return begin()
        except DatabaseAwayError as error:
            if not told:
                log.warning("start_waits_for_database", detail=error.detail)
            told = True
            time.sleep(START_AGAIN_S)
    raise WorkerShutdown(0)


class TickerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the ticker with the worker and stops all but its heartbeat before the pool drains."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._ticker: Ticker | None = None

    def start(self, worker: Any) -> None:
        del worker
        drain.arm()
        self._ticker = _once_the_database_answers(_started_ticker)

    def stop(self, worker: Any) -> None:
        del worker
        if self._ticker:
            self._ticker.stop()
            drain.sign_off_when_idle()


class BulkheadStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Passes the consumer to the bulkheads, which open and close its queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        _BULKHEADS.consumer = consumer


_settings = wiring.settings()
_BULKHEADS = Bulkheads(
    provider_slots=_settings.provider_slots, paid_slots=paid_slots(_settings.worker_pool, _settings.control_slots)
)


def fit(celery: Any = app) -> None:
    """Add the ticker, the bulkheads and what counts to the worker that is about to start."""
    install(_BULKHEADS)
    meter = metering.TaskMeter(wiring.node_name())
    meter.connect()
    room = wiring.worker_context().collecting.room
    load = metering.note_load(wiring.node_name(), _BULKHEADS.busy, _BULKHEADS.paused, room)
    wiring.metrics_upkeep(meter.note, load).start()
    celery.steps["worker"].add(TickerStep)
    celery.steps["consumer"].add(BulkheadStep)
    celery.steps["consumer"].add(CanaryStep)
