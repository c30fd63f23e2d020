"""Everything the routes use, built once per process from the settings.

Blueprints get a :class:`Services` and nothing else, so that a test can replace any part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from flask import current_app
from pydantic import SecretStr

from accounts.keys import Caller
from app import deletion
from app.asking_providers import ProviderAsker
from app.callers import build_callers, with_metrics_token
from app.connections import Connections
from app.enhancement import Enhancer
from app.http import readiness
from app.http.limits import RateLimits
from app.http.links import links_of
from app.http.signing import Signer
from app.http.tallies import Tallies
from app.http.waits import Waits
from app.orders import lines
from app.streams.following import Following
from app.task_reads import TaskReads
from core import outages
from core.db import HOT_TIMEOUT_S, Database, make_engine
from core.metrics import process
from core.metrics.exposition import Exposition
from core.outbound.untrusted import Policy
from core.redis import make_client
from core.sealing import Sealer, sealer_of
from core.settings import Settings, SettingsError
from core.signing_keys import SigningKeys
from jobs.abuse import rules as abuse_rules
from jobs.abuse import tallies
from jobs.abuse.rules import Rule
from jobs.abuse.tallies import TallyKind
from jobs.batches.feeder import Feeder
from jobs.execution.callbacks import Callbacks
from jobs.maintenance.exposition import exposition_of
from jobs.reads import files as read_files
from jobs.reads import tasks
from jobs.reads.waiting import Pauses, Queued, WaitingFor
from jobs.screening.building import screening_of
from jobs.states import Signal
from jobs.submission.building import references_of, submission_of
from jobs.submission.estimates import Estimates, InQueue
from jobs.submission.files import Files
from jobs.submission.service import SubmissionService
from jobs.submission.uploads import Uploads
from jobs.submission.wait_model import Wait
from providers import configured as configuration
from providers.catalog.catalog import Catalog, CatalogSource, Model
from providers.catalog.live import LiveCatalog
from providers.orders.schema import order_schema
from providers.shared.signatures import SECRET_VARIABLES
from storage.base import MediaLimits, Store, StoredImage
from storage.counts import note_decoders
from storage.media import Media
from storage.opening import open_store
from webhooks import operator
from webhooks.receivers import policy as webhook_policy
from workers.enqueue import Publisher

EXTENSION = "darkroom"


class Variant(Protocol):
    """storage.media.Media.variant."""

    def __call__(
        self,
        key: str,
        mime: str,
        *,
        width: int | None,
        height: int | None,
        format: str | None,  # noqa: A002
    ) -> StoredImage: ...


# Readings of the same moment share a query, so one that is never answered would stop every reader behind it.
USE_TIMEOUT_S = HOT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes use.

    ``receivers``: where callbacks to callers' own URLs may go.

    ``sealer`` encrypts accounts' own keys of providers, None where they are off; ``ask_provider(provider, key)`` raises
    where a provider does not take one.

    ``knows_key``: whether a token was good in this process lately, asking no database. ``delete_images`` deletes those
    of a task, by (account id, job id), ``delete_upload`` an upload, by (account id, id). ``files`` keeps files of lines
    and ``file_lines`` reads the bytes of one, ``feeder`` submits the lines of a batch whose caller waits.
    ``cancel_charge``: what a cancelled job costs whose upstream could not be stopped. ``checks`` return None or what is
    wrong. ``wait`` estimates how long a queued task will wait for its start, ``waiting`` which pause it waits behind;
    ``service_s`` says how long jobs of models took lately, by id, where that was measured. ``exposition`` answers
    scrapes, ``notes`` set the gauges of this process. ``tallies`` counts for the rules on
    abuse, ``abuse_rules`` by name, ``operator_targets`` are those of webhooks.operator.
    """

    authenticate: Callable[[str], Caller | None]
    knows_key: Callable[[str], bool]
    connections: Connections
    task_reads: TaskReads
    submission: SubmissionService
    publish: Callable[[Sequence[Signal]], bool]
    catalogs: CatalogSource
    configured: Collection[str]
    order_schema: Callable[[Model, str], Mapping[str, Any]]
    store: Store
    variant: Variant
    delete_images: Callable[[str, str], None]
    cancel_charge: Literal["full", "none"]
    enhancer: Enhancer
    limits: RateLimits
    waits: Waits
    following: Following
    signer: Signer
    checks: Mapping[str, readiness.Check]
    callbacks: Callbacks
    uploads: Uploads
    delete_upload: Callable[[str, str], None]
    files: Files
    feeder: Feeder
    file_lines: Callable[[str], Iterator[bytes]]
    ask_provider: Callable[[str, str], None] = lambda _provider, _key: None
    sealer: Sealer | None = None
    receivers: Policy = field(default_factory=webhook_policy)
    hook_secrets: Mapping[str, SecretStr] = field(default_factory=dict)
    wait: Callable[[InQueue], Wait | None] = lambda _task: None
    waiting: Callable[[Queued], WaitingFor | None] = lambda _task: None
    service_s: Callable[[Sequence[Model]], Mapping[str, float]] = lambda _models: {}
    exposition: Exposition = field(default_factory=Exposition)
    notes: Sequence[Callable[[], None]] = ()
    tallies: Tallies = field(default_factory=Tallies)
    abuse_rules: Mapping[str, Rule] = field(default_factory=dict)
    operator_targets: Collection[str] = ()

    @property
    def catalog(self) -> Catalog:
        """The catalogue as it is now."""
        return self.catalogs.current()


def services() -> Services:
    """The services of the app that handles this request."""
    found: Services = current_app.extensions[EXTENSION]
    return found


def build(settings: Settings, env: Mapping[str, str]) -> Services:
    """Build the real parts; they connect on first use. Raises SettingsError, CatalogError."""
    database = Database(
        make_engine(
            settings.database_url,
            # As many as under load, and kept open: connections beyond the pool's size would be opened and closed for
            # single statements.
            pool_size=2 * settings.db_pool_size,
            max_overflow=0,
            application_name="darkroom-web",
            prepare=settings.db_prepare,
        ),
        outages.of("database"),
        use_timeout_s=USE_TIMEOUT_S,
    )
    client = make_client(settings.redis_url)
    receivers = webhook_policy(settings.webhook_hosts)
    catalogs = LiveCatalog(settings.catalog_local)
    catalog = catalogs.current()
    configured = configuration.configured_names(env)
    store, media = _images(settings)
    connections = Connections(database)
    publisher = Publisher(settings.broker_url, settings.redis_url, task_events=settings.task_events)
    own_broker = settings.broker_url != settings.redis_url
    estimates = Estimates(database)
    task_reads = TaskReads(database)
    waits = Waits(
        lambda job_ids: connections.autocommit(tasks.versions, job_ids),
        client,
        most=settings.max_waiting,
        most_per_account=settings.max_waiting_per_account,
    )
    signer = Signer(SigningKeys(settings.signing_keys, database, settings.var), life_s=settings.link_life_s)
    references = references_of(settings, database, store, media, links_of(settings, signer).path_of)
    submission = submission_of(
        settings,
        database,
        catalogs,
        references,
        configured=configured,
        receivers=receivers,
        screening=screening_of(settings, database, env),
    )
    cancel_charge: Literal["full", "none"] = "none" if settings.cancel_charge == "none" else "full"
    callers = with_metrics_token(build_callers(settings, database), settings.metrics_token)
    return Services(
        authenticate=callers.authenticate,
        knows_key=callers.knows,
        connections=connections,
        task_reads=task_reads,
        submission=submission,
        publish=publisher.publish,
        catalogs=catalogs,
        configured=configured,
        order_schema=order_schema,
        store=store,
        variant=media.variant,
        delete_images=partial(deletion.delete_images, database, media),
        cancel_charge=cancel_charge,
        enhancer=Enhancer.from_env(env, catalog, configured),
        limits=RateLimits(
            account=settings.rate_limit_account,
            submit=settings.rate_limit_submit,
            enhance=settings.rate_limit_enhance,
            wrong_keys=settings.rate_limit_wrong_keys,
            address=settings.rate_limit_address,
            total=settings.rate_limit_global,
            client=client,
        ),
        waits=waits,
        following=Following(connections, task_reads, waits),
        signer=signer,
        receivers=receivers,
        checks=readiness.checks_of(
            database, client, store, catalogs, broker_answers=publisher.broker_answers if own_broker else None
        ),
        callbacks=Callbacks(database, settings.public_url),
        uploads=Uploads(
            database,
            references,
            keep_days=settings.keep_uploads_days,
            max_count=settings.max_uploads,
            max_bytes=settings.max_uploads_bytes,
        ),
        delete_upload=partial(deletion.delete_upload, database, media),
        files=Files(
            database,
            max_bytes=settings.max_batch_file_bytes,
            max_line_bytes=settings.max_request_bytes,
            keep_days=settings.keep_uploads_days,
            max_count=settings.max_uploads,
            max_kept_bytes=settings.max_uploads_bytes,
        ),
        feeder=Feeder(
            database,
            submission,
            {"native": lines.reader(catalogs)},
            publisher.publish,
            settings.publish_window,
            cancel_charge,
        ),
        file_lines=partial(read_files.chunks_of, database),
        ask_provider=ProviderAsker(env, catalogs),
        sealer=_sealer(settings),
        hook_secrets=_hook_secrets(env),
        wait=estimates.of,
        waiting=Pauses(database).of,
        service_s=estimates.service_s,
        exposition=exposition_of(settings.database_url, make_client(settings.redis_url), prepare=settings.db_prepare),
        notes=[
            process.note_process("web", settings.var),
            process.note_pool("web", "main", database.engine),
            note_decoders("web", media.decoders),
        ],
        tallies=Tallies(partial(_write_tallies, database) if settings.abuse_every_s else None),
        abuse_rules=_abuse_rules(settings),
        operator_targets=operator.targets_of(settings.operator_webhooks),
    )


def _write_tallies(database: Database, kind: TallyKind, counted: Mapping[str, int]) -> None:
    with database.hot() as hot:
        tallies.add(hot, kind, counted)


def _abuse_rules(settings: Settings) -> Mapping[str, Rule]:
    try:
        return abuse_rules.load(settings.abuse_rules)
    except abuse_rules.RulesError as error:
        raise SettingsError(f"DARKROOM_ABUSE_RULES: {error}") from None


def _sealer(settings: Settings) -> Sealer | None:
    try:
        return sealer_of(settings.own_keys_secret, "DARKROOM_OWN_KEYS_SECRET")
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _hook_secrets(env: Mapping[str, str]) -> dict[str, SecretStr]:
    return {
        provider: SecretStr(value)
        for provider, variable in SECRET_VARIABLES.items()
        if (value := configuration.value_of(env, variable))
    }


def _images(settings: Settings) -> tuple[Store, Media]:
    store = open_store(settings)
    limits = MediaLimits(max_upload_bytes=settings.max_image_bytes)
    return store, Media(store, Path(settings.var) / "work", decoders=settings.decoders, limits=limits)
