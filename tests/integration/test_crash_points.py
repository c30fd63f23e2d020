"""kill -9 at every crash point: the job ends as it must, is bought at most once, and the books balance.

Workers die at their points, in parallel lanes; then one clean ``python -m workers`` per lane brings every job to its
end.
A call with its own dedupe key (chatgpt2api, ``Recovery.RESEND``) always ends with its image, bought once. A call that
cannot be looked up (OpenAI, ``Recovery.NEVER``) is never sent twice: if its outcome is unknown, the job fails and the
credits are returned.
"""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from crash_stage import GRANTED, ROOT, Stage, build_stage, until
from receivers import make_sender, receiver
from sqlalchemy import create_engine, text
from worker_forks import Forks, worker_forks

from core import failpoints
from core.embedded.ports import free_ports
from jobs.batches import moves
from jobs.batches.moves import NewBatch
from jobs.maintenance.audit import Finding
from jobs.submission.files import Files
from jobs.submission.order import JobWebhook
from sandbox.counts import prompt_hash
from sandbox.testing import Sandbox
from webhooks.forms import SUCCEEDED
from workers.enqueue import Publisher

CLASS_A, CLASS_C = "chatgpt2api-gpt-image-2", "gpt-image-2"
LANES = 3
ENDS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Story:
    """One job, the crashes it goes through, and how it must end.

    ``deaths``: failpoints, one worker each. ``mid_call``: the worker is killed from outside during its call.
    """

    name: str
    model: str
    deaths: Sequence[str]
    accepted: int = 1  # how often the upstream accepted the order
    code: str | None = None  # failure code; None: the job succeeds
    waits: str = ""  # a marker that keeps the upstream busy
    publish: bool = True
    overdue: bool = False  # with other jobs like it that are past their start deadline
    mid_call: bool = False
    limited: bool = False  # its credential has a limit
    calls: int = 1
    safe_prompt: bool = False  # its prompt is refused, and adjusted once

    @property
    def prompt(self) -> str:
        return f"the crash {self.name} {self.waits}".strip()


def a(name: str, *deaths: str, **rest: Any) -> Story:
    return Story(name, CLASS_A, deaths or (name,), **rest)


def c(name: str, death: str, **rest: Any) -> Story:
    return Story(f"sync {name}", CLASS_C, (death,), **rest)


STORIES = [
    # A first attempt is claimed by one statement, a second one in a transaction that can be cut.
    a("claim.uncommitted", waits="[sandbox:429 times=1]", calls=2),
    a("claim.committed"),
    a("claimed with a permit", "claim.committed", limited=True),
    a("call.answered"),
    a("step.unrecorded"),
    a("step.recorded"),
    a("look.answered"),
    a("found.unkept"),
    a("blob.kept"),
    a("the last outcome recorded", "step.recorded:2"),
    a("resend.answered", "claim.committed", "resend.answered"),
    a("prompt.rewritten", waits="[sandbox:refuse at=submit]", safe_prompt=True, calls=2),
    a("prompt.adjusted", waits="[sandbox:refuse at=submit]", safe_prompt=True, calls=2),
    a("sweep.unpublished", publish=False),
    a("sweep.moved", overdue=True, accepted=0, code="deadline_expired"),
    c("nothing sent", "claim.committed", accepted=0, code="upstream_uncertain"),
    c("killed while the upstream works", "", mid_call=True, waits="[sandbox:latency=30]", code="upstream_uncertain"),
    c("image kept, no row", "blob.kept", code="upstream_uncertain"),
]


@dataclass
class Ending:
    """The state of a story's job after everything has ended."""

    killed_by: list[int] = field(default_factory=list)
    job: Any = None
    calls: Sequence[Any] = ()
    images: Sequence[Any] = ()
    blobs: Sequence[bool] = ()
    prompt: str = ""  # asked for in the end


@dataclass
class Lane:
    """The endings of the stories that shared a stage, and the findings of the stage's audit."""

    endings: dict[str, Ending] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    owed: tuple[int, int] = (0, 0)
    spent: int = 0
    captured: int = 0


@pytest.fixture(scope="module")
def stages(
    postgres_url: str, redis_url: str, sandbox_process: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Stage]]:
    sandbox_process.reset()
    sandbox_process.clear_faults()
    sandbox_process.settings(latency_s=0.0, prepared=True)
    upstreams = {
        "CHATGPT2API_BASE_URL": sandbox_process.chatgpt2api_url,
        "CHATGPT2API_API_KEY": "test-key",
        "OPENAI_BASE_URL": sandbox_process.openai_url,
        "OPENAI_API_KEY": "test-key",
    }
    folder = tmp_path_factory.mktemp("crashes")
    with worker_forks(folder, ROOT) as forks:
        built = [_stage(lane, postgres_url, redis_url, folder, upstreams, forks) for lane in range(LANES + 1)]
        yield built
    for stage in built:
        stage.database.dispose()


def _stage(  # noqa: PLR0917
    lane: int, postgres_url: str, redis_url: str, folder: Path, upstreams: dict[str, str], forks: Forks
) -> Stage:
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS crash_{lane} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE crash_{lane} TEMPLATE template_darkroom"))
    administrator.dispose()
    own_redis = redis_url.rsplit("/", 1)[0] + f"/{lane + 8}"
    os.environ.setdefault("REDIS_URL", own_redis)  # the Celery app needs one; the publisher uses its own
    return build_stage(
        database_url=postgres_url.rsplit("/", 1)[0] + f"/crash_{lane}",
        redis_url=own_redis,
        var=folder / str(lane),
        upstreams=upstreams,
        publish=Publisher(own_redis, own_redis).publish,
        forks=forks,
    )


@pytest.fixture(scope="module")
def lanes(stages: list[Stage]) -> list[Lane]:
    """Run all stories in a few lanes, then a clean worker in each lane."""
    shares = [STORIES[lane::LANES] for lane in range(LANES)]
    with ThreadPoolExecutor(LANES) as pool:
        return list(pool.map(play, stages, shares))


def play(stage: Stage, stories: Sequence[Story]) -> Lane:
    lane = Lane()
    jobs: dict[str, str] = {}
    for story in stories:
        ending = lane.endings[story.name] = Ending()
        jobs[story.name] = _submit(stage, story)
        if story.mid_call:
            ending.killed_by.append(_killed_mid_call(stage, jobs[story.name]))
        for number, death in enumerate(filter(None, story.deaths)):
            if number:
                _revive(stage, jobs[story.name])
            limits = {"CHATGPT2API_MAX_ACTIVE": "5"} if story.limited else {}
            ending.killed_by.append(stage.worker_dies_at(death, **limits))
            stage.freeze()
    stage.thaw()
    with stage.process("workers"):
        until(lambda: _all_ended(stage), ENDS_WITHIN_S, lambda: stage.rows("SELECT * FROM jobs"))
    for name, job_id in jobs.items():
        _look(stage, lane.endings[name], job_id)
    balance = stage.balance()
    lane.findings, lane.owed = stage.audit(), (balance.queued, balance.held)
    lane.spent = GRANTED - balance.available
    lane.captured = stage.row("SELECT coalesce(sum(captured), 0) FROM jobs")[0]
    return lane


def _submit(stage: Stage, story: Story) -> str:
    ids = [
        stage.order(
            story.prompt,
            story.model,
            publish=story.publish and not story.overdue,
            **({"safe_prompt": True} if story.safe_prompt else {}),
        )
        for _ in range(3 if story.overdue else 1)
    ]
    if story.overdue:
        stage.sql("UPDATE jobs SET start_deadline_at = clock_timestamp() WHERE id = ANY(:ids)", ids=ids)
    return ids[-1]


def _killed_mid_call(stage: Stage, job_id: str) -> int:
    with stage.process("workers") as worker:
        until(
            lambda: (
                stage.rows("SELECT 1 FROM upstream_calls WHERE job_id = :id", id=job_id)
                and _at_the_upstream(stage, job_id)
            ),
            30,
            lambda: stage.rows("SELECT * FROM jobs WHERE id = :id", id=job_id),
        )
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        stage.freeze()
        return int(worker.returncode)


def _at_the_upstream(stage: Stage, job_id: str) -> bool:
    prompt = stage.row("SELECT request ->> 'prompt' FROM orders WHERE job_id = :id", id=job_id)[0]
    url = stage.environ["OPENAI_BASE_URL"].removesuffix("/openai/v1") + "/control/counts"
    counts = requests.get(url, timeout=10).json().get("openai", {})
    return prompt_hash(prompt) in counts.get("accepted_by_prompt", {})


def _revive(stage: Stage, job_id: str) -> None:
    """Make one job due again with its owner dead, so that the next worker finds it."""
    stage.sql("DELETE FROM workers WHERE boot_id = (SELECT owner FROM jobs WHERE id = :id)", id=job_id)
    stage.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=job_id)
    # The call counts as missing for long enough at the first status check; the wait is not tested here.
    stage.sql(
        "UPDATE upstream_calls SET missing_since = clock_timestamp() - interval '6 seconds' WHERE job_id = :id",
        id=job_id,
    )


def _all_ended(stage: Stage) -> bool:
    stage.hurry()
    return not stage.rows("SELECT 1 FROM jobs WHERE finished_at IS NULL")


def _look(stage: Stage, ending: Ending, job_id: str) -> None:
    ending.job = stage.row("SELECT * FROM jobs WHERE id = :id", id=job_id)
    ending.calls = stage.rows("SELECT * FROM upstream_calls WHERE job_id = :id", id=job_id)
    ending.prompt = stage.row("SELECT request ->> 'prompt' FROM orders WHERE job_id = :id", id=job_id)[0]
    ending.images = stage.rows("SELECT * FROM images WHERE job_id = :id", id=job_id)
    ending.blobs = [stage.store.exists(image.key) for image in ending.images]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name.replace(" ", "-"))
def test_a_crash_at(story: Story, lanes: list[Lane], sandbox_process: Sandbox) -> None:
    [ending] = [lane.endings[story.name] for lane in lanes if story.name in lane.endings]
    assert ending.killed_by == [-signal.SIGKILL] * len(ending.killed_by)
    assert ending.killed_by
    assert (ending.job.status, ending.job.failure_code) == (
        ("failed", story.code) if story.code else ("succeeded", None)
    )
    counts = sandbox_process.counts()["chatgpt2api" if story.model == CLASS_A else "openai"]
    assert counts["accepted_by_prompt"].get(prompt_hash(ending.prompt), 0) == story.accepted
    assert (ending.prompt != story.prompt) == story.safe_prompt
    if story.code:
        assert (ending.job.captured, ending.job.released) == (0, ending.job.quoted)
        assert [call.written_off for call in ending.calls] == [True] * len(ending.calls)
    else:
        assert ending.job.captured == ending.job.quoted
        assert ending.blobs == [True]
        # Everything that was resent had the same key.
        assert len(ending.calls) == story.calls


def test_the_books_balance_after_all_crashes(lanes: list[Lane]) -> None:
    for lane in lanes:
        assert lane.findings == []
        assert lane.owed == (0, 0)
        assert lane.spent == lane.captured > 0


def test_every_failpoint_of_a_worker_has_a_story() -> None:
    died_at = {death.partition(":")[0] for story in STORIES for death in story.deaths if death}
    elsewhere = {name for name in failpoints.POINTS if name.startswith(("submit.", "cache.", "webhook.", "batch."))}
    assert died_at | elsewhere == set(failpoints.POINTS)


def test_a_web_process_that_dies_while_accepting(stages: list[Stage], lanes: list[Lane]) -> None:
    """The caller gets no answer and repeats the request: one job, charged once, whatever the first try left."""
    stage = stages[-1]
    left = {"submit.uncommitted": 0, "submit.committed": 1}
    for point, rows in left.items():
        with _web(stage, point) as url, pytest.raises(requests.ConnectionError):
            _post(stage, url, point)
        assert len(stage.rows("SELECT 1 FROM jobs")) == rows
    with _web(stage, "") as url:
        answers = {point: _post(stage, url, point) for point in left}
    assert {answer.status_code for answer in answers.values()} == {202}
    replayed = {point for point, answer in answers.items() if "Idempotent-Replayed" in answer.headers}
    assert replayed == {"submit.committed"}
    assert len({answer.json()["id"] for answer in answers.values()}) == len(stage.rows("SELECT 1 FROM jobs")) == 2
    assert stage.audit() == []


class _web:  # noqa: N801 - reads as the block it opens
    """A running web process; the context value is its URL."""

    def __init__(self, stage: Stage, failpoint: str) -> None:
        self.port = free_ports(1)[0]
        module = ("gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app")
        self._process = stage.process(*module, failpoint=failpoint, DARKROOM_PORT=str(self.port))

    def __enter__(self) -> str:
        self._process.__enter__()
        url = f"http://127.0.0.1:{self.port}"
        until(lambda: _alive(url), 30, lambda: f"web on {url}")
        return url

    def __exit__(self, *error: Any) -> None:
        self._process.__exit__(*error)


def _alive(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


def _post(stage: Stage, url: str, point: str) -> requests.Response:
    order = {"prompt": f"the crash {point}", "model": CLASS_A, "size": "256x256"}
    headers = {"Authorization": f"Bearer {stage.token}", "Idempotency-Key": point}
    return requests.post(f"{url}/api/images/generate", json=order, headers=headers, timeout=20)


def test_a_worker_that_dies_while_it_sends_a_callback(stages: list[Stage]) -> None:
    """Killed between the commit and the request, and between the answer and its record: nothing is lost, and what
    arrives twice has one id."""
    stage = stages[-1]
    allowed = {"DARKROOM_WEBHOOK_ALLOWED_HOSTS": "127.0.0.1"}
    with receiver() as shop:
        # Its own receiver: jobs that other tests left behind end here, too.
        stage.order("the crash of a callback", CLASS_A, webhook=JobWebhook(shop.url, [SUCCEEDED]))
        assert stage.worker_dies_at("webhook.unsent", **allowed) == -signal.SIGKILL
        assert shop.got == []
        stage.sql("UPDATE webhook_messages SET due_at = clock_timestamp()")
        assert stage.worker_dies_at("webhook.sent", **allowed) == -signal.SIGKILL
        assert len(shop.got) == 1
        stage.sql("UPDATE webhook_messages SET due_at = clock_timestamp()")
        sender = make_sender(stage.database)  # as in a third worker, without waiting for its start
        assert sender.send_due() == 1
        delivered = "SELECT 1 FROM webhook_messages WHERE state = 'delivered'"
        until(lambda: stage.rows(delivered), 10, lambda: stage.rows("SELECT * FROM webhook_messages"))
        assert len(shop.got) == 2
        assert len({got.id for got in shop.got}) == 1


def test_a_worker_that_dies_while_it_feeds_a_batch(stages: list[Stage]) -> None:
    """Killed after a line has become a job, and after a page of lines: every line is one job in the end."""
    stage = stages[-1]
    prompts = [f"line {number} of a batch" for number in range(3)]
    lines = "\n".join(json.dumps({"prompt": each, "model": CLASS_A, "size": "256x256"}) for each in prompts)
    files = Files(stage.database, max_bytes=2**20, max_line_bytes=2**16, keep_days=1, max_count=9, max_kept_bytes=2**21)
    file = files.keep(stage.customer.account_id, io.BytesIO(lines.encode()))
    with stage.database.transaction() as connection:
        new = NewBatch("native", file.id, "1h", window_s=3600)
        batch = moves.create(connection, stage.customer.account_id, stage.customer.key_id, new)
    assert stage.worker_dies_at("batch.submitted") == -signal.SIGKILL
    stage.sql("UPDATE batches SET due_at = clock_timestamp()")  # its lease is over
    assert stage.worker_dies_at("batch.advanced") == -signal.SIGKILL
    stage.sql("UPDATE batches SET due_at = clock_timestamp()")
    ended = "SELECT 1 FROM batches WHERE id = :id AND status = 'completed'"
    with stage.process("workers"):
        until(lambda: stage.rows(ended, id=batch.id), 60, lambda: stage.rows("SELECT * FROM batches"))
    made = "SELECT request ->> 'prompt' AS prompt FROM orders WHERE request ->> 'prompt' LIKE '%of a batch'"
    assert sorted(row.prompt for row in stage.rows(made)) == prompts
