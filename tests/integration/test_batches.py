"""Batches over the real app and database: every line becomes one job or one refusal, wherever its feeder is killed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from crash_stage import until
from flask.testing import FlaskClient
from job_engine import CREDIT
from openai.types import Batch, FileObject
from receivers import make_sender, receiver
from sqlalchemy import event, text

from accounts.accounts import create_account
from accounts.keys import create_key
from app import create_app
from app.dialects.openai import batch_lines
from app.services import Services, build
from core.db import Database
from core.ids import new_id
from core.settings import Settings
from jobs.batches import feeder as feeding
from jobs.batches.feeder import Feeder
from jobs.errors import LinesFileError
from jobs.maintenance import audit
from jobs.maintenance.uploads import delete_expired_files
from jobs.screening.screening import Screening, recorder
from jobs.screening.words import WordsScreen
from jobs.states import Nudge, Signal
from quota import ledger
from webhooks import endpoints

BATCHES = "/api/images/batches"
OPENAI = {"User-Agent": "OpenAI/Python 3.54.0", "x-stainless-lang": "python"}
GENERATIONS = "/v1/images/generations"
MODEL = "gpt-image-2"
WINDOW = 2


class KilledError(BaseException):
    """Stands for kill -9: nothing catches it."""


@dataclass
class Broker:
    """Takes signals; dies after so many jobs."""

    dies_after: int | None = None
    sent: list[Signal] = field(default_factory=list)

    def __call__(self, signals: Sequence[Signal]) -> bool:
        self.sent += signals
        jobs = sum(1 for each in self.sent if isinstance(each, Nudge))
        if self.dies_after is not None and jobs >= self.dies_after:
            raise KilledError
        return True


@dataclass
class House:
    """The app of one web process, and the feeder of one worker."""

    client: FlaskClient
    services: Services
    database: Database
    headers: Mapping[str, str]
    broker: Broker

    @property
    def worker(self) -> Feeder:
        catalogs = self.services.catalogs
        readers = {**self.services.feeder.readers, "openai": batch_lines.reader(catalogs, "b64_json")}
        return replace(self.services.feeder, readers=readers, publish=self.broker, publish_window=WINDOW)

    def feed(self, rounds: int = 1) -> None:
        """So many rounds of the worker; each batch is due in each."""
        for _ in range(rounds):
            self.sql("UPDATE batches SET due_at = clock_timestamp() - interval '1 s' WHERE ended_at IS NULL")
            with self.database.autocommit() as connection:
                batch = feeding.moves.take_due(connection, lease_s=15)
            if batch is not None:
                self.worker.step(batch)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.database.transaction() as connection:
            found = connection.execute(text(statement), values)
            return list(found.scalars()) if found.returns_rows else []

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.client.post(path, json=body, headers={**self.headers, **headers})

    def get(self, path: str) -> Any:
        answer = self.client.get(path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json

    def jsonl(self, path: str) -> list[dict[str, Any]]:
        answer = self.client.get(path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def upload(self, lines: Sequence[Any]) -> str:
        data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        form = {"purpose": "batch", "file": (io.BytesIO(data.encode()), "orders.jsonl")}
        answer = self.client.post("/v1/files", data=form, headers={**self.headers, **OPENAI})
        assert answer.status_code == 200, answer.text
        FileObject.model_validate(answer.json, strict=True)
        return str(answer.json["id"])

    def batch(self, lines: Sequence[Any]) -> dict[str, Any]:
        """A batch of OpenAI's."""
        answer = self.order(self.upload(lines))
        assert answer.status_code == 200, answer.text
        return self.checked(answer.json)

    def order(self, file_id: str) -> Any:
        wanted = {"input_file_id": file_id, "endpoint": GENERATIONS, "completion_window": "24h"}
        return self.client.post("/v1/batches", json=wanted, headers={**self.headers, **OPENAI})

    def read(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return self.checked(self.get(f"/v1/batches/{batch['id']}"))

    @staticmethod
    def checked(answer: dict[str, Any]) -> dict[str, Any]:
        Batch.model_validate(answer, strict=True)
        return answer

    def end_jobs(self) -> None:
        """Every queued job ends; their owner cancels them."""
        for job_id in self.sql("SELECT id FROM jobs WHERE status = 'queued'"):
            assert self.post(f"/api/images/tasks/{job_id}/cancel").status_code == 200

    def prompts(self) -> list[str]:
        return self.sql("SELECT request ->> 'prompt' FROM orders ORDER BY job_id")

    def audit(self) -> list[Any]:
        with self.database.autocommit() as connection:
            return list(audit.check(connection, timeout_s=30))


@pytest.fixture(scope="module")
def services(shared_database: Database, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=tmp_path_factory.mktemp("batches"),
        DATABASE_URL=shared_database.engine.url.render_as_string(hide_password=False),
        REDIS_URL=redis_url,
        DARKROOM_DECODERS=1,
    )
    built = build(settings, {"OPENAI_API_KEY": "test-key"})
    yield built
    built.uploads.references.media.close()


@pytest.fixture
def house(database: Database, services: Services) -> House:
    broker = Broker()
    own = replace(services, publish=broker, feeder=replace(services.feeder, publish=broker))
    client = create_app(Settings(_env_file=None), own).test_client()  # type: ignore[call-arg]
    return House(client, own, database, account(database), broker)


def account(database: Database, granted: int = 1_000) -> dict[str, str]:
    """The headers of a new account."""
    with database.transaction() as connection:
        made = create_account(connection, new_id("name"))
        ledger.grant(connection, made.id, granted * CREDIT)
        token = create_key(connection, made.id, name="k", scopes=("jobs:write", "jobs:read")).token
    return {"Authorization": f"Bearer {token}"}


def order(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "quality": "low", "size": "1024x1024", **more}


def line(name: str, **more: Any) -> dict[str, Any]:
    """A line of OpenAI's."""
    return {"custom_id": name, "method": "POST", "url": GENERATIONS, "body": order(f"prompt {name}"), **more}


# ---------------------------------------------------------------- orders in the request


def test_each_order_is_accepted_or_refused_by_itself(house: House) -> None:
    before = house.get("/api/quota")["spendable_microcredits"]
    orders = [
        order("a", custom_id="first"),
        order(""),
        order("b", model="nonesuch"),
        {"operation": "no-such", "prompt": "c"},
        order("d", custom_id=7),
        order("e"),
    ]
    answer = house.post(BATCHES, {"orders": orders, "metadata": {"shop": "7"}})
    assert answer.status_code == 202, answer.text
    batch = answer.json
    assert answer.headers["Location"].endswith(batch["id"])
    assert [each["error"] and each["error"]["code"] for each in batch["lines"]] == [
        None, "invalid_order", "unknown_model", "unknown_operation", "invalid_order", None,
    ]  # fmt: skip
    assert [each["custom_id"] for each in batch["lines"]] == ["first", None, None, None, None, None]
    assert batch["counts"] == {
        "total": 6, "waiting": 0, "live": 2, "succeeded": 0, "failed": 0, "cancelled": 0, "refused": 4,
    }  # fmt: skip
    tasks = [house.get(f"/api/images/tasks/{each['task_id']}") for each in batch["lines"] if each["task_id"]]
    assert [task["request"]["prompt"] for task in tasks] == ["a", "e"]
    paid = sum(task["price"]["quoted_microcredits"] for task in tasks)
    assert house.get("/api/quota")["spendable_microcredits"] == before - paid
    assert len([each for each in house.broker.sent if isinstance(each, Nudge)]) == 2  # published at once
    results = house.jsonl(f"{BATCHES}/{batch['id']}/results")
    assert [(each["task"] or each["error"])["status"] for each in results] == ["queued", 422, 422, 404, 422, "queued"]
    assert [each["id"] for each in house.get(BATCHES)["data"]] == [batch["id"]]


def test_the_orders_may_be_lines_and_a_broken_line_stops_no_other(house: House) -> None:
    body = b'{"prompt": "a", "model": "gpt-image-2"}\n\nnot json\n{"prompt": "b", "model": "gpt-image-2"}'
    answer = house.client.post(BATCHES, data=body, headers={**house.headers, "Content-Type": "application/jsonl"})
    assert answer.status_code == 202, answer.text
    codes = [each["error"] and each["error"]["code"] for each in answer.json["lines"]]  # type: ignore[index]
    assert codes == [None, "malformed_json", None]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "required"),
        ({"orders": []}, "required"),
        ({"orders": [{}], "input_file_id": "file_" + "0" * 26}, "conflict"),
        ({"orders": [1]}, "wrong_type"),
        ({"orders": [{}], "completion_window_s": 1}, "out_of_range"),
        ({"orders": [{}], "order": 1}, "not_supported"),
    ],
)
def test_a_request_that_is_no_batch_is_refused_as_a_whole(house: House, body: Any, code: str) -> None:
    answer = house.post(BATCHES, body)
    assert answer.status_code == 422, answer.text
    assert [each["code"] for each in answer.json["errors"]] == [code]
    assert house.sql("SELECT count(*) FROM batches") == [0]


def test_too_many_orders_are_refused_and_a_thousand_are_not_too_many(house: House) -> None:
    assert house.post(BATCHES, {"orders": [{}] * 1001}).status_code == 400
    headers = {**house.headers, "Content-Type": "application/jsonl"}
    assert house.client.post(BATCHES, data=b"x\n" * 1001, headers=headers).status_code == 422
    answer = house.client.post(BATCHES, data=b"x\n" * 1000, headers=headers)
    assert answer.status_code == 202 and answer.json["counts"]["refused"] == 1000  # type: ignore[index]


def test_a_line_costs_a_claim_and_a_job_and_a_refused_one_no_statement(house: House) -> None:
    run: list[str] = []
    engine = house.services.submission._database.engine
    listen = (engine, "before_cursor_execute", lambda *given: run.append(given[2]))
    counted: dict[tuple[str, int], int] = {}
    event.listen(*listen)
    for name, given in (("good", order("a fox")), ("bad", order("a fox", sed=1))):
        for lines in (10, 40):
            run.clear()
            assert house.post(BATCHES, {"orders": [given] * lines}).status_code == 202
            counted[name, lines] = len(run)
    event.remove(*listen)
    # The statement of the job itself goes past the engine, by the driver.
    assert counted["good", 40] - counted["good", 10] == 30
    assert counted["bad", 40] == counted["bad", 10]


def test_a_repeat_with_its_key_is_the_same_batch_and_goes_on_where_the_first_died(house: House) -> None:
    body = {"orders": [order(str(number)) for number in range(5)]}
    house.broker.dies_after = 2
    with pytest.raises(KilledError):
        house.post(BATCHES, body, **{"Idempotency-Key": "k1"})
    assert len(house.prompts()) == 2
    house.broker.dies_after = None
    again = house.post(BATCHES, body, **{"Idempotency-Key": "k1"})
    assert again.status_code == 202 and again.headers["Idempotent-Replayed"] == "true"
    for _ in range(3):  # the workers go on with the lines
        house.feed(2)
        house.end_jobs()
    assert sorted(house.prompts()) == ["0", "1", "2", "3", "4"]
    assert house.sql("SELECT count(*) FROM batches") == [1]
    other = house.post(BATCHES, {"orders": [order("x")]}, **{"Idempotency-Key": "k1"})
    assert other.status_code == 422 and other.json["code"] == "idempotency_mismatch"


def test_an_order_that_the_balance_does_not_cover_is_refused_and_costs_nothing(house: House) -> None:
    poor = replace(house, headers=account(house.database, granted=1))
    lines = poor.post(BATCHES, {"orders": [order(str(number)) for number in range(3)]}).json["lines"]
    accepted = [each for each in lines if each["task_id"]]
    refused = [each["error"] for each in lines if each["error"]]
    assert refused and {each["code"] for each in refused} == {"insufficient_credits"}
    assert len(accepted) + len(refused) == 3
    assert poor.get("/api/quota")["spendable_microcredits"] >= 0 and house.audit() == []


# ---------------------------------------------------------------- files of lines


def test_a_file_is_submitted_at_the_pace_of_the_window(house: House) -> None:
    batch = house.batch([line(str(number)) for number in range(10)])
    assert batch["status"] == "validating"
    house.feed()
    assert house.read(batch)["status"] == "in_progress" and house.prompts() == []
    house.feed(3)
    assert len(house.prompts()) == feeding.WINDOWS * WINDOW
    house.end_jobs()
    house.feed(2)
    assert len(house.prompts()) == 2 * feeding.WINDOWS * WINDOW
    for _ in range(3):
        house.end_jobs()
        house.feed(2)
    ended = house.read(batch)
    assert house.prompts() == [f"prompt {number}" for number in range(10)]
    assert ended["status"] == "completed" and ended["request_counts"] == {"total": 10, "completed": 0, "failed": 10}
    assert ended["output_file_id"] is None and ended["error_file_id"]


def test_the_lines_of_a_paused_key_wait_until_it_is_let_on(house: House) -> None:
    batch = house.batch([line(f"l{number}") for number in range(3)])
    house.feed()  # the look at the whole file
    house.sql("UPDATE api_keys SET paused_at = clock_timestamp(), pause_reason = 'a test'")
    house.feed(3)
    assert house.sql("SELECT count(*) FROM jobs") == [0]
    house.sql("UPDATE api_keys SET paused_at = NULL, pause_reason = NULL")
    house.feed()
    assert house.sql("SELECT count(*) FROM jobs") == [3]
    assert house.sql("SELECT status FROM batches WHERE id = :id", id=batch["id"]) == ["in_progress"]


@pytest.mark.parametrize("limit", ["max_in_flight", "images_per_minute"])
def test_a_line_that_meets_a_limit_waits_and_does_not_fail(house: House, limit: str) -> None:
    house.sql(f"UPDATE accounts SET {limit} = 2")
    batch = house.batch([line(str(number)) for number in range(5)])
    house.feed(4)
    assert len(house.prompts()) == 2
    for made in (4, 5):
        house.end_jobs()
        house.sql("UPDATE image_buckets SET at = at - interval '1 min'")
        house.feed(3)
        assert len(house.prompts()) == made
    house.end_jobs()
    house.feed(2)
    ended = house.read(batch)
    assert house.prompts() == [f"prompt {number}" for number in range(5)]
    assert ended["status"] == "completed" and ended["request_counts"] == {"total": 5, "completed": 0, "failed": 5}
    assert house.sql("SELECT count(*) FROM batch_lines WHERE job_id IS NULL") == [0]


def test_orders_that_meet_a_limit_are_accepted_and_wait(house: House) -> None:
    house.sql("UPDATE accounts SET max_in_flight = 2")
    made = house.post(BATCHES, {"orders": [order(f"prompt {number}") for number in range(3)]})
    assert made.status_code == 202, made.text
    assert len(house.prompts()) == 2
    assert house.sql("SELECT due_at < clock_timestamp() + interval '2 s' FROM batches") == [True]
    house.end_jobs()
    house.feed(2)
    assert len(house.prompts()) == 3


def test_a_feeder_that_is_killed_anywhere_submits_no_line_twice_and_loses_none(house: House) -> None:
    """Killed after each of the jobs in turn: between the commit of a line and the note of how far it has come."""
    batch = house.batch([line(str(number)) for number in range(12)])
    house.feed()
    for _ in range(12):
        house.broker.sent.clear()
        house.broker.dies_after = 1
        with suppress(KilledError):
            house.feed()
        house.broker.dies_after = None
        house.end_jobs()
    for _ in range(3):
        house.feed(2)
        house.end_jobs()
    house.feed(2)
    assert sorted(house.prompts()) == sorted(f"prompt {number}" for number in range(12))
    assert house.read(batch)["status"] == "completed"
    assert house.audit() == []


def test_a_line_that_a_screen_refused_is_not_screened_again_by_the_next_feeder(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The feeder dies in the same page, and writes nothing down any more."""
    (tmp_path / "words.yaml").write_text("categories: {bad: {words: [gore]}}")
    screen = WordsScreen.of(tmp_path / "words.yaml")
    record = recorder(house.database)
    monkeypatch.setattr(house.services.submission, "screening", Screening([screen], record=record))
    lines = [line("0"), line("1", body=order("gore")), line("2")]
    batch = house.batch(lines)
    house.feed()
    house.broker.dies_after = 2
    with monkeypatch.context() as killed, suppress(KilledError):
        killed.setattr(Feeder, "_refuse", _only_while_alive(house.broker))
        house.feed()
    house.broker.dies_after = None
    house.feed()
    assert house.sql("SELECT category FROM screening_refusals") == ["bad"]
    house.end_jobs()
    house.feed(2)
    assert house.read(batch)["request_counts"] == {"total": 3, "completed": 0, "failed": 3}


def _only_while_alive(broker: Broker) -> Any:
    refuse = Feeder._refuse

    def refuse_while_alive(*args: Any) -> None:
        if len(broker.sent) < 2:
            refuse(*args)

    return refuse_while_alive


def test_cancelling_ends_the_jobs_and_writes_down_what_was_not_submitted(house: House) -> None:
    batch = house.batch([line(str(number)) for number in range(10)])
    house.feed(2)
    assert len(house.prompts()) == 4
    answer = house.client.post(f"/v1/batches/{batch['id']}/cancel", headers=house.headers)
    assert house.checked(answer.json)["status"] == "cancelling"  # type: ignore[arg-type]
    house.feed(4)
    ended = house.read(batch)
    assert ended["status"] == "cancelled" and ended["cancelled_at"] and len(house.prompts()) == 4
    assert house.sql("SELECT DISTINCT status FROM jobs") == ["cancelled"]
    told = house.jsonl(f"/v1/files/{ended['error_file_id']}/content")
    assert [each["custom_id"] for each in told] == [str(number) for number in range(10)]
    assert {each["error"]["code"] for each in told} == {"batch_cancelled"}
    assert house.get(f"{BATCHES}/{batch['id']}")["counts"]["cancelled"] == 10
    again = house.client.post(f"/v1/batches/{batch['id']}/cancel", headers=house.headers)
    assert again.status_code == 409 and again.headers["x-should-retry"] == "false"
    assert house.audit() == []


def test_no_line_is_submitted_once_a_batch_is_cancelled(house: House) -> None:
    """Also by a feeder that has read the batch before."""
    batch = house.batch([line(str(number)) for number in range(3)])
    house.feed()
    house.sql("UPDATE batches SET due_at = clock_timestamp() - interval '1 s'")
    with house.database.autocommit() as connection:
        stale = feeding.moves.take_due(connection, lease_s=15)
    assert stale is not None
    house.client.post(f"/v1/batches/{batch['id']}/cancel", headers=house.headers)
    house.worker.step(stale)
    assert house.prompts() == []


def test_a_batch_whose_time_is_over_expires(house: House) -> None:
    batch = house.batch([line(str(number)) for number in range(6)])
    house.feed(2)
    house.sql("UPDATE batches SET expires_at = clock_timestamp() - interval '1 s'")
    house.feed(5)
    ended = house.read(batch)
    assert ended["status"] == "expired" and ended["expired_at"]
    told = house.jsonl(f"/v1/files/{ended['error_file_id']}/content")
    assert {each["error"]["code"] for each in told} == {"batch_expired"} and len(told) == 6
    assert house.sql("SELECT DISTINCT status FROM jobs") == ["cancelled"]


def test_a_file_that_is_no_batch_fails_with_every_line_at_fault(house: House) -> None:
    lines = [
        line("a"),
        "not json",
        line("a"),
        line("b", url="/v1/images/edits"),
        line("c", method="GET"),
        {**line("d"), "custom_id": None},
        line("e", body=[]),
        line("f", more=1),
    ]
    batch = house.batch(lines)
    house.feed(2)
    ended = house.read(batch)
    assert ended["status"] == "failed" and ended["failed_at"] and house.prompts() == []
    assert [(each["line"], each["code"]) for each in ended["errors"]["data"]] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "mismatched_endpoint"),
        (5, "invalid_method"),
        (6, "missing_required_parameter"),
        (7, "missing_required_parameter"),
        (8, "unknown_parameter"),
    ]


def test_a_lines_error_is_in_the_dialects_form(house: House) -> None:
    orders = [order("x", model="nonesuch"), order("x", size="large"), order("x", stream=True), order("")]
    batch = house.batch([line(str(number), body=body) for number, body in enumerate(orders)])
    house.feed(3)
    ended = house.read(batch)
    told = [each["response"] for each in house.jsonl(f"/v1/files/{ended['error_file_id']}/content")]
    said = [(each["status_code"], each["body"]["error"]["code"], each["body"]["error"]["param"]) for each in told]
    assert said == [
        (404, "model_not_found", "model"),
        (400, "invalid_value", "size"),
        (400, "unknown_parameter", "stream"),
        (400, "missing_required_parameter", "prompt"),
    ]


def test_a_native_batch_by_a_file_refuses_its_lines_one_by_one(house: House) -> None:
    file_id = house.upload([order("a", custom_id="x"), "not json", order("b", custom_id="x")])
    answer = house.post(BATCHES, {"input_upload_id": file_id})
    assert answer.status_code == 202 and answer.json["lines"] is None
    house.feed(2)
    shown = house.get(f"{BATCHES}/{answer.json['id']}?lines=10")
    assert [each["error"] and each["error"]["code"] for each in shown["lines"]] == [None, "malformed_json", None]
    assert [each["line"] for each in house.get(f"{BATCHES}/{shown['id']}?lines=1&first_line=1")["lines"]] == [1]


def test_the_end_of_a_batch_is_told_to_the_endpoints_that_want_it(house: House) -> None:
    events = ["batch.completed", "batch.failed", "batch.cancelled"]
    with receiver() as shop:
        with house.database.transaction() as connection:
            [account_id] = connection.execute(text("SELECT id FROM accounts")).scalars()
            endpoints.create(connection, account_id, url=shop.url, events=events)
            endpoints.create(connection, account_id, url=shop.url, events=["image.task.succeeded"])
        house.batch([line("a"), line("a")])
        house.feed()
        cancelled = house.batch([line("b")])
        house.client.post(f"/v1/batches/{cancelled['id']}/cancel", headers=house.headers)
        house.feed(3)
        sender = make_sender(house.database)
        until(lambda: sender.send_due() >= 0 and len(shop.got) == 2, 20, lambda: shop.got)
        sender.stop()
        told = [json.loads(each.body) for each in shop.got]
    assert sorted(each["type"] for each in told) == ["batch.cancelled", "batch.failed"]
    assert house.sql("SELECT count(*) FROM webhook_messages WHERE event LIKE 'batch.%'") == [2]
    [about] = [each["data"] for each in told if each["type"] == "batch.cancelled"]
    assert about["id"] == cancelled["id"] and about["counts"]["cancelled"] == 1


# ---------------------------------------------------------------- the files themselves


def test_a_file_of_lines_is_kept_as_it_came_and_deleted_when_no_batch_needs_it(house: House) -> None:
    file_id = house.upload([line("a"), "", line("b")])
    content = house.client.get(f"/v1/files/{file_id}/content", headers=house.headers)
    assert content.data == b"\n".join([json.dumps(line("a")).encode(), b"", json.dumps(line("b")).encode()])
    assert [each["id"] for each in house.get("/v1/files?purpose=batch")["data"]] == [file_id]
    assert house.get("/v1/files?purpose=vision")["data"] == []
    batch = house.order(file_id).json
    assert house.client.delete(f"/v1/files/{file_id}", headers=house.headers).status_code == 409
    house.client.post(f"/v1/batches/{batch['id']}/cancel", headers=house.headers)
    house.feed(3)
    assert house.read(batch)["status"] == "cancelled"
    assert house.client.delete(f"/v1/files/{file_id}", headers=house.headers).status_code == 200
    assert house.client.get(f"/v1/files/{file_id}", headers=house.headers).status_code == 404
    assert house.sql("SELECT count(*) FROM file_chunks") == [0]


def test_an_expired_file_is_deleted_when_its_batch_has_ended(house: House) -> None:
    batch = house.batch([line("a")])
    house.sql("UPDATE files SET expires_at = clock_timestamp() - interval '1 s'")
    with house.database.transaction() as connection:
        assert delete_expired_files(connection, 10) == 0
    house.client.post(f"/v1/batches/{batch['id']}/cancel", headers=house.headers)
    house.feed(3)
    with house.database.transaction() as connection:
        assert delete_expired_files(connection, 10) == 1
    assert house.client.get(f"/v1/files/{batch['input_file_id']}", headers=house.headers).status_code == 404


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        ({"max_bytes": 100}, b'{"a": 1}\n' * 20),
        ({"max_line_bytes": 100}, b"{" * 400_000),
        ({"max_line_bytes": 100}, b"{\n" + b"x" * 200 + b"\nb"),
        ({"max_kept_bytes": 50}, b'{"a": 1}\n' * 20),
        ({}, b" \n\n"),
        ({}, b"{\n" * 100_001),
        ({}, b"\x89PNG\r\n"),
    ],
)
def test_a_file_over_its_limits_is_refused_and_nothing_of_it_stays(house: House, limits: Any, data: bytes) -> None:
    services = replace(house.services, files=replace(house.services.files, **limits))
    client = create_app(Settings(_env_file=None), services).test_client()  # type: ignore[call-arg]
    form = {"purpose": "batch", "file": (io.BytesIO(data), "x")}
    answer = client.post("/v1/files", data=form, headers={**house.headers, **OPENAI})
    assert answer.status_code in (400, 422), answer.text
    assert house.sql("SELECT count(*) FROM files") == [0] and house.sql("SELECT count(*) FROM file_chunks") == [0]


class Endless:
    """A body that is one line without an end."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        return b"x" * size


def test_a_line_without_an_end_is_refused_before_it_is_in_memory(house: House, services: Services) -> None:
    [account_id] = house.sql("SELECT id FROM accounts")
    body: Any = Endless()
    with pytest.raises(LinesFileError):
        replace(services.files, max_line_bytes=10**6).keep(account_id, body)
    assert body.given < 2 * 10**6


def test_a_large_file_comes_back_byte_for_byte(house: House) -> None:
    """Over several chunks, with lines of every length around their ends."""
    lines = [b"{%d %s" % (number, b"x" * (number % 3000)) for number in range(1000)]
    data = b"\r\n".join(lines)
    form = {"purpose": "batch", "file": (io.BytesIO(data), "x")}
    made = house.client.post("/v1/files", data=form, headers={**house.headers, **OPENAI}).json
    assert house.client.get(f"/v1/files/{made['id']}/content", headers=house.headers).data == data  # type: ignore[index]
    read = list(feeding.lines_from(house.database, made["id"], 700))  # type: ignore[index]
    assert [number for number, _ in read] == list(range(700, 1000))
    assert [raw.rstrip(b"\r") for _, raw in read] == lines[700:]


def test_settings_have_room_for_a_hundred_thousand_lines(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, DARKROOM_VAR=tmp_path)  # type: ignore[call-arg]
    assert settings.max_batch_file_bytes >= 100_000 * 1000
