"""Callbacks from the state change to the receiver: real rows, real requests, the reference verifier."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_engine import ASYNC_PRICE, Engine
from receivers import BASE, Receiver, make_sender, receiver
from sqlalchemy import text
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from accounts.keys import Caller
from app import callbacks
from core import signing_keys
from core.outbound.untrusted import ADDRESS_REFUSED, Policy, post
from core.outbound.urls import UnsafeUrlError
from core.settings import SettingsError
from core.signing_keys import SigningKeys
from jobs import lifecycle
from jobs.maintenance.doctor import Doctor
from jobs.reads.tasks import Task
from jobs.submission.order import JobWebhook, Order
from webhooks import endpoints, forms, installation_key, messages, outbox, schedule, secrets
from webhooks import sender as sender_module
from webhooks.errors import DeliveryNotFoundError, EndpointDisabledError, EndpointNotFoundError, TooManyEndpointsError
from webhooks.messages import Delivery, Filters
from webhooks.receivers import policy
from webhooks.secrets import Secret
from webhooks.sender import SLOTS_PER_ACCOUNT, SLOTS_PER_TARGET, Sender


@pytest.fixture
def shop() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


class House:
    """The engine with a sender of callbacks; ``settle`` sends until nothing is at work."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.senders: list[Sender[Task]] = []
        self.nudged: set[str] = set()  # tasks that the last order has published
        self.sender = self.new_sender()
        engine.submission._receivers = policy(["127.0.0.1"])

    def new_sender(self, rules: Policy | None = None) -> Sender[Task]:
        made = make_sender(self.engine.database, rules)
        self.senders.append(made)
        return made

    def endpoint(self, customer: Caller, url: str, events: Sequence[str] = forms.EVENTS) -> tuple[str, str]:
        with self.engine.database.autocommit() as connection:
            made, secret = endpoints.create(connection, customer.account_id, url=url, events=events)
        return made.id, secret.value

    def order(self, customer: Caller, *, url: str = "", events: Sequence[str] = forms.ENDS) -> str:
        """A job, whose own receiver is ``url`` if there is one."""
        fields = {"prompt": "a small fox", "model": "chatgpt2api-gpt-image-2", "size": "64x64"}
        webhook = JobWebhook(url, events) if url else None
        done = self.engine.submission.submit(customer, Order("generate", fields, webhook=webhook))
        self.engine.context.publish(done.nudges)
        self.nudged = {getattr(each, "task", "") for each in done.nudges}
        return done.task.id

    def cancel(self, customer: Caller, job_id: str) -> Sequence[Any]:
        with self.engine.database.transaction() as connection:
            return lifecycle.cancel(connection, customer.account_id, job_id).signals

    def settle(self, sender: Sender[Task] | None = None) -> None:
        """Send what is due until neither anything is at work nor anything more is due."""
        sender = sender or self.sender
        deadline = time.monotonic() + 20
        while self._is_busy(sender):
            assert time.monotonic() < deadline, sender._taken
            time.sleep(0.005)

    def _is_busy(self, sender: Sender[Task]) -> bool:
        # Looked at first: what ends its work in between makes the next message of its job due.
        at_work = sender._pool.room() < sender_module.DEPTH
        return bool(sender.send_due() or sender._taken or at_work)

    def hurry(self) -> None:
        """Let the waits until the next attempt, and those of leases, be over."""
        self.engine.sql("UPDATE webhook_messages SET due_at = clock_timestamp() WHERE state = 'pending'")
        self.engine.sql("UPDATE webhook_endpoints SET not_before = NULL")

    def log(self, customer: Caller, **filters: Any) -> list[Delivery]:
        with self.engine.database.autocommit() as connection:
            return messages.every(connection, customer.account_id, Filters(**filters))

    def find_endpoint(self, customer: Caller, endpoint_id: str) -> endpoints.Endpoint:
        with self.engine.database.autocommit() as connection:
            return endpoints.find(connection, customer.account_id, endpoint_id)


@pytest.fixture
def house(engine: Engine) -> Iterator[House]:
    made = House(engine)
    yield made
    for sender in made.senders:
        sender.stop()


def is_signed(got: Any, secret: str) -> bool:
    try:
        Webhook(secret).verify(got.body, dict(got.headers))
    except WebhookVerificationError:
        return False
    return True


# ---------------------------------------------------------------- what is written, and when


def test_every_step_of_a_life_is_told_in_order_with_the_task_and_links_that_open(
    house: House, account: Caller, shop: Receiver
) -> None:
    _, secret = house.endpoint(account, f"{shop.url}/all?token=1")
    job_id = house.order(account)
    house.engine.drive(at_most_s=20)
    house.settle()
    told = [kind for kind in shop.types() if kind != forms.PROGRESS]
    assert told == [forms.QUEUED, forms.STARTED, forms.SUCCEEDED]
    last = shop.got[-1]
    task = last.document["data"]
    assert (task["id"], task["status"], last.path) == (job_id, "succeeded", "/all?token=1")
    assert last.document["timestamp"] == task["finished_at"]
    assert task["urls"]["self"] == f"{BASE}/api/images/tasks/{job_id}"
    assert task["images"][0]["signed_url"].startswith(f"{BASE}/api/images/tasks/{job_id}/image?index=0&account=")
    assert len(last.body) < callbacks.MAX_BODY_BYTES
    assert all(is_signed(got, secret) for got in shop.got)
    assert {got.headers["content-type"] for got in shop.got} == {"application/json"}
    assert [each.state for each in house.log(account)] == ["delivered"] * len(shop.got)
    assert len({got.id for got in shop.got}) == len(shop.got)


def test_an_order_has_a_receiver_of_its_own_signed_with_the_accounts_secret(
    house: House, account: Caller, shop: Receiver
) -> None:
    job_id = house.order(account, url=f"{shop.url}/own", events=[forms.CANCELLED, forms.REFUNDED])
    other = house.order(account)
    house.cancel(account, other)
    house.cancel(account, job_id)
    house.settle()
    assert shop.types() == [forms.CANCELLED, forms.REFUNDED]
    assert [len(house.log(account, job_id=each)) for each in (job_id, other)] == [2, 0]
    assert {got.document["data"]["id"] for got in shop.got} == {job_id}
    assert shop.got[1].document["data"]["price"]["released_microcredits"] == ASYNC_PRICE
    with house.engine.database.autocommit() as connection:
        secret = secrets.account_secret(connection, account.account_id)
    assert all(is_signed(got, secret.value) for got in shop.got)
    # The address may hold a secret of its receiver, and other receivers of the account read the same body.
    assert shop.url not in shop.got[0].body.decode()


def test_a_job_is_told_to_no_other_account_and_to_no_receiver_that_did_not_ask(
    house: House, account: Caller, shop: Receiver
) -> None:
    stranger = house.engine.account()
    house.endpoint(stranger, f"{shop.url}/strange")
    house.endpoint(account, f"{shop.url}/failures", [forms.FAILED])
    off, _ = house.endpoint(account, f"{shop.url}/off")
    with house.engine.database.autocommit() as connection:
        endpoints.update(connection, account.account_id, off, enabled=False)
    house.cancel(account, house.order(account))
    assert house.engine.one("SELECT count(*) FROM webhook_messages") == 0


def test_a_start_is_told_once_to_the_accounts_own_receivers_however_often_the_job_is_claimed(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(house.engine.account(), f"{shop.url}/strange", [forms.STARTED])
    mine, _ = house.endpoint(account, shop.url, [forms.STARTED])
    job_id = house.order(account)
    for _ in range(2):
        with house.engine.database.transaction() as connection:
            lifecycle.claim(connection, job_id, owner="wkr_test", step_s={})
        told = house.engine.rows("SELECT event, endpoint_id FROM webhook_messages")
        assert [tuple(each) for each in told] == [(forms.STARTED, mine)]
        house.engine.sql("UPDATE jobs SET status = 'queued', owner = NULL WHERE id = :id", id=job_id)


def test_a_state_and_its_callback_are_written_together_or_not_at_all(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(account, shop.url, [forms.CANCELLED])
    job_id = house.order(account)
    assert "webhooks.deliver" not in house.nudged
    with house.engine.database.engine.connect() as connection:
        lifecycle.cancel(connection, account.account_id, job_id)
        connection.rollback()
    assert house.engine.one("SELECT count(*) FROM webhook_messages") == 0
    signals = house.cancel(account, job_id)
    assert "webhooks.deliver" in {getattr(each, "task", "") for each in signals}
    assert house.engine.one("SELECT count(*) FROM webhook_messages") == 1


def test_progress_waits_in_one_message_however_often_it_changes(house: House, account: Caller, shop: Receiver) -> None:
    house.endpoint(account, shop.url, [forms.PROGRESS])
    job_id = house.order(account)
    house.engine.run(job_id)
    from jobs.lifecycle import calls

    for value in (0.2, 0.4, 0.6):
        house.engine.sql("UPDATE jobs SET progress_at = NULL WHERE id = :id", id=job_id)
        with house.engine.database.hot() as hot:
            assert calls.note_progress(hot, {job_id: value}) == [job_id]
    house.settle()
    assert [got.document["data"]["progress"] for got in shop.got] == [0.6]


# ---------------------------------------------------------------- attempts


def test_a_repeat_has_the_same_id_a_fresh_time_and_the_state_of_now(
    house: House, account: Caller, shop: Receiver
) -> None:
    _, secret = house.endpoint(account, shop.url, [forms.QUEUED])
    shop.statuses(500, 200)
    job_id = house.order(account)
    house.settle()
    [waiting] = house.log(account)
    assert (waiting.state, waiting.attempts, waiting.status, waiting.error) == ("pending", 1, 500, "bad_status")
    house.cancel(account, job_id)
    house.engine.sql("UPDATE webhook_messages SET at = at - interval '1 hour'")
    house.hurry()
    house.settle()
    first, second = shop.got
    assert first.id == second.id == waiting.id
    assert int(second.headers["webhook-timestamp"]) >= int(first.headers["webhook-timestamp"])
    assert [got.document["data"]["status"] for got in shop.got] == ["queued", "cancelled"]
    assert is_signed(second, secret)
    [done] = house.log(account)
    assert (done.state, done.attempts, [each["status"] for each in done.log]) == ("delivered", 2, [500, 200])


def test_the_waits_are_those_of_the_schedule_and_the_last_attempt_is_the_last(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED])
    shop.statuses(500)
    house.order(account)
    for ended in range(1, schedule.ATTEMPTS + 1):
        house.settle()
        [message] = house.log(account)
        assert message.attempts == ended == len(shop.got)
        if message.next_attempt_at is None:
            break
        wait_s = house.engine.one(
            "SELECT extract(epoch FROM due_at - CAST(log -> -1 ->> 'at' AS timestamptz)) FROM webhook_messages"
        )
        assert schedule.WAITS_S[ended] - 1 <= wait_s <= schedule.WAITS_S[ended] * 1.1 + 1
        house.hurry()
    assert (message.state, message.attempts) == ("failed", schedule.ATTEMPTS)


def test_a_redirect_is_a_failure_and_never_followed(house: House, account: Caller, shop: Receiver) -> None:
    with receiver() as inside:
        shop.statuses(302, Location=f"{inside.url}/latest")
        house.endpoint(account, shop.url, [forms.QUEUED])
        house.order(account)
        house.settle()
        assert (len(shop.got), inside.got) == (1, [])
    [message] = house.log(account)
    assert (message.state, message.error, message.status) == ("pending", "redirected", 302)


def test_a_name_that_leads_inside_is_not_connected_to_and_looks_like_one_where_nothing_is(
    house: House, account: Caller, shop: Receiver
) -> None:
    port = int(shop.url.rpartition(":")[2])
    rules = replace(policy(), resolve=lambda host, _port: ["93.184.215.14", "127.0.0.1"])
    house.endpoint(account, f"https://rebind.example:{port}/", [forms.QUEUED])
    house.endpoint(account, "https://rebind.example/", [forms.QUEUED])
    house.order(account)
    house.settle(house.new_sender(rules))
    assert shop.got == []
    assert sorted(each.error or "" for each in house.log(account)) == ["url_not_allowed", "url_unreachable"]
    with pytest.raises(UnsafeUrlError) as refused:
        post("https://rebind.example/", b"{}", rules, headers={})
    assert refused.value.detail == ADDRESS_REFUSED


def test_410_ends_the_endpoint_and_only_that(house: House, account: Caller, shop: Receiver) -> None:
    shop.answer = lambda got: (410 if got.path == "/gone" else 204, {})
    gone, _ = house.endpoint(account, f"{shop.url}/gone", [forms.QUEUED, forms.CANCELLED])
    fine, _ = house.endpoint(account, f"{shop.url}/fine", [forms.QUEUED])
    job_id = house.order(account)
    house.settle()
    assert house.find_endpoint(account, gone).disabled_reason == "gone"
    assert house.find_endpoint(account, fine).disabled_at is None
    house.cancel(account, job_id)
    assert {each.event for each in house.log(account, endpoint_id=gone)} == {forms.QUEUED}
    [failed] = house.log(account, endpoint_id=gone)
    assert (failed.state, failed.error) == ("failed", "gone")
    with house.engine.database.autocommit() as connection, pytest.raises(EndpointDisabledError):
        messages.replay(connection, account.account_id, failed.id)


def test_a_receiver_that_asks_for_time_gets_it_for_all_its_messages(
    house: House, account: Caller, shop: Receiver
) -> None:
    shop.statuses(429, Retry_After="120")
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.settle()
    house.order(account)
    house.settle()
    assert len(shop.got) == 1
    left = house.engine.rows("SELECT extract(epoch FROM due_at - clock_timestamp()) AS s FROM webhook_messages")
    assert 100 < max(row.s for row in left) <= 121
    asked = house.engine.one("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM webhook_endpoints")
    assert 100 < asked <= 121
    shop.statuses(200)
    house.hurry()
    house.settle()
    assert {each.state for each in house.log(account)} == {"delivered"}
    assert house.find_endpoint(account, endpoint).failing_since is None


@pytest.mark.parametrize(("failing_days", "disabled"), [(3, "failing"), (1, None)])
def test_after_the_last_attempt_an_endpoint_that_failed_for_days_is_disabled(
    house: House, account: Caller, shop: Receiver, failing_days: int, disabled: str | None
) -> None:
    shop.statuses(500)
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.engine.sql(
        "UPDATE webhook_endpoints SET failing_since = clock_timestamp() - make_interval(days => :d)", d=failing_days
    )
    house.engine.sql("UPDATE webhook_messages SET attempts = :n", n=schedule.ATTEMPTS - 1)
    house.settle()
    assert house.find_endpoint(account, endpoint).disabled_reason == disabled
    [message] = house.log(account)
    assert message.state == "failed"
    found = Doctor(house.engine.database, house.engine.context.catalogs.current()).examine()
    assert [each.kind for each in found if each.subject == endpoint] == (["webhook_disabled"] if disabled else [])


def test_a_receiver_that_hangs_holds_a_few_places_and_delays_no_other_account(
    house: House, account: Caller, shop: Receiver
) -> None:
    """The receivers share a host: it is by account that they do not wait for each other."""
    released = threading.Event()

    def hang(_got: Any) -> tuple[int, dict[str, str]]:
        released.wait(15)
        return 204, {}

    shop.answer = hang
    neighbour = house.engine.account()
    with receiver() as quick:
        for _ in range(SLOTS_PER_TARGET + 3):
            house.order(account, url=f"{shop.url}/hangs", events=[forms.QUEUED])
        house.sender.send_due()
        wait_until(lambda: len(shop.got) >= SLOTS_PER_TARGET)
        house.order(account, url=f"{quick.url}/mine", events=[forms.QUEUED])
        house.order(neighbour, url=f"{quick.url}/other", events=[forms.QUEUED])
        house.order(neighbour, url=f"{shop.url}/same-host", events=[forms.QUEUED])
        house.sender.send_due()
        wait_until(lambda: {got.path for got in quick.got} == {"/mine", "/other"})
        wait_until(lambda: "/same-host" in {got.path for got in shop.got})
        assert [got.path for got in shop.got].count("/hangs") == SLOTS_PER_TARGET < SLOTS_PER_ACCOUNT
        released.set()
        house.settle()
    assert [got.path for got in shop.got].count("/hangs") == SLOTS_PER_TARGET + 3


def wait_until(question: Any) -> None:
    deadline = time.monotonic() + 10
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_workers_send_a_message_once_and_a_lost_one_is_sent_again_under_its_id(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    [message] = house.log(account)
    with house.engine.database.hot() as hot:
        assert outbox.take(hot, message.id) is not None  # a worker that is killed before it sends
        assert outbox.take(hot, message.id) is None
    house.settle()
    assert shop.got == []
    house.engine.sql("UPDATE webhook_messages SET due_at = due_at - make_interval(secs => :s)", s=outbox.LEASE_S)
    second = house.new_sender()
    house.sender.send_due()
    second.send_due()
    house.settle()
    house.settle(second)
    assert [got.id for got in shop.got] == [message.id]


def test_a_later_event_waits_for_the_first_attempt_of_an_earlier_one_and_for_no_repeat(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED, forms.CANCELLED])
    shop.statuses(500, 200)
    job_id = house.order(account)
    house.cancel(account, job_id)
    [later, earlier] = house.log(account)
    with house.engine.database.hot() as hot:
        assert [each.id for each in outbox.due_of_job(hot, job_id)] == [earlier.id]
    house.settle()
    assert [(got.id, got.type) for got in shop.got] == [(earlier.id, forms.QUEUED), (later.id, forms.CANCELLED)]
    assert [each.state for each in house.log(account)] == ["delivered", "pending"]


def test_a_body_that_cannot_be_made_is_an_attempt_and_goes_out_once_it_can(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    older = house.new_sender()
    older._forms = {}
    house.settle(older)
    [message] = house.log(account)
    assert (message.state, message.attempts, message.error, shop.got) == ("pending", 1, "internal_error", [])
    house.hurry()
    house.settle()
    assert [got.id for got in shop.got] == [message.id]


def test_what_waits_for_an_endpoint_that_is_disabled_meanwhile_is_dropped(
    house: House, account: Caller, shop: Receiver
) -> None:
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    with house.engine.database.autocommit() as connection:
        endpoints.update(connection, account.account_id, endpoint, enabled=False)
    house.settle()
    assert shop.got == []
    assert [(each.state, each.error) for each in house.log(account)] == [("dropped", "endpoint_gone")]


def test_one_receiver_of_a_job_does_not_wait_for_another(house: House, account: Caller, shop: Receiver) -> None:
    slow, quick = (
        house.endpoint(account, f"{shop.url}/{path}", [forms.QUEUED, forms.CANCELLED])[0] for path in ("slow", "quick")
    )
    job_id = house.order(account)
    house.cancel(account, job_id)
    with house.engine.database.hot() as hot:
        [first] = [each for each in outbox.due_of_job(hot, job_id) if each.target == slow]
        assert outbox.take(hot, first.id) is not None  # the attempt takes its time
    house.settle()
    assert {got.path for got in shop.got} == {"/quick"}
    assert [each.state for each in house.log(account, endpoint_id=quick)] == ["delivered", "delivered"]
    assert [each.state for each in house.log(account, endpoint_id=slow)] == ["pending", "pending"]


def test_an_endpoint_is_failing_since_its_first_failure_and_is_not_disabled_before_a_last_attempt(
    house: House, account: Caller, shop: Receiver
) -> None:
    shop.statuses(500)
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.engine.sql("UPDATE webhook_endpoints SET failing_since = clock_timestamp() - interval '3 days'")
    since = house.find_endpoint(account, endpoint).failing_since
    house.settle()
    found = house.find_endpoint(account, endpoint)
    assert (found.failing_since, found.disabled_at) == (since, None)


def test_a_success_ends_the_time_that_a_receiver_asked_for(house: House, account: Caller, shop: Receiver) -> None:
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    [message] = house.log(account)
    with house.engine.database.hot() as hot:
        assert outbox.take(hot, message.id) is not None
        house.engine.sql("UPDATE webhook_endpoints SET not_before = clock_timestamp() + interval '1 hour'")
        outbox.record(hot, message.id, outbox.Outcome(200, None, 1))
    assert house.engine.one("SELECT not_before FROM webhook_endpoints WHERE id = :id", id=endpoint) is None


def test_a_receiver_that_is_overloaded_and_names_no_time_gets_half_a_minute(
    house: House, account: Caller, shop: Receiver
) -> None:
    shop.statuses(502)
    house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.settle()
    asked = house.engine.one("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM webhook_endpoints")
    assert schedule.SLOW_DOWN_S - 10 < asked <= schedule.SLOW_DOWN_S


def test_an_endpoint_that_is_enabled_again_has_a_clean_record(house: House, account: Caller, shop: Receiver) -> None:
    shop.statuses(410)
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.settle()
    with house.engine.database.autocommit() as connection:
        found = endpoints.update(connection, account.account_id, endpoint, enabled=True)
        assert (found.disabled_at, found.disabled_reason, found.failing_since) == (None, None, None)
        endpoints.update(connection, account.account_id, endpoint, enabled=False)
        house.engine.sql("UPDATE webhook_endpoints SET disabled_reason = 'failing'")
        found = endpoints.update(connection, account.account_id, endpoint, enabled=False)
    assert found.disabled_reason == "failing"


def test_a_message_for_which_there_is_no_room_is_sent_when_there_is(
    house: House, account: Caller, shop: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "DEPTH", 1)
    sending = house.new_sender()
    house.endpoint(account, shop.url, [forms.QUEUED])
    for _ in range(3):
        house.order(account)
    house.settle(sending)
    assert len(shop.got) == 3


def test_what_waits_behind_a_message_of_its_job_follows_at_once(house: House, account: Caller, shop: Receiver) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED, forms.CANCELLED])
    job_id = house.order(account)
    house.cancel(account, job_id)
    assert "webhooks.deliver" in house.nudged
    assert house.sender.send_of_job(job_id) == 1
    wait_until(lambda: shop.types() == [forms.QUEUED, forms.CANCELLED])
    house.settle()


def test_what_goes_to_the_url_of_an_order_that_is_gone_is_dropped(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.order(account, url=shop.url, events=[forms.QUEUED])
    house.engine.sql("UPDATE orders SET webhook = NULL")
    house.settle()
    assert [(each.state, each.error) for each in house.log(account)] == [("dropped", "task_gone")]
    assert shop.got == []


@pytest.mark.parametrize("receivers", [1, 4])
def test_a_full_page_of_one_accounts_messages_delays_no_other_account(
    house: House, account: Caller, shop: Receiver, monkeypatch: pytest.MonkeyPatch, receivers: int
) -> None:
    """One dead receiver fills its own places, several fill those of their account."""
    for name, value in {"PAGE": 2, "SLOTS_PER_TARGET": 1, "DEPTH_PER_ACCOUNT": 2}.items():
        monkeypatch.setattr(sender_module, name, value)
    sending, released = house.new_sender(), threading.Event()
    shop.answer = lambda _got: (204 if released.wait(15) else 500, {})
    neighbour = house.engine.account()
    for number in range(receivers):
        house.endpoint(account, f"{shop.url}/{number}", [forms.QUEUED])
    with receiver() as quick:
        house.endpoint(neighbour, quick.url, [forms.QUEUED])
        for _ in range(4 // receivers):
            house.order(account)
        house.order(neighbour)
        for _ in range(2):
            sending.send_due()
            wait_until(lambda: len(sending._taken) == sum(sending._at_work.values()))
        sending.send_due()
        wait_until(lambda: len(quick.got) == 1)
        released.set()
        house.settle(sending)


def test_the_log_of_a_message_keeps_its_last_attempts(house: House, account: Caller, shop: Receiver) -> None:
    shop.statuses(500)
    house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.engine.sql(
        "UPDATE webhook_messages SET log = (SELECT jsonb_agg(jsonb_build_object('status', n))"
        " FROM generate_series(1, :kept) AS n)",
        kept=outbox.LOG_KEPT,
    )
    house.settle()
    [message] = house.log(account)
    assert [each["status"] for each in message.log] == [*range(2, outbox.LOG_KEPT + 1), 500]


def test_a_message_that_was_dropped_during_its_attempt_stays_dropped(
    house: House, account: Caller, shop: Receiver
) -> None:
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    [message] = house.log(account)
    with house.engine.database.hot() as hot:
        assert outbox.take(hot, message.id) is not None
        with house.engine.database.autocommit() as connection:
            endpoints.delete(connection, account.account_id, endpoint)
        outbox.record(hot, message.id, outbox.Outcome(500, "bad_status", 1, wait_s=5.0))
    assert [each.state for each in house.log(account)] == ["dropped"]


# ---------------------------------------------------------------- secrets, replay, deletion


def test_old_and_new_secret_sign_while_one_replaces_the_other(house: House, account: Caller, shop: Receiver) -> None:
    endpoint, old = house.endpoint(account, shop.url, [forms.QUEUED])
    with house.engine.database.autocommit() as connection:
        new = endpoints.rotate(connection, account.account_id, endpoint, overlap_s=3600).value
    house.order(account)
    house.settle()
    assert is_signed(shop.got[0], old)
    assert is_signed(shop.got[0], new)
    first, _ = shop.got[0].headers["webhook-signature"].split(" ")
    assert is_signed(replace(shop.got[0], headers={**shop.got[0].headers, "webhook-signature": first}), new)
    assert not is_signed(shop.got[0], secrets.new_secret())
    house.engine.sql("UPDATE webhook_endpoints SET previous_until = clock_timestamp()")
    house.order(account)
    house.settle()
    assert not is_signed(shop.got[1], old)
    assert is_signed(shop.got[1], new)


def test_an_accounts_own_secret_is_made_once_and_rotates(house: House, account: Caller, shop: Receiver) -> None:
    with house.engine.database.autocommit() as connection:
        old = secrets.account_secret(connection, account.account_id)
        assert secrets.account_secret(connection, account.account_id) == old
        new = secrets.rotate_account_secret(connection, account.account_id)
    house.order(account, url=shop.url, events=[forms.QUEUED])
    house.settle()
    assert is_signed(shop.got[0], old.value)
    assert is_signed(shop.got[0], new.value)
    house.engine.sql("UPDATE webhook_account_secrets SET previous_until = clock_timestamp()")
    with house.engine.database.autocommit() as connection:
        assert secrets.account_secret(connection, account.account_id) == Secret(new.value)
        assert secrets.account_signing(connection, account.account_id) == [new.value]


def test_a_replay_sends_a_message_again_under_its_id(house: House, account: Caller, shop: Receiver) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.settle()
    [message] = house.log(account)
    stranger = house.engine.account()
    with house.engine.database.autocommit() as connection:
        with pytest.raises(DeliveryNotFoundError):
            messages.replay(connection, stranger.account_id, message.id)
        assert messages.replay(connection, account.account_id, message.id).state == "pending"
    house.settle()
    assert [got.id for got in shop.got] == [message.id] * 2
    [again] = house.log(account)
    assert (again.state, again.attempts, len(again.log)) == ("delivered", 1, 2)


def test_a_message_is_not_sent_twice_for_a_replay_during_its_first_attempt(
    house: House, account: Caller, shop: Receiver
) -> None:
    house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    [message] = house.log(account)
    with house.engine.database.hot() as hot:
        assert outbox.take(hot, message.id) is not None
        with house.engine.database.autocommit() as connection:
            assert messages.replay(connection, account.account_id, message.id).state == "pending"
        assert outbox.take(hot, message.id) is None


def test_what_waits_for_a_deleted_endpoint_is_dropped(house: House, account: Caller, shop: Receiver) -> None:
    shop.statuses(500)
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)
    house.settle()
    with house.engine.database.autocommit() as connection:
        with pytest.raises(EndpointNotFoundError):
            endpoints.delete(connection, house.engine.account().account_id, endpoint)
        endpoints.delete(connection, account.account_id, endpoint)
    house.hurry()
    house.settle()
    assert len(shop.got) == 1
    assert [(each.state, each.error) for each in house.log(account)] == [("dropped", "endpoint_deleted")]


def test_a_test_message_says_that_it_is_one(house: House, account: Caller, shop: Receiver) -> None:
    endpoint, secret = house.endpoint(account, shop.url, [forms.FAILED])
    with house.engine.database.autocommit() as connection:
        sent = endpoints.send_test(connection, account.account_id, endpoint)
    house.settle()
    [got] = shop.got
    assert (got.id, got.type, got.document["data"]["webhook_id"]) == (sent, forms.TEST, endpoint)
    assert is_signed(got, secret)


def test_an_account_has_at_most_so_many_endpoints(house: House, account: Caller) -> None:
    for number in range(endpoints.MAX_ENDPOINTS):
        house.endpoint(account, f"https://shop.example/{number}")
    with pytest.raises(TooManyEndpointsError):
        house.endpoint(account, "https://shop.example/one-more")
    house.endpoint(house.engine.account(), "https://shop.example/another-account")


def test_the_log_is_deleted_after_its_time_and_what_waits_is_not(house: House, account: Caller, shop: Receiver) -> None:
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED, forms.CANCELLED])
    shop.statuses(200, 500)
    house.cancel(account, house.order(account))
    house.settle()
    house.engine.sql("UPDATE webhook_messages SET ended_at = ended_at - interval '31 days' WHERE state <> 'pending'")
    with house.engine.database.autocommit() as connection:
        assert messages.delete_old(connection, keep_s=32 * 86_400.0, after=None, size=10) == (0, None)
        assert messages.delete_old(connection, keep_s=30 * 86_400.0, after=None, size=10)[0] == 1
    assert [each.state for each in house.log(account)] == ["pending"]
    assert house.log(account, endpoint_id=endpoint, state="delivered") == []


def test_doctor_tells_of_callbacks_that_no_one_sends(house: House, account: Caller, shop: Receiver) -> None:
    endpoint, _ = house.endpoint(account, shop.url, [forms.QUEUED])
    house.order(account)

    def unsent() -> list[str]:
        found = Doctor(house.engine.database, house.engine.context.catalogs.current()).examine()
        return [each.subject for each in found if each.kind == "webhook_unsent"]

    assert unsent() == []
    house.engine.sql("UPDATE webhook_messages SET due_at = due_at - interval '2 minutes'")
    assert unsent() == [endpoint]


# ---------------------------------------------------------------- keys of links, key of the installation


def test_the_keys_of_links_are_the_same_everywhere_and_taken_over_from_a_file(house: House, tmp_path: Path) -> None:
    database = house.engine.database
    (tmp_path / signing_keys.KEY_FILE).write_text(f"new:{'0f' * 32}\nold:{'ab' * 32}\n")
    here = SigningKeys(None, database, tmp_path)
    elsewhere = SigningKeys(None, database, tmp_path / "another-machine")
    assert list(here) == ["new", "old"]
    assert dict(here) == dict(elsewhere)
    (tmp_path / signing_keys.KEY_FILE).unlink()
    assert dict(SigningKeys(None, database, tmp_path)) == dict(here)
    house.engine.sql("DELETE FROM marks")
    made = dict(SigningKeys(None, database, tmp_path))
    assert made == dict(elsewhere.__class__(None, database, tmp_path / "another-machine"))
    assert made != dict(here)


@pytest.mark.parametrize("given", ["", "k1", "k1:xyz", "k1:00", f"k 1:{'0f' * 32}"])
def test_keys_that_are_none_stop_the_start(house: House, tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_SIGNING_KEYS"):
        SigningKeys(given, house.engine.database, tmp_path)


def test_given_keys_need_no_database(house: House, tmp_path: Path) -> None:
    given = SigningKeys(f"a:{'0f' * 32}, b:{'1f' * 32}", None, tmp_path)  # type: ignore[arg-type]
    assert list(given) == ["a", "b"]


def test_the_key_of_the_installation_is_made_once(house: House) -> None:
    with house.engine.database.autocommit() as connection:
        seed = installation_key.seed(connection)
        assert installation_key.seed(connection) == seed
        connection.execute(text("DELETE FROM marks"))
        assert installation_key.seed(connection) != seed
    assert len(seed) == len(installation_key.public_key(seed)) == 32
