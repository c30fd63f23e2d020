"""An SDK that repeats its own request without a key joins its first attempt; two equal orders stay two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from accounts.keys import Caller
from jobs.submission.idempotency import of_sdk_attempt
from jobs.submission.order import Order
from jobs.submission.service import SubmissionService

FIELDS = {"prompt": "a fox", "size": "256x256"}
BODY = b"\x01" * 32


def submit(
    submission: SubmissionService, account: Caller, retry_count: int, *, key_id: str = "k1", body: bytes = BODY
) -> str:
    attempt = of_sdk_attempt(key_id, body, retry_count)
    return submission.submit(account, Order("generate", FIELDS), key=attempt).task.id


def test_a_counted_retry_joins_the_first_attempt(submission: SubmissionService, account: Caller) -> None:
    first = submit(submission, account, 0)
    assert [submit(submission, account, count) for count in (1, 2)] == [first, first]


def test_two_first_attempts_of_the_same_order_are_two_jobs(submission: SubmissionService, account: Caller) -> None:
    one, two = submit(submission, account, 0), submit(submission, account, 0)
    assert one != two
    assert submit(submission, account, 1) == two


def test_a_retry_of_another_key_or_another_body_is_its_own_job(submission: SubmissionService, account: Caller) -> None:
    first = submit(submission, account, 0)
    assert submit(submission, account, 1, key_id="k2") != first
    assert submit(submission, account, 1, body=b"\x02" * 32) != first


def test_a_retry_whose_first_attempt_never_arrived_is_accepted_once(
    submission: SubmissionService, account: Caller
) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: submit(submission, account, 1), range(8)))
    assert len(ids) == 1
