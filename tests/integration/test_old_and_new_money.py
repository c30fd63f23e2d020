"""During an upgrade old and new processes move the same account's money; the books must not notice.

``Old`` speaks the statements of the release before, word for word; ``ledger_verbs`` speaks today's. When the old
columns and the trigger of migration 0005 are dropped, this file goes with them.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ledger_verbs
import pytest
from alembic import command
from job_engine import Engine, root
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import IntegrityError

from accounts.accounts import create_account
from accounts.keys import Caller
from core import schema
from core.db import Database, make_engine
from core.ids import new_id
from jobs.maintenance import audit
from jobs.reads import funds
from quota import ledger
from quota.errors import InsufficientCreditsError

UNIT = 100
ABOUT_IMAGES = {"captured_is_pictures_kept", "only_pictures_are_charged"}  # no image is made here
_ids = itertools.count(1)

OLD_GRANT = (
    "WITH balance AS (INSERT INTO balances (account_id, available) VALUES (:account_id, :amount)"
    " ON CONFLICT (account_id) DO UPDATE SET available = balances.available + :amount)"
    " INSERT INTO transfers (account_id, kind, source, target, amount, note)"
    " VALUES (:account_id, 'grant', 'house:issued', 'acct:available', :amount, :note)"
)
OLD_ADMIT = (
    "UPDATE balances SET queued = queued + :price"
    " WHERE account_id = :account_id AND available - queued >= :price RETURNING 1"
)
OLD_WITHDRAW = "UPDATE balances SET queued = queued - :price WHERE account_id = :account_id"
OLD_HOLD = (
    "WITH balance AS (UPDATE balances SET queued = queued - :price, available = available - :price,"
    " held = held + :price WHERE account_id = :account_id RETURNING account_id)"
    " INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
    " SELECT account_id, :job_id, 'hold', 'acct:available', 'acct:held', :price FROM balance"
)
OLD_SETTLE = (
    "WITH balance AS (UPDATE balances SET held = held - :captured - :released,"
    " available = available + :released WHERE account_id = :account_id RETURNING account_id),"
    " parts (kind, source, target, amount) AS (VALUES"
    " ('capture', 'acct:held', 'house:revenue', CAST(:captured AS bigint)),"
    " ('release', 'acct:held', 'acct:available', CAST(:released AS bigint)))"
    " INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
    " SELECT account_id, :job_id, kind, source, target, amount FROM balance, parts"
    " WHERE amount > 0"
)


OLD_ACCOUNT = "INSERT INTO accounts (id, name, weight) VALUES (:id, :name, 1) RETURNING id"


def old_account(connection: Connection, name: str) -> str:
    """The id of an account, made as the previous release makes them."""
    return str(connection.execute(text(OLD_ACCOUNT), {"id": new_id("acct"), "name": name}).scalar_one())


class Old:
    """The ledger of the previous release."""

    @staticmethod
    def grant(connection: Connection, account_id: str, amount: int) -> None:
        connection.execute(text(OLD_GRANT), {"account_id": account_id, "amount": amount, "note": ""})

    @staticmethod
    def admit(connection: Connection, account_id: str, price: int) -> None:
        row = connection.execute(text(OLD_ADMIT), {"account_id": account_id, "price": price}).one_or_none()
        if row is None:
            raise InsufficientCreditsError(price_microcredits=price, spendable_microcredits=0)

    @staticmethod
    def withdraw(connection: Connection, account_id: str, price: int) -> None:
        connection.execute(text(OLD_WITHDRAW), {"account_id": account_id, "price": price})

    @staticmethod
    def hold(connection: Connection, account_id: str, job_id: str, price: int) -> None:
        values = {"account_id": account_id, "job_id": job_id, "price": price}
        connection.execute(text(OLD_HOLD), values)

    @staticmethod
    def settle(connection: Connection, account_id: str, job_id: str, *, captured: int, released: int) -> None:
        values = {"account_id": account_id, "job_id": job_id, "captured": captured, "released": released}
        connection.execute(text(OLD_SETTLE), values)


class Life:
    """Jobs of one account, each verb run by old or new code at random."""

    def __init__(
        self, database: Database, account_id: str, chance: random.Random, codes: Sequence[Any] = (Old, ledger_verbs)
    ) -> None:
        self.codes = codes
        self.database = database
        self.account_id = account_id
        self.chance = chance
        self.queued: list[tuple[str, int]] = []
        self.held: list[tuple[str, int]] = []
        self.refused = 0

    def step(self) -> None:
        act = self.chance.choice([self.submit] * 5 + [self.start] * 4 + [self.end] * 3 + [self.leave, self.grant])
        act()

    def finish(self) -> None:
        while self.queued or self.held:
            self.chance.choice([self.start, self.leave, self.end])()

    @property
    def code(self) -> Any:
        return self.chance.choice(self.codes)

    def grant(self) -> None:
        with self.database.transaction() as connection:
            self.code.grant(connection, self.account_id, self.chance.randint(1, 5 * UNIT))

    def submit(self) -> None:
        job_id, price = f"job_{next(_ids):026d}", self.chance.randint(1, 3 * UNIT)
        try:
            with self.database.transaction() as connection:
                connection.execute(
                    text(
                        "INSERT INTO jobs"
                        " (id, account_id, operation, model, provider, n, status, money, unit_price, quoted)"
                        " VALUES (:id, :account_id, 'generate', 'm', 'p', 1, 'queued', 'queued', :price, :price)"
                    ),
                    {"id": job_id, "account_id": self.account_id, "price": price},
                )
                self.code.admit(connection, self.account_id, price)
        except InsufficientCreditsError:
            self.refused += 1
            return
        self.queued.append((job_id, price))

    def start(self) -> None:
        if not self.queued:
            return
        job_id, price = self._take(self.queued)
        with self.database.transaction() as connection:
            connection.execute(
                text(
                    "UPDATE jobs SET status = 'running', money = 'held', owner = 'w', started_at = clock_timestamp()"
                    " WHERE id = :id"
                ),
                {"id": job_id},
            )
            self.code.hold(connection, self.account_id, job_id, price)
        self.held.append((job_id, price))

    def leave(self) -> None:
        if not self.queued:
            return
        job_id, price = self._take(self.queued)
        with self.database.transaction() as connection:
            self._ended(connection, job_id, captured=0, released=price)
            self.code.withdraw(connection, self.account_id, price)

    def end(self) -> None:
        if not self.held:
            return
        job_id, price = self._take(self.held)
        captured = self.chance.choice([0, price, self.chance.randint(0, price)])
        with self.database.transaction() as connection:
            self._ended(connection, job_id, captured=captured, released=price - captured)
            self.code.settle(connection, self.account_id, job_id, captured=captured, released=price - captured)

    def _take(self, jobs: list[tuple[str, int]]) -> tuple[str, int]:
        return jobs.pop(self.chance.randrange(len(jobs)))

    @staticmethod
    def _ended(connection: Connection, job_id: str, *, captured: int, released: int) -> None:
        connection.execute(
            text(
                "UPDATE jobs SET status = 'cancelled', money = 'settled', owner = NULL, captured = :captured,"
                " released = :released, finished_at = clock_timestamp() WHERE id = :id"
            ),
            {"id": job_id, "captured": captured, "released": released},
        )


def drift(database: Database) -> list[Any]:
    """Return the findings of the audit, and rows whose old columns do not agree with the new ones."""
    with database.transaction() as connection:
        found: list[Any] = [one for one in audit.check(connection) if one.invariant not in ABOUT_IMAGES]
        apart = text(
            "SELECT * FROM balances WHERE available - queued <> spendable OR queued + held <> reserved OR spendable < 0"
        )
        return found + list(connection.execute(apart))


@contextmanager
def going_on(lives: Sequence[Life]) -> Iterator[None]:
    """Run every life in its own thread, from before the block to its end, for at least some steps each."""
    over, faults = threading.Event(), []
    begun = threading.Barrier(len(lives) + 1, timeout=30)

    def live(life: Life) -> None:
        try:
            life.step()
            begun.wait()
            while not over.is_set():
                life.step()
            for _ in range(20):
                life.step()
        except BaseException as fault:  # noqa: BLE001 - a thread's fault would be lost
            faults.append(fault)

    threads = [threading.Thread(target=live, args=(life,)) for life in lives]
    for thread in threads:
        thread.start()
    try:
        begun.wait()
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert faults == []


@pytest.fixture
def before(postgres_url: str) -> Iterator[Database]:
    """A database of the previous release."""
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("CREATE DATABASE release_before"))
    database = Database(make_engine(postgres_url.rsplit("/", 1)[0] + "/release_before", pool_size=12))
    migrate(database, "0004")
    yield database
    database.dispose()
    with administrator.connect() as connection:
        connection.execute(text("DROP DATABASE release_before WITH (FORCE)"))
    administrator.dispose()


def migrate(database: Database, revision: str, *, back: bool = False) -> None:
    with database.transaction() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)


OLD_RULES = """
SELECT b.account_id FROM balances AS b
WHERE b.available <> (
        SELECT sum(CASE 'acct:available' WHEN target THEN amount WHEN source THEN -amount ELSE 0 END)
        FROM transfers AS t WHERE t.account_id = b.account_id
    )
    OR b.queued <> (SELECT coalesce(sum(quoted), 0) FROM jobs WHERE account_id = b.account_id AND money = 'queued')
    OR b.held <> (SELECT coalesce(sum(quoted), 0) FROM jobs WHERE account_id = b.account_id AND money = 'held')
"""


def test_the_upgrade_and_the_way_back_go_by_under_running_processes(before: Database) -> None:
    with before.transaction() as connection:
        accounts = [old_account(connection, f"account {n}") for n in range(2)]
    lives = [Life(before, accounts[n % 2], random.Random(n), [Old]) for n in range(6)]
    for account in accounts:
        with before.transaction() as connection:
            Old.grant(connection, account, 5 * UNIT)
    with going_on(lives):
        migrate(before, "0005")
    for life in lives:
        life.codes = (Old, ledger_verbs)
    with going_on(lives):
        pass
    for life in lives:
        life.codes = (Old,)
    with going_on(lives):
        migrate(before, "0004", back=True)
    with before.autocommit() as connection:
        assert connection.execute(text(OLD_RULES)).all() == []
    migrate(before, "head")
    assert drift(before) == []
    for life in lives:
        life.codes = (ledger_verbs,)
        life.finish()
    assert drift(before) == []


def test_the_next_step_of_the_upgrade_goes_by_under_this_release(before: Database) -> None:
    """The step from docs/operating.md; no current statement uses the columns that it drops."""
    migrate(before, "head")
    with before.transaction() as connection:
        life = Life(before, create_account(connection, "account").id, random.Random(7), [ledger_verbs])
    life.grant()
    guide = (root() / "docs" / "operating.md").read_text(encoding="utf-8")
    step = guide.partition("DROP TRIGGER balances_in_step")
    with going_on([life]), before.transaction() as connection:
        for statement in (step[1] + step[2].partition("```")[0]).strip().rstrip(";").split(";"):
            connection.execute(text(statement))
    life.finish()
    with before.transaction() as connection:
        assert [one for one in audit.check(connection) if one.invariant not in ABOUT_IMAGES] == []


@pytest.mark.parametrize("seed", range(3))
def test_old_and_new_code_by_turns_keep_the_books(database: Database, engine: Engine, seed: int) -> None:
    life = Life(database, engine.account(0).account_id, random.Random(seed))
    life.grant()
    for _ in range(150):
        life.step()
        assert drift(database) == []
    life.finish()
    assert drift(database) == []
    assert life.refused > 5
    with database.autocommit() as connection:
        assert ledger.balance(connection, life.account_id).reserved_microcredits == 0


def test_old_and_new_code_at_once_keep_the_books(database: Database, engine: Engine) -> None:
    accounts = [engine.account(0.0005).account_id for _ in range(2)]
    lives = [Life(database, accounts[n % 2], random.Random(n)) for n in range(8)]
    faults: list[BaseException] = []

    def live(life: Life) -> None:
        try:
            for _ in range(120):
                life.step()
            life.finish()
        except BaseException as fault:  # noqa: BLE001 - a thread's fault would be lost
            faults.append(fault)

    threads = [threading.Thread(target=live, args=(life,)) for life in lives]
    for thread in threads:
        thread.start()
    found: list[Any] = []
    while any(thread.is_alive() for thread in threads):
        found += drift(database)
    assert faults == []
    assert found + drift(database) == []
    assert sum(life.refused for life in lives) > 0
    with database.autocommit() as connection:
        assert [ledger.balance(connection, account).reserved_microcredits for account in accounts] == [0, 0]


def test_of_old_and_new_orders_at_once_exactly_those_covered_are_accepted(engine: Engine) -> None:
    customer = engine.account(0.00001)  # ten micro-credits
    start, results = threading.Barrier(24), []

    def submit(code: Any) -> None:
        start.wait()
        try:
            with engine.database.transaction() as connection:
                code.admit(connection, customer.account_id, 1)
            results.append("accepted")
        except InsufficientCreditsError:
            results.append("refused")

    threads = [threading.Thread(target=submit, args=(code,)) for code in (Old, ledger_verbs) * 12]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results.count("accepted"), results.count("refused")) == (10, 14)


@pytest.mark.parametrize("code", [Old, ledger_verbs])
def test_what_one_kind_of_code_holds_the_other_settles(engine: Engine, account: Caller, code: Any) -> None:
    other = ledger_verbs if code is Old else Old
    before = engine.balance(account)
    with engine.database.transaction() as connection:
        code.admit(connection, account.account_id, 10)
        code.hold(connection, account.account_id, "job_x", 10)
        other.settle(connection, account.account_id, "job_x", captured=4, released=6)
    with engine.database.autocommit() as connection:
        assert ledger.balance(connection, account.account_id) == ledger.Balance(before.spendable - 4, 0)


def test_old_code_cannot_spend_what_is_not_there(engine: Engine, account: Caller) -> None:
    with pytest.raises(IntegrityError), engine.database.transaction() as connection:
        Old.settle(connection, account.account_id, "job_x", captured=1, released=0)


def test_a_row_restored_from_a_backup_stays_as_it_was(engine: Engine, account: Caller) -> None:
    """The backup has both sets of columns; neither is counted twice."""
    with engine.database.transaction() as connection:
        ledger_verbs.admit(connection, account.account_id, 10)
        Old.hold(connection, account.account_id, "job_x", 10)
        ledger_verbs.admit(connection, account.account_id, 7)
    row = "SELECT account_id, spendable, reserved, available, queued, held FROM balances"
    before = engine.rows(row)
    engine.sql("CREATE TABLE backup AS SELECT account_id, spendable, reserved, available, queued, held FROM balances")
    try:
        engine.sql("DELETE FROM balances")
        engine.sql(
            "INSERT INTO balances (account_id, spendable, reserved, available, queued, held)"
            " SELECT account_id, spendable, reserved, available, queued, held FROM backup"
        )
    finally:
        engine.sql("DROP TABLE backup")
    assert engine.rows(row) == before


def test_an_owner_sees_old_and_new_jobs_alike(engine: Engine, account: Caller) -> None:
    life = Life(engine.database, account.account_id, random.Random(1))
    for _ in range(6):
        life.submit()
    life.start()
    life.start()
    with engine.database.autocommit() as connection:
        seen = funds.funds(connection, account.account_id)
    assert (seen.held, seen.queued) == (sum(p for _, p in life.held), sum(p for _, p in life.queued))
    assert seen.available + seen.held == 1000 * 1_000_000
