"""What of callbacks needs no database: bodies, waits, hosts, and the statements that write them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from app_doubles import make_image, make_task

from app import callbacks
from app.http.signing import SignatureInvalidError, Signer
from core.outbound.urls import hosts_of
from jobs.lifecycle.calls import NOTE_PROGRESS
from jobs.lifecycle.end import END
from jobs.lifecycle.moves import CLAIM
from jobs.lifecycle.start import START
from jobs.lifecycle.submit import SUBMIT
from webhooks import forms, schedule
from webhooks.receivers import policy

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"k1": b"s" * 32}
FORM = callbacks.standard_form("https://images.example", KEYS, max_wait_s=60)
LINKS = callbacks.signed_links("https://images.example", KEYS)


def body(task: Any, event: str = forms.SUCCEEDED) -> Any:
    raw = FORM.body(task, event, LINKS)
    assert len(raw) < callbacks.MAX_BODY_BYTES
    return json.loads(raw)


def test_a_body_keeps_under_its_limit_by_leaving_out_what_is_long() -> None:
    request = {"prompt": "ü" * 15_000, "n": 1, "size": {}, "params": {"quality": "low"}, "normalised": {}}
    task = make_task(status="succeeded", images=[make_image()], request=request, metadata={"shop": "42"})
    data = body(task)["data"]
    assert "prompt" not in data["request"]
    assert (data["request"]["quality"], data["metadata"], len(data["images"])) == ("low", {"shop": "42"}, 1)
    assert body(replace(task, request={**request, "prompt": "a fox"}))["data"]["request"]["prompt"] == "a fox"
    huge = {**request, "params": {"quality": "x" * 30_000}}
    assert body(replace(task, request=huge))["data"]["request"] == {}
    texts = [make_image(index, text="y" * 10_000) for index in range(10)]
    assert len(body(replace(task, images=texts, warnings=["z" * 9_000] * 3))["data"]["images"]) == 10


def test_a_time_is_that_of_the_event() -> None:
    began = datetime(2026, 11, 20, 12, tzinfo=UTC)
    task = make_task(created_at=began, started_at=began + timedelta(1), finished_at=began + timedelta(2))
    times = {event: body(task, event)["timestamp"][:10] for event in forms.EVENTS if event != forms.PROGRESS}
    ends = dict.fromkeys((*forms.ENDS, forms.REFUNDED), "2026-11-22")
    assert times == {forms.QUEUED: "2026-11-20", forms.STARTED: "2026-11-21", **ends}


def test_links_of_a_callback_open_the_image() -> None:
    task = make_task(status="succeeded", images=[make_image()])
    shown = body(task)["data"]["images"][0]["signed_url"]
    assert shown == LINKS.image(task.account_id, task.id, 0)
    assert shown.startswith(f"https://images.example/api/images/tasks/{task.id}/image?index=0&")


def test_a_worker_that_writes_callbacks_loads_no_web_framework() -> None:
    asked = "import sys, app.callbacks; print(sorted({'flask', 'werkzeug'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def part(sql: str, begin: str) -> str:
    found = re.search(rf"{re.escape(begin)}.*?\) AS receiver", re.sub(r"--[^\n]*", "", sql), re.DOTALL)
    assert found, begin
    return " ".join(found[0].split())


@pytest.mark.parametrize("statement", [START, CLAIM, NOTE_PROGRESS], ids=["start", "claim", "progress"])
def test_every_verb_finds_the_same_receivers(statement: Any) -> None:
    begin = "SELECT e.id AS endpoint_id"
    assert part(statement.sql, begin) == part(END.sql, begin)
    # A submit does not see the order that it writes: it reads the parameter in its place.
    written = "FROM (SELECT CAST(:webhook AS jsonb) AS webhook) AS o WHERE o.webhook IS NOT NULL"
    stored = "FROM orders AS o WHERE o.job_id = job.id AND o.webhook IS NOT NULL"
    assert part(SUBMIT.sql, begin) == part(END.sql, begin).replace(stored, written)


def test_a_wait_is_the_schedules_or_what_the_receiver_asks() -> None:
    assert [schedule.wait_s(0), schedule.wait_s(schedule.ATTEMPTS)] == [0, None]
    for ended in range(1, schedule.ATTEMPTS):
        waits = {schedule.wait_s(ended) for _ in range(20)}
        assert len(waits) > 1
        assert all(1 <= (wait or 0) / schedule.WAITS_S[ended] <= 1.1 for wait in waits)
    assert schedule.wait_s(1, retry_after_s=100) == 100


@pytest.mark.parametrize(
    ("header", "least_s", "most_s"),
    [
        (None, 0, 0),
        ("120", 120, 120),
        ("999999999", 86_400, 86_400),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_a_day_at_most(header: str | None, least_s: float, most_s: float) -> None:
    assert least_s <= schedule.retry_after_s(header) <= most_s


def test_retry_after_is_a_date_ahead() -> None:
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    assert 500 <= schedule.retry_after_s(ahead) <= 600


def test_hosts_that_are_allowed_are_written_as_hosts() -> None:
    assert hosts_of(" Hooks.Internal, 127.0.0.1,::1 ,") == {"hooks.internal", "127.0.0.1", "::1"}
    assert hosts_of("") == frozenset()


@pytest.mark.parametrize("written", ["http://a", "a:80", "[::1]:80", "a/b", "a b", "user@a"])
def test_an_entry_that_is_no_host_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        hosts_of(f"good.example,{written}")


def test_an_allowed_host_may_be_private_and_no_other_becomes_so() -> None:
    rules = policy(["127.0.0.1"])
    rules.check_written("http://127.0.0.1:9000/hook")
    for url in ("http://127.0.0.2:9000/hook", "https://10.0.0.1/", "https://127.0.0.1.example:9000/"):
        with pytest.raises(Exception, match="url_not_allowed"):
            rules.check_written(url)


def test_the_schedule_is_the_one_that_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "JITTER", 0.0)
    hours = [0, 5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24]
    waits = [schedule.wait_s(ended) for ended in range(len(hours))]
    assert waits == [pytest.approx(each * 3600) for each in hours]
    assert schedule.wait_s(len(hours)) is None
    assert schedule.wait_s(1, retry_after_s=60) == 60
    assert schedule.wait_s(2, retry_after_s=60) == 300
    assert {429, 502, 504} == schedule.SLOW_DOWN


def test_a_link_of_a_callback_opens_its_own_image_and_no_other() -> None:
    task = make_task()
    path, _, query = LINKS.image(task.account_id, task.id, 1).removeprefix("https://images.example").partition("?")
    said = dict(parse_qsl(query))
    proof = {"expires": int(said["expires"]), "kid": said["kid"], "signature": said["signature"]}
    Signer(KEYS).check(path, account_id=task.account_id, index=1, **proof)
    with pytest.raises(SignatureInvalidError):
        Signer(KEYS).check(path, account_id=task.account_id, index=0, **proof)
