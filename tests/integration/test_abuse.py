"""Rules on abuse: each kind by real rows at a given moment, once a window, and what follows when one trips."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from job_engine import CREDIT, Engine
from receivers import Receiver, make_sender, receiver
from sqlalchemy import text
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from accounts import key_changes, trail
from accounts.keys import Caller, create_key
from accounts.trail import ActionFilters
from core.db import Database
from core.ids import id_before
from jobs.abuse import counts, events, overrides, rules, tallies
from jobs.abuse.evaluation import TURN, Evaluation
from jobs.abuse.events import Event, EventNotFoundError, Filters
from jobs.abuse.rules import Rule
from jobs.maintenance.backlogs import drain
from jobs.maintenance.retention import Retention
from storage.local import LocalStore
from storage.media import Media
from webhooks import operator
from webhooks.errors import NoReceiversError

# The middle of a day, an hour and a minute; what tests write lies around it.
NOW = datetime(2026, 11, 18, 12, 30, 30, tzinfo=UTC)


class House:
    def __init__(self, database: Database, account: Caller) -> None:
        self.database = database
        self.account = account.account_id
        self.key = self.new_key()
        self.jobs = 0

    def new_key(self, *, scopes: Sequence[str] = ("jobs:write",), account: str | None = None) -> str:
        with self.database.transaction() as connection:
            return create_key(connection, account or self.account, scopes=scopes).id

    def sql(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def sql_all(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.autocommit() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def ordered(self, at: datetime, *, n: int = 1, price: int = CREDIT, refused: bool = False, key: str = "") -> None:
        """A job of that time: settled for its price, or refused by its upstream."""
        self.jobs += 1
        job_id = id_before("job", at)[:-6] + f"{self.jobs:06d}"
        self.sql(
            """
            INSERT INTO jobs (id, account_id, key_id, operation, model, provider, n, status, money, unit_price, quoted,
                captured, released, failure_code, created_at, finished_at)
            VALUES (:id, :account, :key, 'generate', 'm', 'openai', :n, :status, 'settled', :price, :price, :captured,
                :price - :captured, :code, :at, :at)
            """,
            id=job_id,
            account=self.account,
            key=key or self.key,
            n=n,
            at=at,
            price=price,
            captured=0 if refused else price,
            status="failed" if refused else "succeeded",
            code="content_refused" if refused else None,
        )
        if not refused:
            self.sql(
                """
                INSERT INTO transfers (account_id, job_id, kind, source, target, amount, created_at)
                VALUES (:account, :id, 'capture', 'acct:held', 'house:revenue', :price, :at)
                """,
                account=self.account,
                id=job_id,
                price=price,
                at=at,
            )

    def screened(self, at: datetime) -> None:
        """A refusal of that time by a screen."""
        self.sql(
            "INSERT INTO screening_refusals (at, account_id, key_id, screen, category)"
            " VALUES (:at, :account, :key, 'words', 'weapons')",
            at=at,
            account=self.account,
            key=self.key,
        )

    def evaluation(self, *given: dict[str, Any], targets: Sequence[str] = ()) -> Evaluation:
        made = [Rule.model_validate({"name": f"rule-{number}", **each}) for number, each in enumerate(given)]
        return Evaluation(self.database, {each.name: each for each in made}, targets)

    def judge(self, *given: dict[str, Any], now: datetime = NOW, targets: Sequence[str] = ()) -> Sequence[Event]:
        return self.evaluation(*given, targets=targets).evaluate(now)

    def events(self, **filters: Any) -> list[Event]:
        with self.database.autocommit() as connection:
            return events.events(connection, Filters(**filters))

    def paused(self, key_id: str) -> bool:
        with self.database.autocommit() as connection:
            return key_changes.find_key(connection, key_id).paused_at is not None


@pytest.fixture
def house(engine: Engine, account: Caller) -> House:
    return House(engine.database, account)


@pytest.fixture
def desk() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


# ---------------------------------------------------------------- spend


def test_a_budget_trips_at_its_percentages_of_what_was_spent_in_the_day(house: House) -> None:
    budget = {"kind": "spend", "window": "day", "budget": 10}
    asked = ({**budget, "percent": 80}, {**budget, "percent": 100})
    house.ordered(NOW - timedelta(hours=13), price=9 * CREDIT)  # of the day before
    house.ordered(NOW - seconds(3600), price=7 * CREDIT)
    assert house.judge(*asked) == []
    house.ordered(NOW - seconds(60), price=1 * CREDIT)
    [at_80] = house.judge(*asked)
    assert (at_80.rule, at_80.account_id, at_80.key_id) == ("rule-0", house.account, None)
    assert at_80.figures == {
        "value": 8.0,
        "threshold": 8.0,
        "unit": "credits",
        "window": "day",
        "since": "2026-11-18T00:00:00.000Z",
        "budget": 10.0,
    }
    # What live jobs have reserved counts, too.
    house.sql("UPDATE balances SET reserved = :two WHERE account_id = :id", two=2 * CREDIT, id=house.account)
    assert [each.rule for each in house.judge(*asked)] == ["rule-1"]


def test_a_percentage_without_a_budget_is_of_the_accounts_own_limit(house: House) -> None:
    rule = {"kind": "spend", "window": "month", "percent": 50}
    house.ordered(NOW - timedelta(days=5), price=5 * CREDIT)
    assert house.judge(rule) == []  # it has no limit
    house.sql("UPDATE accounts SET spend_month_limit = :ten WHERE id = :id", ten=10 * CREDIT, id=house.account)
    [event] = house.judge(rule)
    assert (event.figures["budget"], event.figures["value"]) == (10.0, 5.0)


def test_growth_is_measured_by_the_accounts_own_usual_day(house: House) -> None:
    rule = {"kind": "spend", "window": "day", "times_usual": 3, "at_least": 2}
    house.ordered(NOW - seconds(60), price=50 * CREDIT)
    assert house.judge(rule) == []  # nothing is usual yet
    for day in (1, 2, 9):
        house.ordered(NOW - timedelta(days=day), price=20 * CREDIT)
    assert house.judge(rule) == []
    house.ordered(NOW - seconds(30), price=10 * CREDIT)
    [event] = house.judge(rule)
    assert (event.figures["usual"], event.figures["threshold"], event.figures["value"]) == (20.0, 60.0, 60.0)


def test_what_is_usual_is_read_from_the_sums_of_closed_days_as_from_the_ledger(house: House) -> None:
    rule = {"kind": "spend", "window": "day", "times_usual": 2, "at_least": 1}
    day = datetime(2026, 11, 14, tzinfo=UTC)
    for back in range(3):
        house.sql(
            "INSERT INTO usage_steps (from_at, to_at) VALUES (:d, :d + interval '1 day')", d=day + timedelta(back)
        )
        house.sql(
            "INSERT INTO usage_sums VALUES (:d, :a, '', 'generate', 'm', 'openai', 'succeeded', 4, 4, 5000000, 0, 0, 0,"
            " 0, 0)",
            d=day + timedelta(back),
            a=house.account,
        )
    house.ordered(NOW - seconds(30), price=10 * CREDIT)
    [event] = house.judge(rule)
    assert (event.figures["usual"], event.figures["value"]) == (5.0, 10.0)


def test_what_closed_hours_have_captured_is_read_once_and_what_comes_after_in_each_round(house: House) -> None:
    rule = {"kind": "spend", "window": "day", "budget": 10, "percent": 100}
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)

    def close(hour: int, captured: int) -> None:
        house.sql(
            "INSERT INTO usage_steps (from_at, to_at) VALUES (:at, :at + interval '1 hour')",
            at=midnight + timedelta(hours=hour),
        )
        house.sql(
            "INSERT INTO usage_sums VALUES (:at, :a, '', 'generate', 'm', 'openai', 'succeeded', 1, 1, :c, 0, 0, 0, 0,"
            " 0)",
            at=midnight + timedelta(hours=hour),
            a=house.account,
            c=captured,
        )

    close(0, 2 * CREDIT)
    close(1, 3 * CREDIT)
    house.ordered(midnight + timedelta(hours=2, minutes=30), price=1 * CREDIT)
    close(3, 7)  # behind a gap: not closed as a whole, and the ledger has nothing there
    house.ordered(NOW - seconds(60), price=2 * CREDIT)
    evaluation = house.evaluation(rule)
    assert evaluation.evaluate(NOW) == []
    close(2, 1 * CREDIT)  # now the first four hours are closed
    house.sql("DELETE FROM usage_sums")  # which are not read again
    assert evaluation.evaluate(NOW + seconds(60)) == []
    house.ordered(NOW + seconds(70), price=2 * CREDIT)
    [event] = evaluation.evaluate(NOW + seconds(120))
    assert event.figures["value"] == 10.0
    # On the next day all begins again.
    house.ordered(NOW + timedelta(hours=13), price=10 * CREDIT)
    [event] = evaluation.evaluate(NOW + timedelta(hours=14))
    assert (event.figures["value"], event.figures["since"]) == (10.0, "2026-11-19T00:00:00.000Z")


# ---------------------------------------------------------------- refusals, load, wrong keys


def test_refusals_of_content_count_by_key_in_their_window(house: House) -> None:
    rule = {"kind": "refusals", "window": "1h", "at_least": 3}
    other = house.new_key()
    house.ordered(NOW - seconds(3601), refused=True)
    for ago in (10, 20):
        house.ordered(NOW - seconds(ago), refused=True)
        house.ordered(NOW - seconds(ago), refused=True, key=other)
        house.ordered(NOW - seconds(ago))
    assert house.judge(rule) == []
    house.ordered(NOW - seconds(3599), refused=True)
    [event] = house.judge(rule)
    assert (event.key_id, event.figures["value"], event.figures["unit"]) == (house.key, 3, "refusals")
    [of_account] = house.judge({**rule, "at_least": 5, "per": "account"})
    assert (of_account.key_id, of_account.figures["value"]) == (None, 5)


def test_refusals_of_screens_count_with_those_of_upstreams(house: House) -> None:
    rule = {"kind": "refusals", "window": "1h", "at_least": 3}
    house.ordered(NOW - seconds(20), refused=True)
    for ago in (3601, 3599):
        house.screened(NOW - seconds(ago))
    assert house.judge(rule) == []
    house.screened(NOW - seconds(1))
    [event] = house.judge(rule)
    assert (event.key_id, event.figures["value"]) == (house.key, 3)


@pytest.mark.parametrize(("measure", "value"), [("jobs", 4), ("images", 8)])
def test_load_counts_what_a_key_ordered_in_its_window(house: House, measure: str, value: int) -> None:
    for ago in (1, 20, 40, 59):
        house.ordered(NOW - seconds(ago), n=2)
    house.ordered(NOW - seconds(61), n=2)
    asked = {"kind": "load", "measure": measure, "window": "1m"}
    assert house.judge({**asked, "at_least": value + 1}) == []
    [event] = house.judge({**asked, "at_least": value})
    assert (event.key_id, event.figures["value"], event.figures["unit"]) == (house.key, value, measure)


def test_load_next_to_the_usual_is_that_of_a_day_spread_over_it(house: House) -> None:
    rule = {"kind": "load", "measure": "jobs", "window": "6h", "times_usual": 2, "at_least": 1}
    for day in (1, 2, 3):
        for _ in range(4):
            house.ordered(NOW - timedelta(days=day))
    house.ordered(NOW - seconds(5))
    assert house.judge(rule) == []
    house.ordered(NOW - seconds(4))
    [event] = house.judge(rule)
    assert (event.key_id, event.figures["usual"], event.figures["threshold"]) == (None, 1.0, 2.0)


def test_wrong_keys_count_by_key_and_by_address_and_unknown_ids_are_not_kept(house: House) -> None:
    with house.database.hot() as hot:
        for _ in range(2):
            tallies.add(hot, "wrong_key", {house.key: 4, "0123456789ab": 900})
            tallies.add(hot, "wrong_address", {"192.0.2.7": 5})
            tallies.add(hot, "requests", {house.key: 300, "jwt": 300})
    with house.database.autocommit() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    of_key = {"kind": "bad_keys", "window": "10m", "at_least": 8, "per": "key"}
    of_address = {"kind": "bad_keys", "window": "10m", "at_least": 10, "per": "address"}
    requests = {"kind": "load", "measure": "requests", "window": "10m", "at_least": 600}
    by_key, by_address, by_load = house.judge(of_key, of_address, requests, now=now)
    assert (by_key.key_id, by_key.account_id, by_key.figures["value"]) == (house.key, house.account, 8)
    assert (by_address.address, by_address.account_id, by_address.figures["value"]) == ("192.0.2.7", None, 10)
    assert (by_load.key_id, by_load.figures["value"], by_load.figures["unit"]) == (house.key, 600, "requests")
    with house.database.autocommit() as connection:
        house.sql("UPDATE abuse_tallies SET minute = minute - interval '8 hours' WHERE kind = 'requests'")
        assert tallies.delete_old(connection, size=100) == 1


# ---------------------------------------------------------------- once a window, accounts' own


LOAD = {"kind": "load", "measure": "jobs", "window": "1m", "at_least": 2}


def test_a_rule_trips_once_a_window_and_again_in_the_next(house: House) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    evaluation = house.evaluation(LOAD)
    assert len(evaluation.evaluate(NOW)) == 1
    assert evaluation.evaluate(NOW) == []
    assert evaluation.evaluate(NOW + seconds(35)) == []  # counted from the minute before, it is another one
    for after in (59, 60):
        house.ordered(NOW + seconds(after))
    assert len(evaluation.evaluate(NOW + seconds(61))) == 1
    assert len(house.events()) == 2


def test_a_worker_that_judges_while_another_writes_waits_and_finds_its_event(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    written, go_on = threading.Event(), threading.Event()
    tell = operator.tell
    found: dict[str, Sequence[Event]] = {}

    def stop(*args: Any) -> None:
        tell(*args)
        written.set()
        assert go_on.wait(20)

    def judge(name: str, now: datetime) -> None:
        found[name] = house.evaluation(LOAD).evaluate(now)

    monkeypatch.setattr(operator, "tell", stop)
    first = threading.Thread(target=judge, args=("first", NOW))
    first.start()
    assert written.wait(20)
    monkeypatch.setattr(operator, "tell", tell)
    # On the other side of a minute's edge, where no unique index is in its way.
    second = threading.Thread(target=judge, args=("second", NOW + seconds(30)))
    second.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    until_s = time.monotonic() + 20
    while second.is_alive() and house.sql_all(waiting) == [(0,)]:
        assert time.monotonic() < until_s
        time.sleep(0.005)
    go_on.set()
    first.join()
    second.join()
    assert (len(found["first"]), len(found["second"]), len(house.events())) == (1, 0, 1)


def test_one_worker_of_the_fleet_takes_the_turn(house: House) -> None:
    evaluation = house.evaluation(LOAD)
    assert evaluation.evaluate_in_turn(owner="wkr_1", every_s=60) == []
    assert evaluation.evaluate_in_turn(owner="wkr_2", every_s=60) is None
    house.sql("UPDATE marks SET at = at - interval '55 seconds' WHERE name = :turn", turn=TURN)
    assert evaluation.evaluate_in_turn(owner="wkr_2", every_s=60) == []


def test_an_account_has_members_of_a_rule_of_its_own(house: House) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    with house.database.transaction() as connection:
        overrides.put_override(connection, house.account, "rule-0", {"enabled": False})
    assert house.judge(LOAD) == []
    with house.database.transaction() as connection:
        overrides.put_override(connection, house.account, "rule-0", {"at_least": 1, "action": "log"})
    [event] = house.judge({**LOAD, "at_least": 99, "enabled": False}) or [None]
    assert event is None  # it is still off
    with house.database.transaction() as connection:
        overrides.put_override(connection, house.account, "rule-0", {"at_least": 1, "action": "log", "enabled": True})
    [event] = house.judge({**LOAD, "at_least": 99, "enabled": False})
    assert event is not None
    assert (event.action, event.figures["threshold"]) == ("log", 1)


# ---------------------------------------------------------------- what follows


def test_a_trip_is_logged_counted_and_pauses_the_key_with_an_entry_in_the_trail(house: House) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    spared = house.new_key()
    before = counts.EVENTS.of("rule-0", "pause_key")._value.get()
    with capture_logs() as lines:
        [event] = house.judge({**LOAD, "action": "pause_key"})
    assert event.paused_keys == [house.key]
    assert (house.paused(house.key), house.paused(spared)) == (True, False)
    [line] = [each for each in lines if each["event"] == "abuse_rule_tripped"]
    assert (line["rule"], line["account_id"], line["key_id"], line["value"], line["threshold"]) == (
        *("rule-0", house.account, house.key),
        *(2, 2),
    )
    assert counts.EVENTS.of("rule-0", "pause_key")._value.get() == before + 1
    with house.database.autocommit() as connection:
        [entry] = trail.actions(connection, ActionFilters(action="key.pause"))
    assert (entry.actor, entry.target, entry.account_id) == ("rule", house.key, house.account)
    assert entry.after is not None
    assert (entry.after["pause_reason"], entry.after["event"]) == ("rule rule-0", event.id)


def test_a_rule_on_the_account_pauses_all_of_its_keys_but_the_last_admin_key(house: House) -> None:
    admin, more = house.new_key(scopes=("admin",)), house.new_key()
    house.ordered(NOW - seconds(5), price=9 * CREDIT)
    rule = {"kind": "spend", "window": "day", "budget": 5, "percent": 100, "action": "pause_key"}
    [event] = house.judge(rule)
    assert set(event.paused_keys) == {house.key, more}
    assert event.spared_keys == {admin: "last_admin_key"}
    assert not house.paused(admin)


def test_of_two_admin_keys_one_is_always_left(house: House) -> None:
    admins = [house.new_key(scopes=("admin",)) for _ in range(2)]
    house.ordered(NOW - seconds(5), price=9 * CREDIT)
    house.judge({"kind": "spend", "window": "day", "budget": 5, "percent": 100, "action": "pause_key"})
    assert sorted(map(house.paused, admins)) == [False, True]


def test_what_a_token_of_an_issuer_does_is_told_and_pauses_nothing(house: House) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago), key="jwt")
    [event] = house.judge({**LOAD, "action": "pause_key"})
    assert (event.key_id, event.paused_keys, event.spared_keys) == ("jwt", [], {"jwt": "not_a_key"})


def test_a_key_that_an_operator_lets_on_is_not_paused_again_in_the_same_window(house: House) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    rule = {**LOAD, "action": "pause_key"}
    house.judge(rule)
    house.sql("UPDATE api_keys SET paused_at = NULL, pause_reason = NULL")
    assert house.judge(rule, now=NOW + seconds(20)) == []
    assert not house.paused(house.key)


# ---------------------------------------------------------------- the operator is told

SECRETS = [f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2)]


def send(house: House, receivers: operator.Receivers) -> None:
    """Send what is due until nothing is at work."""
    sender = make_sender(house.database, operators=receivers)
    deadline = time.monotonic() + 20
    while sender.send_due() or sender._taken:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_operator_is_told_signed_and_again_until_it_arrives(house: House, desk: Receiver) -> None:
    receivers = operator.receivers([f"{desk.url}/a?token=1", f"{desk.url}/b"], SECRETS)
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    desk.statuses(500, 500, 204)
    [event] = house.judge(LOAD, targets=receivers.targets)
    send(house, receivers)
    house.sql("UPDATE webhook_messages SET due_at = clock_timestamp() WHERE state = 'pending'")
    send(house, receivers)
    assert sorted(got.path for got in desk.got) == ["/a?token=1", "/a?token=1", "/b", "/b"]
    assert len({got.id for got in desk.got}) == 2
    for got in desk.got:
        for secret in SECRETS:  # both sign while one replaces the other
            Webhook(secret).verify(got.body, dict(got.headers))
        assert got.type == "operator.rule_tripped"
        assert got.document["data"] == events.document(event)
    states = house.sql_all("SELECT state, attempts, account_id FROM webhook_messages")
    assert states == [("delivered", 2, "operator")] * 2


def test_a_rule_that_only_logs_tells_no_one(house: House, desk: Receiver) -> None:
    receivers = operator.receivers([desk.url], SECRETS[:1])
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    assert len(house.judge({**LOAD, "action": "log"}, targets=receivers.targets)) == 1
    assert house.sql_all("SELECT 1 FROM webhook_messages") == []


def test_a_test_message_reaches_each_receiver(house: House, desk: Receiver) -> None:
    receivers = operator.receivers([f"{desk.url}/a", f"{desk.url}/b"], SECRETS)
    assert list(operator.targets_of([f"{desk.url}/a", f"{desk.url}/b"])) == list(receivers.targets)
    with house.database.transaction() as connection:
        assert operator.send_test(connection, receivers.targets) == 2
        with pytest.raises(NoReceiversError):
            operator.send_test(connection, [])
    send(house, receivers)
    assert sorted((got.path, got.type) for got in desk.got) == [("/a", "webhook.test"), ("/b", "webhook.test")]
    Webhook(SECRETS[0]).verify(desk.got[0].body, dict(desk.got[0].headers))


def test_a_message_to_a_url_that_was_taken_away_is_dropped(house: House, desk: Receiver) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    house.judge(LOAD, targets=operator.receivers([desk.url], SECRETS).targets)
    send(house, operator.receivers([f"{desk.url}/other"], SECRETS))
    assert desk.got == []
    assert house.sql_all("SELECT state, error FROM webhook_messages") == [("dropped", "endpoint_gone")]


def test_the_operators_hosts_are_open_to_the_operators_messages_alone(desk: Receiver) -> None:
    receivers = operator.receivers([desk.url], SECRETS)
    assert "127.0.0.1" in receivers.policy.trusted_hosts
    assert operator.Receivers().policy.trusted_hosts == frozenset()


@pytest.mark.parametrize(
    ("urls", "secrets"),
    [
        (["https://ops.example/"], []),
        (["ftp://ops.example/"], SECRETS),
        (["https://user:pass@ops.example/"], SECRETS),
        (["ops.example"], SECRETS),
        (["https://ops.example/"], ["secret"]),
        (["https://ops.example/"], ["whsec_c2hvcnQ="]),
    ],
)
def test_bad_receivers_are_refused_without_their_text(urls: list[str], secrets: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*(pass|c2hv)).*(URL|secret)") as caught:
        operator.receivers(urls, secrets)
    assert caught.value.__cause__ is None or "pass" not in str(caught.value.__cause__)


# ---------------------------------------------------------------- events


def test_events_are_paged_filtered_acknowledged_once_and_deleted_when_old(
    house: House, media: Media, store: LocalStore
) -> None:
    for ago in (1, 2):
        house.ordered(NOW - seconds(ago))
    house.judge(LOAD, {**LOAD, "per": "account"})
    first, second = house.events()
    assert house.events(limit=1) == [first]
    assert house.events(cursor=first.id) == [second]
    assert house.events(rule=second.rule) == [second]
    assert house.events(account_id="acct_other") == []
    with house.database.transaction() as connection:
        seen, new = events.acknowledge(connection, first.id, by="ada", note="a test")
        again, twice = events.acknowledge(connection, first.id, by="eve", note="")
        with pytest.raises(EventNotFoundError):
            events.acknowledge(connection, id_before("abuse", NOW), by="ada", note="")
    assert (new, twice, again) == (True, False, seen)
    assert (seen.acknowledged_by, seen.note) == ("ada", "a test")
    assert house.events(acknowledged=False) == [second]
    house.sql("UPDATE abuse_events SET at = clock_timestamp() - interval '2 days' WHERE id = :id", id=second.id)
    house.sql("UPDATE abuse_events SET at = clock_timestamp() WHERE id = :id", id=first.id)
    house.sql(
        "INSERT INTO abuse_tallies VALUES ('requests', clock_timestamp() - interval '8 hours', :k, 1)", k=house.key
    )
    kept = Retention("wkr_1", house.database, media, store, 0, 0, keep_abuse_events_days=1)
    backlogs = [each for each in kept.expiry_backlogs() if each.name.startswith("abuse_")]
    drain(backlogs, seconds=10)
    assert {each.name: each.done for each in backlogs} == {"abuse_events": 1, "abuse_tallies": 1}
    assert [each.id for each in house.events()] == [first.id]


def test_the_rules_that_come_with_it_are_judged_over_everything_there_is(house: House) -> None:
    house.ordered(NOW - seconds(5))
    evaluation = Evaluation(house.database, rules.load(Path("nowhere.yaml")))
    assert evaluation.evaluate(NOW) == []
