"""An SDK that repeats its own request without a key joins its first attempt; two equal orders stay two."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_engine import Engine

from accounts.keys import Caller
from core.db import Database
from jobs.maintenance.retention import delete_old_repeats
from jobs.submission import sdk_attempts
from jobs.submission.order import Order
from jobs.submission.sdk_attempts import SdkAttempt
from jobs.submission.service import SubmissionService

Submit = Callable[..., str]
FIELDS = {"prompt": "a fox", "size": "256x256"}
ONE, OTHER = b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def submit(submission: SubmissionService, account: Caller) -> Submit:
    def submit(retry_count: int, fingerprint: bytes = ONE) -> str:
        attempt = SdkAttempt(fingerprint, retry_count)
        return submission.submit(account, Order("generate", FIELDS), key=attempt).task.id

    return submit


def test_retries_follow_their_first_attempt_one_by_one(submit: Submit) -> None:
    first = submit(0)
    assert [submit(1), submit(2)] == [first, first]


def test_two_equal_first_attempts_are_two_jobs_and_each_has_its_own_retries(submit: Submit) -> None:
    firsts = [submit(0), submit(0)]
    assert firsts[0] != firsts[1]
    assert [submit(1), submit(1)] == firsts
    assert sorted([submit(2), submit(2)]) == sorted(firsts)


def test_a_job_is_joined_once_for_each_count(submit: Submit) -> None:
    first = submit(0)
    assert submit(1) == first
    second = submit(1)
    assert second != first
    assert [submit(2), submit(2)] == [first, second]
    assert submit(2) not in (first, second)


def test_attempts_that_never_arrived_are_passed_over(submit: Submit) -> None:
    """No web process listens for a moment after a kill -9: the SDK counts on all the same."""
    first = submit(0)
    assert submit(3) == first


def test_a_job_without_a_gap_is_joined_before_one_with_a_gap(submit: Submit) -> None:
    firsts = [submit(0), submit(0)]
    assert submit(1) == firsts[0]
    assert [submit(2), submit(2)] == firsts


def test_another_fingerprint_joins_nothing(submit: Submit) -> None:
    assert submit(0) != submit(1, OTHER)


def test_a_job_whose_answer_went_out_is_not_joined(submit: Submit, database: Database) -> None:
    answered, lost = submit(0), submit(0)
    with database.autocommit() as connection:
        sdk_attempts.answered(connection, answered)
    assert submit(1) == lost
    assert submit(1) not in (answered, lost)


def test_nothing_is_joined_after_a_quarter_of_an_hour(submit: Submit, engine: Engine) -> None:
    first, later = submit(0), submit(0, OTHER)
    engine.sql("UPDATE sdk_attempts SET created_at = created_at - interval '840 seconds'")
    assert submit(1, OTHER) == later
    engine.sql("UPDATE sdk_attempts SET created_at = created_at - interval '61 seconds'")
    assert submit(1) != first


def test_the_same_fingerprint_of_another_account_joins_nothing(
    submit: Submit, submission: SubmissionService, engine: Engine
) -> None:
    first = submit(0)
    attempt = SdkAttempt(ONE, 1)
    assert submission.submit(engine.account(), Order("generate", FIELDS), key=attempt).task.id != first


def test_of_retries_at_the_same_moment_one_joins_and_the_others_are_orders(submit: Submit) -> None:
    first = submit(0)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: submit(1), range(8)))
    assert ids.count(first) == 1
    assert len(set(ids)) == 8


def test_old_attempts_are_deleted(submit: Submit, engine: Engine, database: Database) -> None:
    submit(0), submit(0, OTHER)
    engine.sql(
        "UPDATE sdk_attempts SET created_at = created_at - interval '61 minutes' WHERE fingerprint = '\\x"
        + "02" * 32
        + "'"
    )
    with database.autocommit() as connection:
        assert delete_old_repeats(connection, "sdk_attempts", after=None, size=10)[0] == 1
    assert engine.one("SELECT count(*) FROM sdk_attempts") == 1
