"""The submission service as the web process has it, without a public address to fetch images from."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from core.db import Database
from core.outbound.untrusted import Policy
from core.outbound.urls import UnsafeUrlError
from jobs.reads import tasks
from jobs.reads.tasks import Image
from jobs.submission.admission import Admission, Installation
from jobs.submission.own_key_prices import FREE, Fee, OwnKeyPrices
from jobs.submission.quoting import Quoting
from jobs.submission.references import References
from jobs.submission.remote_images import RemoteImages
from jobs.submission.service import SubmissionService
from providers.catalog.catalog import CatalogSource
from storage.base import Store
from storage.media import Media

# More than Media takes, so that it is Media that judges.
MAX_IMAGE_BYTES = 64 * 1024 * 1024


def make_submission(
    database: Database,
    media: Media,
    store: Store,
    catalogs: CatalogSource,
    *,
    configured: Collection[str] = ("chatgpt2api", "openai"),
    minimum_unit_price_microcredits: int = 100_000,
    publish_window: int = 32,
    receivers: Policy | None = None,
    own_keys: OwnKeyPrices | None = None,
    own_key_fee: Fee = FREE,
    installation: Installation | None = None,
) -> SubmissionService:
    def find_image(account_id: str, job_id: str, index: int) -> Image:
        with database.autocommit() as connection:
            return tasks.find_image(connection, account_id, job_id, index)

    def fetch(url: str) -> bytes:
        raise UnsafeUrlError("url_unreachable", url)

    quoting = Quoting(
        catalogs,
        configured=configured,
        markup=Decimal(1),
        minimum_unit_price_microcredits=minimum_unit_price_microcredits,
        default_model=None,
        own_key_fee=own_key_fee,
    )
    references = References(store, media, RemoteImages(fetch), find_image=find_image, max_bytes=MAX_IMAGE_BYTES)
    return SubmissionService(
        database,
        quoting,
        references,
        default_deadline_s=3600,
        publish_window=publish_window,
        receivers=receivers,
        own_keys=own_keys,
        admission=Admission(installation or Installation()),
    )
