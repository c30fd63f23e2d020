"""Building the parts of a worker from the environment, once per process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import redis
from celery.utils.nodenames import default_nodename, host_format
from sqlalchemy import Connection, Engine, text

from app import callbacks
from app.dialects.fal import webhook as fal_webhook
from app.dialects.replicate import webhook as replicate_webhook
from app.http.signing import Signer
from core import first_contact, outages
from core.db import Database, make_engine
from core.errors import DatabaseAwayError
from core.ids import new_id
from core.metrics import process
from core.metrics.serving import Upkeep
from core.redis import RedisError, make_client
from core.sealing import Sealer, sealer_of
from core.settings import Settings, SettingsError, load, with_dotenv
from core.signing_keys import SigningKeys
from jobs.abuse import events as abuse_events
from jobs.abuse import rules as abuse_rules
from jobs.abuse.evaluation import Evaluation
from jobs.batches.feeder import Feeder
from jobs.batches.lines import ReadLine
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.errors import JobNotFoundError
from jobs.execution.callbacks import Callbacks
from jobs.execution.context import WorkerContext
from jobs.execution.vault import Vault
from jobs.maintenance.exposition import exposition_of
from jobs.maintenance.retention import Retention
from jobs.reads.batches import LineDialect, told_of
from jobs.reads.tasks import Task, find_task
from jobs.screening.building import screening_of, screens_of
from jobs.submission.building import references_of, submission_of
from providers import registry
from providers.base import Provider
from providers.catalog.live import LiveCatalog
from providers.configured import configured_names, prompt_model
from storage.counts import note_decoders
from storage.media import Media, MediaLimits
from storage.opening import open_store
from webhooks import operator
from webhooks.forms import STANDARD, Form
from webhooks.receivers import policy
from webhooks.sender import Sender
from workers.broker import options
from workers.enqueue import Publisher
from workers.heartbeat import Heartbeat

# Each unit of a limit is a row in the database, so limits are bounded.
LIMIT_MAX = 100_000
CLOCK_POOL_SIZE = 2
# A short lock time-out, so that one locked account does not delay the sweep for all others.
CLOCK_LOCK_TIMEOUT_MS = 500

# Far more than any round of a worker takes: each statement has ten seconds, and each round a bounded number of rows.
USE_TIMEOUT_S = 60.0


# The forms of callbacks that dialects have, by name: app.dialects.<name>.webhook.
FORMS: Mapping[str, Form[Task]] = {replicate_webhook.NAME: replicate_webhook, fal_webhook.NAME: fal_webhook}


@cache
def settings() -> Settings:
    return load()


@cache
def environment() -> dict[str, str]:
    return with_dotenv(os.environ)


def check_start() -> None:
    """Refuse what no waiting mends. Raises SettingsError without a provider, for bad rules on abuse, a bad screen or
    bad receivers of the operator; DatabaseRefusesError."""
    if not configured_names(environment()):
        raise SettingsError(
            "no provider is configured here, so this worker could make nothing: set a provider's variables"
            " (.env.example lists them) in its environment"
        )
    operators()
    rules_on_abuse()
    screens_of(settings(), environment())  # which the lines of batches need
    first_contact.check(settings().database_url)


@cache
def publisher() -> Publisher:
    values = settings()
    return Publisher(values.broker_url, values.redis_url, node=node_name(), task_events=values.task_events)


def node_name() -> str:
    """Return the name of this worker in Celery's events and in Flower: ``name@host``."""
    name = settings().worker_name or f"worker-{os.getpid()}"
    return str(host_format(default_nodename(f"{name}@%h")))


@cache
def database() -> Database:
    # All connections are kept, because a new one would have to prepare every statement again.
    engine = _engine(pool_size=2 * settings().db_pool_size, max_overflow=0, application_name="worker")
    return Database(engine, outages.of("database"), use_timeout_s=USE_TIMEOUT_S)


def _engine(**facts: Any) -> Engine:
    return make_engine(settings().database_url, prepare=settings().db_prepare, **facts)


@cache
def ticker_database() -> Database:
    """Return the database of heartbeat, sweep and tick: two connections (at most four) that no other work uses."""
    engine = _engine(pool_size=CLOCK_POOL_SIZE, application_name="clock", lock_timeout_ms=CLOCK_LOCK_TIMEOUT_MS)
    return Database(engine, outages.of("database"), use_timeout_s=USE_TIMEOUT_S)


@cache
def heartbeat() -> Heartbeat:
    return Heartbeat(ticker_database(), worker_context().owner)


@cache
def redis_client() -> redis.Redis:
    return make_client(settings().redis_url)


@cache
def worker_context() -> WorkerContext:
    """Return this process's worker context; its owner id is new with every start."""
    values = settings()
    models = LiveCatalog(values.catalog_local)  # a faulty file stops the start
    upstreams = registry.load(environment())
    if (sealer := own_keys_sealer()) is not None:
        upstreams = upstreams.with_own(Vault(database(), sealer, _with_own_key).provider_of)
    for name in upstreams.configured():
        limits(name, environment())  # a bad limit stops the start and not the first job
    store = open_store(values)
    return WorkerContext(
        owner=new_id("wkr"),
        database=database(),
        catalogs=models,
        registry=upstreams,
        media=Media(
            store,
            values.var / "staging",
            decoders=values.decoders,
            limits=MediaLimits(max_upload_bytes=values.max_image_bytes),
        ),
        store=store,
        publish=publisher().publish,
        max_attempts=values.max_attempts,
        max_wait_s=values.max_wait_s,
        cancel_charge="none" if values.cancel_charge == "none" else "full",
        publish_window=values.publish_window,
        share_by=values.fair_share_by,
        callbacks=Callbacks(database(), values.public_url),
        keep_raw=values.keep_raw,
        prompt_providers=[
            name for name in upstreams.configured() if prompt_model(models.current().providers[name], environment())
        ],
        node=node_name(),
    )


def own_keys_sealer() -> Sealer | None:
    """Return what opens accounts' own keys; None where this process has no secret for them. Raises SettingsError."""
    try:
        return sealer_of(settings().own_keys_secret, "DARKROOM_OWN_KEYS_SECRET")
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _with_own_key(provider: str, key: str, label: str) -> Provider:
    return registry.with_key(environment(), provider, key, label=label)


@cache
def retention() -> Retention:
    context, values = worker_context(), settings()
    return Retention(
        owner=context.owner,
        database=context.database,
        media=context.media,
        store=context.store,
        keep_images_days=values.keep_images_days,
        keep_inputs_days=values.keep_inputs_days,
        keep_deliveries_days=values.keep_deliveries_days,
        keep_admin_actions_days=values.keep_admin_actions_days,
        keep_abuse_events_days=values.keep_abuse_events_days,
        keep_refusals_days=values.keep_refusals_days,
    )


@cache
def operators() -> operator.Receivers:
    """Return where messages to the operator go. Raises SettingsError."""
    values = settings()
    try:
        return operator.receivers(values.operator_webhooks, values.operator_webhook_secrets, values.webhook_hosts)
    except ValueError as error:
        named = "DARKROOM_OPERATOR_WEBHOOK_URL, DARKROOM_OPERATOR_WEBHOOK_SECRET"
        raise SettingsError(f"{named}: {error}") from None


@cache
def abuse() -> Evaluation:
    """Return what judges the rules on abuse in this process. Raises SettingsError."""
    return Evaluation(database(), rules_on_abuse(), operators().targets)


@cache
def rules_on_abuse() -> Mapping[str, abuse_rules.Rule]:
    try:
        return abuse_rules.load(settings().abuse_rules)
    except abuse_rules.RulesError as error:
        raise SettingsError(f"DARKROOM_ABUSE_RULES: {error}") from None


@cache
def feeder() -> Feeder:
    """Return what submits this process's share of the batches. Raises SettingsError.

    What reads lines is loaded here and not before: it brings Flask, which a worker without batches does not need.
    """
    from app.dialects.openai import batch_lines
    from app.http.links import links_of
    from app.orders import lines

    values, context = settings(), worker_context()
    keys = SigningKeys(values.signing_keys, database(), values.var)
    path_of = links_of(values, Signer(keys, life_s=values.link_life_s)).path_of
    submission = submission_of(
        values,
        database(),
        context.catalogs,
        references_of(values, database(), context.store, context.media, path_of),
        configured=configured_names(environment()),
        receivers=policy(values.webhook_hosts),
        screening=screening_of(values, database(), environment()),
    )
    readers: dict[LineDialect, ReadLine] = {
        "native": lines.reader(context.catalogs),
        "openai": batch_lines.reader(context.catalogs, values.openai_response_format),
    }
    return Feeder(
        database(),
        submission,
        readers,
        context.publish,
        values.publish_window,
        context.cancel_charge,
        values.keep_images_days,
    )


@cache
def sender() -> Sender[Task]:
    """Return what sends this process's share of the callbacks. Raises SettingsError."""
    values = settings()
    keys = SigningKeys(values.signing_keys, database(), values.var)
    return Sender(
        database(),
        forms={STANDARD: callbacks.standard_form(values.base_url, keys, max_wait_s=values.max_wait_s), **FORMS},
        find=_task_or_none,
        links=callbacks.signed_links(values.base_url, keys),
        policy=policy(values.webhook_hosts),
        find_batch=told_of,
        operators=operators(),
        find_told=abuse_events.told_of,
    )


def _task_or_none(connection: Connection, account_id: str, job_id: str) -> Task | None:
    with suppress(JobNotFoundError):
        return find_task(connection, account_id, job_id)
    return None


def metrics_upkeep(*notes: Callable[[], None]) -> Upkeep:
    """Return what notes this process's gauges, ``notes`` among them, and serves the port of the metrics."""
    values = settings()
    known = [
        process.note_process("worker", values.var),
        process.note_pool("worker", "main", database().engine),
        process.note_pool("worker", "clock", ticker_database().engine),
        note_decoders("worker", worker_context().media.decoders),
    ]
    exposition = exposition_of(values.database_url, make_client(values.redis_url), prepare=values.db_prepare)
    return Upkeep(exposition, [*known, *notes], address=values.metrics_address, token=values.metrics_token)


def announce_credentials(context: WorkerContext) -> None:
    """Make the rows of every credential this worker can use; limits come from the environment."""
    with context.database.transaction() as connection:
        for name in context.registry.configured():
            for provider in context.registry.of(name):
                announce(connection, provider.credential_id, name, limits(name, environment()))


def limits(provider: str, env: Mapping[str, str]) -> CredentialLimits:
    """Return the limits of each credential of a provider, for the whole fleet.

    They come from ``OPENAI_MAX_ACTIVE=20`` and ``OPENAI_MAX_PER_MINUTE=120``; without a variable there is no limit.
    Raises SettingsError.
    """
    prefix = provider.upper()
    return CredentialLimits(_whole(f"{prefix}_MAX_ACTIVE", env), _whole(f"{prefix}_MAX_PER_MINUTE", env))


def _whole(variable: str, env: Mapping[str, str]) -> int | None:
    value = env.get(variable, "").strip()
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:10]) <= LIMIT_MAX:
        raise SettingsError(f"{variable} must be a whole number from 1 to {LIMIT_MAX}")
    return int(value)


def servers_answer() -> bool:
    """Return whether the broker and PostgreSQL answer on new connections."""
    fresh = Database(_engine(pool_size=1, application_name="watchdog"))
    try:
        with fresh.autocommit() as connection:
            connection.execute(text("SELECT 1"))
    except DatabaseAwayError:
        return False
    finally:
        fresh.dispose()
    return options.answers(settings().broker_url)


def quietly(step: Callable[[], object]) -> None:
    """Run a step that only saves work; errors of Redis are logged and ignored."""
    with suppress(RedisError):
        step()
