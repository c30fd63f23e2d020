"""The benchmark's own sums: what is compared with what, and what counts as a miss. Nothing is timed."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from bench import cost, estimates, flood, growth, life, load, rounds, seed, sql_log, table
from bench.cost import Cost
from bench.rounds import Round
from bench.table import Bound, Row

AT_LEAST_HALF = Bound("ratio", at_least=0.5)


def a_round(per_core: float) -> Round:
    return Round(per_core=per_core, rate=1.0, p50_ms=1.0, p95_ms=1.0)


@pytest.mark.parametrize(("ours", "verdict"), [(50.0, "pass"), (49.0, "miss")])
def test_a_ratio_is_judged_against_the_baseline_of_the_same_row(ours: float, verdict: str) -> None:
    row = Row("x", "/s", ours, baseline=100.0, bound=AT_LEAST_HALF)

    assert (row.ratio, row.verdict) == (ours / 100, verdict)


def test_a_bound_from_above_judges_our_own_figure() -> None:
    assert Row("x", "s", 0.3, bound=Bound("ours", at_most=0.3)).verdict == "pass"
    assert Row("x", "s", 0.31, bound=Bound("ours", at_most=0.3)).verdict == "miss"


def test_information_is_no_promise() -> None:
    assert Row("x", "/s", 1.0, bound=Bound("ours", at_least=60.0, binding=False)).verdict == ""
    assert Row("x", "/s", 1.0).verdict == ""
    assert Row("x", "/s", 1.0, bound=AT_LEAST_HALF).verdict == ""  # nothing to compare with


def test_table_and_json_say_the_same() -> None:
    row = Row("status read", "/s", 40.0, 100.0, "bare floor", AT_LEAST_HALF, {"rounds": [1, 2]})
    printed = io.StringIO()
    table.show([row], Console(file=printed, width=160))
    [plain] = json.loads(table.as_json([row]))

    for said in ("status read", "40.0 /s", "100 bare floor", "0.40", "ratio ≥ 0.5", "miss"):
        assert said in printed.getvalue()
    assert (plain["ratio"], plain["verdict"], plain["rounds"]) == (0.4, "miss", [1, 2])


def test_contenders_take_turns_and_the_median_forgives_one_bad_round() -> None:
    order: list[str] = []
    figures = iter([10.0, 1.0, 30.0, 2.0, 20.0, 3.0])

    def contender(name: str) -> Round:
        order.append(name)
        return a_round(next(figures))

    done = rounds.take_turns({"a": lambda: contender("a"), "b": lambda: contender("b")}, 3)

    assert order == ["a", "b"] * 3
    assert (rounds.median(done["a"], "per_core"), rounds.median(done["b"], "per_core")) == (20.0, 2.0)


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.95, 10), (0.0, 1), (1.0, 10)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    assert rounds.percentile([float(n) for n in range(10, 0, -1)], share) == value


def test_costs_are_per_job_with_the_clocks_share_taken_off() -> None:
    idle = Cost(seconds=5.0, statements=50, commits=25, messages=0)  # 10 statements and 5 commits a second
    busy = Cost(seconds=2.0, statements=20 + 150, commits=10 + 50, messages=30)

    assert cost.per_life(idle, busy, jobs=10) == {"statements": 15.0, "commits": 5.0, "messages": 3.0}


def test_a_life_alone_is_the_typical_one_not_the_one_that_met_a_clock() -> None:
    lives = [{"statements": 5.0}, {"statements": 5.0}, {"statements": 35.0}]

    assert cost.typical(lives) == {"statements": 5.0}


LOG = """\
bench|worker|7|LOG:  execute _pg3_1: WITH seen AS (
\t    SELECT 1
\t)
\tSELECT 2
bench|clock|9|LOG:  statement: SELECT 3
bench|worker|7|LOG:  statement: BEGIN
bench|worker|7|LOG:  execute <unnamed>: UPDATE jobs SET due_at = $1
LOG:  checkpoint starting: time
bench|worker|8|LOG:  statement: BEGIN
bench|worker|8|LOG:  statement: SELECT 4
bench|worker|7|LOG:  statement: COMMIT
bench|worker|8|LOG:  statement: ROLLBACK
bench|worker|8|ERROR:  canceling statement due to lock timeout
""".splitlines()


def test_the_servers_log_is_read_by_whole_statements() -> None:
    asked = [(each.application, each.session, each.sql) for each in sql_log.parse(LOG)]

    assert asked[:2] == [("worker", 7, "WITH seen AS ( SELECT 1 ) SELECT 2"), ("clock", 9, "SELECT 3")]
    assert [sql for _, _, sql in asked[2:]] == [
        "BEGIN",
        "UPDATE jobs SET due_at = $1",
        "BEGIN",
        "SELECT 4",
        "COMMIT",
        "ROLLBACK",
    ]


def test_a_statement_alone_is_a_commit_of_its_own_and_a_transaction_is_one() -> None:
    bill = sql_log.bill(each for each in sql_log.parse(LOG) if each.application == "worker")

    # The CTE alone; the UPDATE in a transaction; the SELECT in one that was rolled back.
    assert (bill.statements.total(), bill.commits) == (3, 2)


def test_the_worst_queue_is_the_longest_for_the_jobs_that_lived_then() -> None:
    samples = [flood.Sample("a", 300, 400), flood.Sample("b", 40, 20), flood.Sample("c", 0, 0)]

    assert flood.worst_queue(samples) == samples[1]


def test_a_quiet_accounts_parts_are_ranked_each_by_itself() -> None:
    lived = [flood.Life(1.0 + n, n, 0.0, 1.0, 9.0 - n) for n in range(10)]

    assert flood.p95(lived) == {"whole_s": 10.0, "queued_s": 9, "called_s": 0.0, "found_s": 1.0, "kept_s": 9.0}


def test_growth_is_judged_relative_to_the_floor_of_the_same_moment() -> None:
    turns = {"ours": [a_round(1.0)] * 3, "floor": [replace(a_round(1.0), rate=4.0)] * 3}

    assert growth.of_floor(turns) == 0.25


def test_own_delay_begins_with_the_first_look_after_the_work_was_done() -> None:
    log = [
        {"at": 100.0, "fields": {"client_task_id": "dr-1"}},
        {"at": 100.2, "query": {"ids": "dr-1,dr-2"}},  # too early: done at 100.5
        {"at": 101.0, "query": {"ids": "dr-2,dr-1"}},
        {"at": 103.0, "query": {"ids": "dr-1"}},
    ]

    told, done = life.delays({"dr-1": 101.25, "unknown": 5.0}, log, latency_s=0.5)

    assert (told, done) == ([0.25], [0.75])


def test_a_request_goes_over_the_wire_with_its_length_in_bytes() -> None:
    head, _, body = load.request("POST", "/x", key="k", body={"prompt": "ü"}).partition("\r\n\r\n")

    assert head.splitlines()[0] == "POST /x HTTP/1.1"
    assert f"Content-Length: {len(body.encode())}" in head
    assert "Authorization: Bearer k" in head


def test_an_answers_length_is_found_whatever_its_case() -> None:
    assert load.content_length(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 17\r\nX: y") == 17
    with pytest.raises(ValueError, match="Content-Length"):
        load.content_length(b"HTTP/1.1 200 OK\r\nX: y")


def test_seeded_jobs_belong_to_the_accounts_in_turn() -> None:
    assert [seed.owner(["a", "b", "c"], f"job_{number:026d}") for number in (0, 4, 20_000)] == ["a", "b", "c"]


def test_a_told_wait_holds_when_the_job_started_within_it() -> None:
    waits = [{"p50": 1.0, "p90": 2.0}, {"p50": 1.0, "p90": 2.0}, {"p50": 1.0, "p90": 2.0}, None]
    told = [
        estimates.estimate_of({"wait_estimate_s": wait}, waited_s)
        for wait, waited_s in zip(waits, (0.5, 2.0, 2.1, 9.0), strict=True)
    ]

    assert [round(estimates.held(told, which)) for which in ("p50_s", "p90_s")] == [33, 67]  # null tells nothing
    assert estimates.held(told[3:], "p90_s") == 0
