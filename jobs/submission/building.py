"""The submission service from the settings: the same one in web processes and in workers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from decimal import Decimal

from core.db import Database
from core.outbound.untrusted import Policy
from core.settings import Settings, SettingsError
from jobs.reads import tasks
from jobs.reads.tasks import Image
from jobs.reads.uploads import Upload, use_upload
from jobs.screening.screening import Screening
from jobs.submission.admission import Admission, Installation
from jobs.submission.fallbacks import chains_of
from jobs.submission.own_key_prices import OwnKeyPrices, fee_of
from jobs.submission.quoting import Quoting
from jobs.submission.references import References
from jobs.submission.remote_images import RemoteImages, fetch_image
from jobs.submission.result_cache import CacheTerms, ResultCache
from jobs.submission.service import SubmissionService
from providers.catalog.catalog import Catalog, CatalogSource, UnknownModelError
from quota.prices import MICROCREDITS_PER_CREDIT
from storage.base import Store
from storage.media import Media


def references_of(
    settings: Settings, database: Database, store: Store, media: Media, path_of: Callable[[str], str | None]
) -> References:
    """What reads the images of orders. ``path_of``: as of References."""

    def find_image(account_id: str, job_id: str, index: int) -> Image:
        with database.autocommit() as connection:
            return tasks.find_image(connection, account_id, job_id, index)

    def find_upload(account_id: str, upload_id: str) -> Upload:
        with database.autocommit() as connection:
            return use_upload(connection, account_id, upload_id)

    return References(
        store,
        media,
        RemoteImages(lambda url: fetch_image(url, max_bytes=settings.max_image_bytes)),
        find_image=find_image,
        max_bytes=settings.max_image_bytes,
        find_upload=find_upload,
        path_of=path_of,
    )


def submission_of(
    settings: Settings,
    database: Database,
    catalogs: CatalogSource,
    references: References,
    *,
    configured: Collection[str],
    receivers: Policy,
    screening: Screening,
) -> SubmissionService:
    """The service. ``configured``: the providers that can run something. Raises SettingsError."""
    return SubmissionService(
        database,
        Quoting(
            catalogs,
            configured=configured,
            markup=Decimal(str(settings.markup)),
            minimum_unit_price_microcredits=settings.minimum_unit_price_microcredits,
            default_model=settings.default_model,
            chains=_chains(settings.fallbacks, catalogs.current()),
            own_key_fee=fee_of(settings.own_key_fee),
        ),
        references,
        default_deadline_s=settings.default_deadline_s,
        publish_window=settings.publish_window,
        share_by=settings.fair_share_by,
        short_life_s=settings.short_life_s,
        receivers=receivers,
        cache=ResultCache(database, references.store, terms) if (terms := cache_terms(settings)) else None,
        screening=screening,
        own_keys=OwnKeyPrices(database, always=settings.own_keys_secret is not None),
        admission=Admission(
            Installation(
                in_flight=settings.max_in_flight,
                images_per_minute=settings.images_per_minute,
                day_microcredits=_microcredits(settings.budget_day_credits),
            )
        ),
    )


def cache_terms(settings: Settings) -> CacheTerms | None:
    """On which terms earlier jobs answer equal orders; None: they do not."""
    if not settings.result_cache:
        return None
    max_age_s = settings.result_cache_hours * 3600
    if settings.keep_images_days:
        max_age_s = min(max_age_s, settings.keep_images_days * 86_400)  # what expires soon may be there a while longer
    return CacheTerms(max_age_s, Decimal(str(settings.result_cache_price_percent)))


def _microcredits(given: int | None) -> int | None:
    return None if given is None else given * MICROCREDITS_PER_CREDIT


def _chains(text: str, catalog: Catalog) -> dict[str, list[str]]:
    """DARKROOM_FALLBACKS by model id. Raises SettingsError for a malformed chain or an unknown model."""
    try:
        chains = chains_of(text)
        return {_id_of(first, catalog): [_id_of(name, catalog) for name in rest] for first, rest in chains.items()}
    except (ValueError, UnknownModelError) as error:
        raise SettingsError(f"DARKROOM_FALLBACKS: {error}") from None


def _id_of(name: str, catalog: Catalog) -> str:
    """The id behind a name. A hidden model has one, too: a chain leaves it out only while it is hidden."""
    entry = catalog.models.get(name)
    return name if entry is not None and entry.hidden else catalog.resolve(name).model.id
