"""The result cache: an order with a seed that is equal to an earlier one of its account gets that job's images.

It is off unless the operator says otherwise. Equal means that the same model would be asked for the same: all that goes
upstream, images by their content, the same catalogue, and the same release, whose adapter asks. The images of the
earlier job are copied, so neither job depends on what becomes of the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

import structlog

from core import failpoints
from core.db import Database, Statement
from core.version import VERSION
from jobs import counts
from jobs.lifecycle import Copy, NewJob
from jobs.submission.order import Order
from providers.catalog.catalog import Model
from storage.base import BlobNotFoundError, StorageUnavailableError, Store

log = structlog.get_logger(__name__)

# So many of the newest equal orders are looked at; those that failed, or whose images are deleted, are among them.
LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class CacheTerms:
    """``max_age_s``: how long after its end a job answers equal orders. ``price_percent``: of the full price."""

    max_age_s: float
    price_percent: Decimal

    def unit_price_microcredits(self, full: int) -> int:
        """The price of one image that an earlier job has made; rounded up."""
        return int((full * self.price_percent / 100).to_integral_value(ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class Hit:
    """An earlier job that answers an order: the job to write, and where its images lie now."""

    job: NewJob
    cached_from: str
    copies: tuple[Copy, ...]


FIND = Statement("""
SELECT j.id, (
    SELECT jsonb_agg(jsonb_build_array(i.index, i.key) ORDER BY i.index) FROM images AS i
    WHERE i.job_id = j.id AND i.deleted_at IS NULL
) AS images
FROM (
    SELECT o.job_id FROM orders AS o WHERE o.order_sha256 = CAST(:order_digest AS bytea)
    ORDER BY o.job_id DESC LIMIT CAST(:looked_at AS int)
) AS equal JOIN jobs AS j ON j.id = equal.job_id
WHERE j.account_id = :account_id AND j.status = 'succeeded'
    -- Neither by a fallback nor by another wording.
    AND j.provider = :provider AND j.model = :model AND j.safe_prompt IS DISTINCT FROM 'adjusted'
    AND j.finished_at > statement_timestamp() - make_interval(secs => CAST(:max_age_s AS float))
    AND (SELECT count(*) FROM images AS i WHERE i.job_id = j.id AND i.deleted_at IS NULL) = j.n
ORDER BY j.id DESC LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class ResultCache:
    """Finds the earlier jobs that answer orders."""

    database: Database
    store: Store
    terms: CacheTerms

    def noted(self, job: NewJob, order: Order, model: Model) -> NewJob:
        """The job with what later equal orders find it by; as it is where it may answer none."""
        if order.keeps_out_of_cache or job.keep_s is not None or not is_seeded(model, job.request["params"]):
            return job
        return replace(job, order_sha256=order_sha256(job))

    def find(self, job: NewJob, order: Order, model: Model) -> Hit | None:
        """The earlier job that answers this one, its images copied; None: it has to be made.

        Raises DatabaseAwayError. Images that cannot be copied at the moment are made again.
        """
        if not is_seeded(model, job.request["params"]):
            return None
        if order.wants_fresh:
            counts.RESULT_CACHE.of("refused").inc()
            return None
        values = {
            "order_digest": job.order_sha256 or order_sha256(job),
            "account_id": job.account_id,
            "provider": job.provider,
            "model": job.model,
            "max_age_s": self.terms.max_age_s,
            "looked_at": LOOKED_AT,
        }
        with self.database.hot() as hot:
            found = hot.one_or_none(FIND, values)
        copies = self._copied(job.id, found.id, found.images) if found else None
        if copies is None:
            counts.RESULT_CACHE.of("miss").inc()
            return None
        failpoints.hit("cache.copied")
        unit_price = self.terms.unit_price_microcredits(job.unit_price_microcredits)
        answered = replace(job, unit_price_microcredits=unit_price, quoted_microcredits=unit_price * job.n)
        return Hit(answered, found.id, copies)

    def discard(self, hit: Hit) -> None:
        """Delete the copies of a hit that became no job. What cannot be deleted now is found as an orphan."""
        self._delete(hit.copies)

    def _copied(self, job_id: str, source_id: str, images: list[tuple[int, str]]) -> tuple[Copy, ...] | None:
        copies: list[Copy] = []
        try:
            for index, key in images:
                copy = Copy(index, key.replace(source_id, job_id, 1))
                self.store.copy(key, copy.key)
                copies.append(copy)
        except (BlobNotFoundError, StorageUnavailableError) as error:
            log.warning("result_not_copied", job_id=source_id, error=type(error).__name__)
            self._delete(copies)
            return None
        except BaseException:
            self._delete(copies)
            raise
        return tuple(copies)

    def _delete(self, copies: tuple[Copy, ...] | list[Copy]) -> None:
        with suppress(StorageUnavailableError):
            for copy in copies:
                self.store.delete(copy.key)


def count_hit(hit: Hit) -> None:
    """Count and log an order that an earlier job has answered, once it is committed."""
    job = hit.job
    counts.RESULT_CACHE.of("hit").inc()
    counts.ENDED.of(job.provider, "succeeded", "cached").inc()
    log.info(
        "job_succeeded",
        job_id=job.id,
        code="cached",
        cached_from=hit.cached_from,
        account_id=job.account_id,
        provider=job.provider,
        model=job.model,
        images=job.n,
        request_id=job.request_id,
    )


def is_seeded(model: Model, params: Mapping[str, Any]) -> bool:
    """Whether the caller fixed the seed. A negative one, and the one that the model takes by itself, stand for a random
    one at some upstreams."""
    seed, spec = params.get("seed"), model.params.get("seed")
    return type(seed) is int and seed >= 0 and (spec is None or seed != spec.default)


def order_sha256(job: NewJob) -> bytes:
    """What equal orders of an account share: a digest of all that the images depend on."""
    request = job.request
    said = {
        "account": job.account_id,
        "operation": job.operation,
        "provider": job.provider,
        "model": job.model,
        "catalog": job.price_version,
        "release": VERSION,
        **{name: request.get(name) for name in ("prompt", "n", "size", "params", "extra", "safe_prompt")},
        "inputs": [[each["role"], each["position"], each["sha256"]] for each in job.inputs],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
