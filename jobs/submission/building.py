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
from jobs.submission.fallbacks import chains_of
from jobs.submission.quoting import Quoting
from jobs.submission.references import References
from jobs.submission.remote_images import RemoteImages, fetch_image
from jobs.submission.service import SubmissionService
from providers.catalog.catalog import Catalog, CatalogSource, UnknownModelError
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
        ),
        references,
        default_deadline_s=settings.default_deadline_s,
        publish_window=settings.publish_window,
        share_by=settings.fair_share_by,
        short_life_s=settings.short_life_s,
        receivers=receivers,
    )


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
