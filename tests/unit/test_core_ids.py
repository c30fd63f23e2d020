from __future__ import annotations

import re

import pytest

from core import ids
from core.ids import as_uuid, is_id, new_id, of_uuid


def test_an_id_names_its_kind_and_is_26_characters() -> None:
    assert re.fullmatch(r"job_[0-9A-HJKMNP-TV-Z]{26}", new_id("job"))
    assert is_id(new_id("job"), "job")


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_700_000_000_000_000_000, 1_900_000_000_000_000_000, 7_000_000_123_456_789))
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(clock))
    made = [new_id("job") for _ in range(20)]
    assert made == sorted(made)


def test_ids_do_not_repeat() -> None:
    assert len({new_id("job") for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job",
        "job_",
        "job_" + "0" * 25,
        "job_" + "0" * 27,
        "job_" + "I" * 26,
        "job_" + "a" * 26,
        "acct_" + "0" * 26,
        "job_" + "0" * 26 + "\n",
        "job_" + "0" * 25 + "\0",
        " job_" + "0" * 26,
    ],
)
def test_what_is_none_of_ours_is_told_without_asking(text: str) -> None:
    assert not is_id(text, "job")


def test_ids_of_one_process_sort_in_the_order_in_which_they_were_made() -> None:
    made = [new_id("job") for _ in range(5000)]  # many to a millisecond
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_id_is_a_uuid_and_back() -> None:
    for made in (new_id("job"), "job_" + "0" * 26, "job_7" + "Z" * 25):
        assert of_uuid("job", as_uuid(made)) == made
    assert as_uuid("job_00000000000000000000000021").int == 65
