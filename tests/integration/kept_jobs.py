"""Finished jobs with stored images, written directly: the rows a finished job leaves, and blobs in a real store."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import ledger_verbs
from sqlalchemy import text

from core.db import Database
from core.ids import new_id
from jobs.maintenance import orphans
from jobs.maintenance.backlogs import drain
from jobs.maintenance.retention import OF_JOBS, Retention
from storage.local import LocalStore
from storage.media import Media

PRICE = 100_000
CREDENTIAL = "cred_kept"
HOURS = 3600.0


@dataclass
class House:
    """The database and the store, with shorthands for what tests do with them."""

    database: Database
    store: LocalStore
    media: Media
    account_id: str

    def retention(self, *, images_days: float = 30, inputs_days: float = 30, media: Media | None = None) -> Retention:
        return Retention(
            owner="wkr_test",
            database=self.database,
            media=media or self.media,
            store=self.store,
            keep_images_days=images_days,
            keep_inputs_days=inputs_days,
        )

    # -- the database

    def sql(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def one(self, statement: str, **values: Any) -> Any:
        with self.database.autocommit() as connection:
            return connection.execute(text(statement), values).scalar_one_or_none()

    def collect_orphans(self) -> int:
        return orphans.list_next_slice(self.database, self.store)

    def listed_blobs(self) -> list[str]:
        """Blobs whose bytes are still to be deleted."""
        with self.database.autocommit() as connection:
            return list(connection.execute(text("SELECT key FROM doomed_blobs ORDER BY key")).scalars())

    # -- jobs

    def job(
        self, *, ended_days_ago: float | None = 0.0, image_count: int = 1, inputs: int = 0, quiet: bool = False
    ) -> str:
        """A succeeded job that was paid for, or with ``ended_days_ago`` None one that is waiting.

        ``quiet`` leaves the blobs out.
        """
        job_id = new_id("job")
        ended = ended_days_ago is not None
        price = PRICE * image_count
        with self.database.transaction() as connection:
            connection.execute(
                text(
                    "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price,"
                    " quoted, captured, released, attempt, created_at, started_at, finished_at)"
                    " VALUES (:id, :account, 'generate', 'm', 'openai', :n, CAST(:status AS text),"
                    " :money, :price, :quoted, :captured, :released, 1, clock_timestamp() - interval '1 day' * :days,"
                    " clock_timestamp() - interval '1 day' * :days,"
                    " CASE WHEN :ended THEN clock_timestamp() - interval '1 day' * :days END)"
                ),
                {
                    "id": job_id, "account": self.account_id, "n": image_count or 1,
                    "status": "succeeded" if ended else "waiting", "money": "settled" if ended else "held",
                    "price": PRICE, "quoted": price, "captured": price if ended else None,
                    "released": 0 if ended else None, "days": ended_days_ago or 0.0, "ended": ended,
                },
            )  # fmt: skip
            connection.execute(
                text('INSERT INTO orders (job_id, request) VALUES (:id, \'{"prompt": "a fox"}\')'), {"id": job_id}
            )
            connection.execute(
                text(
                    "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id,"
                    " base_url, dedupe_key, outcome, give_up_at) VALUES (:id, :job, 0, 1, 1, 'openai', 'm',"
                    " :credential, '', :id, 'kept', clock_timestamp())"
                ),
                {"id": f"call_{job_id}", "job": job_id, "credential": CREDENTIAL},
            )
            for index in range(image_count):
                self._image(connection, job_id, index, ended_days_ago or 0.0)
            for position in range(inputs):
                self._input(connection, job_id, position, ended_days_ago or 0.0)
            ledger_verbs.admit(connection, self.account_id, price)
            ledger_verbs.hold(connection, self.account_id, job_id, price)
            if ended:
                ledger_verbs.settle(connection, self.account_id, job_id, captured=price, released=0)
        if not quiet:
            for key in [*self.keys(job_id, "images"), *self.keys(job_id, "inputs")]:
                self.put(key)
        return job_id

    def _image(self, connection: Any, job_id: str, index: int, days: float) -> None:
        digest = sha256(f"{job_id}{index}".encode()).hexdigest()
        connection.execute(
            text(
                "INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256,"
                " created_at) VALUES (:job, :index, :call, :key, 'image/png', 8, 8, 1, :sha,"
                " clock_timestamp() - interval '1 day' * :days)"
            ),
            {
                "job": job_id, "index": index, "call": f"call_{job_id}", "sha": digest, "days": days,
                "key": f"jobs/{job_id}/{index}/{digest}.png",
            },
        )  # fmt: skip

    def _input(self, connection: Any, job_id: str, position: int, days: float) -> None:
        digest = sha256(f"{job_id}in{position}".encode()).hexdigest()
        connection.execute(
            text(
                "INSERT INTO inputs (job_id, role, position, key, mime, width_px, height_px, size_bytes, sha256,"
                " created_at) VALUES (:job, 'image', :position, :key, 'image/png', 8, 8, 1, :sha,"
                " clock_timestamp() - interval '1 day' * :days)"
            ),
            {
                "job": job_id, "position": position, "sha": digest, "days": days,
                "key": f"inputs/{job_id}/{position}/{digest}.png",
            },
        )  # fmt: skip

    def keys(self, job_id: str, table: str = "images") -> list[str]:
        with self.database.autocommit() as connection:
            rows = connection.execute(text(f"SELECT key FROM {table} WHERE job_id = :id ORDER BY key"), {"id": job_id})
            return list(rows.scalars())

    # -- the store

    def put(self, key: str, *, hours_ago: float = 0.0) -> str:
        path = Path(self.store.staging) / "incoming"
        path.write_bytes(b"x")
        self.store.put_file(str(path), key)
        moment = time.time() - hours_ago * HOURS
        os.utime(self.store.root / key, (moment, moment))
        return key

    def lies(self, key: str) -> bool:
        return self.store.exists(key)


def expire(retention: Retention, *, seconds: float = 60.0) -> int:
    """The rows of a round without its bytes and orphans: how many jobs lost something."""
    backlogs = retention.expiry_backlogs()
    drain(backlogs, seconds=seconds)
    return sum(backlog.done for backlog in backlogs if backlog.name in OF_JOBS)


def make_house(database: Database, folder: Path) -> House:
    """An empty store, a funded account and a credential."""
    store = LocalStore(folder / "blobs")
    account_id = new_id("acct")
    with database.transaction() as connection:
        connection.execute(text("DELETE FROM doomed_blobs"))
        connection.execute(text("INSERT INTO accounts (id, name) VALUES (:id, :id)"), {"id": account_id})
        connection.execute(
            text("INSERT INTO credentials (id, provider) VALUES (:id, 'openai') ON CONFLICT DO NOTHING"),
            {"id": CREDENTIAL},
        )
        ledger_verbs.grant(connection, account_id, 10_000 * PRICE)
    return House(database, store, Media(store, folder / "work", decoders=1), account_id)
