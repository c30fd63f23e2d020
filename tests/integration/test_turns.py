"""Shares of a provider: how the windows of busy accounts add up, and whose job is next where permits are few.

Nothing is timed: published jobs are counted, and the order in which permits are given out is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from job_engine import Engine
from sqlalchemy import text

from accounts.keys import Caller
from bench.simulation import Queue
from jobs.dispatch import publishing, refill
from jobs.dispatch.publishing import Pair, ShareBy
from jobs.execution import claim
from jobs.submission.service import SubmissionService

PROVIDER = "chatgpt2api"
WINDOW = 4


@pytest.fixture
def submission(submission: SubmissionService) -> SubmissionService:
    submission._publish_window = WINDOW
    return submission


@pytest.fixture
def engine(engine: Engine) -> Engine:
    object.__setattr__(engine.context, "publish_window", WINDOW)
    return engine


CLAIM_FIRST = text("""
UPDATE jobs SET status = 'cancelled', money = 'settled', finished_at = clock_timestamp()
WHERE id = (SELECT id FROM jobs WHERE status = 'queued' AND published_at IS NOT NULL ORDER BY published_at, id LIMIT 1)
RETURNING account_id
""")


def queue(engine: Engine, customer: Caller, count: int, *, n: int = 1, unit_price: int = 0) -> None:
    """Insert ``count`` queued jobs of one account, unpublished and due."""
    engine.sql(
        """
        INSERT INTO jobs (id, account_id, weight, operation, model, provider, n, status, money, unit_price, quoted,
            start_deadline_at)
        SELECT 'job_' || right(md5(:a || :price || i), 26), :a, :weight, 'generate', 'm', :provider, :n, 'queued',
            'queued', :price, 0, clock_timestamp() + interval '1 hour'
        FROM generate_series(1, :count) AS i
        """,
        a=customer.account_id,
        weight=customer.weight,
        provider=PROVIDER,
        count=count,
        n=n,
        price=unit_price,
    )


def published(engine: Engine) -> Counter[str]:
    """Return how many jobs of each account are published and not claimed."""
    return Counter(
        row.account_id
        for row in engine.rows("SELECT account_id FROM jobs WHERE status = 'queued' AND published_at IS NOT NULL")
    )


def sweep_round(engine: Engine, *, most: int = 500, window: int = WINDOW, share_by: ShareBy = "jobs") -> int:
    """Publish as the sweep does; return how many."""
    with engine.database.transaction() as connection:
        return len(refill.refill(connection, window=window, most=most, share_by=share_by))


def serve(engine: Engine, rounds: int, *, share_by: ShareBy = "jobs") -> list[str]:
    """Return whose jobs got the permits, in order; each ends before the next round."""
    served: list[str] = []
    for _ in range(rounds):
        with engine.database.transaction() as connection:
            refill.refill_limited(connection, window=WINDOW, share_by=share_by)
        served += [
            row.account_id
            for row in engine.rows(
                "UPDATE jobs SET status = 'cancelled', money = 'settled', finished_at = clock_timestamp()"
                " WHERE status = 'queued' AND published_at IS NOT NULL RETURNING account_id"
            )
        ]
    return served


# ------------------------------------------------------------------ windows


def test_windows_are_counted_as_the_simulation_counts_them(engine: Engine, account: Caller) -> None:
    """Submits of three accounts in turns, then claims in the order of the queue: the same places at every step."""
    customers = [account, engine.account(weight=3), engine.account()]
    number = {customer.account_id: place for place, customer in enumerate(customers)}
    model = Queue(WINDOW, claims_per_s=1)

    def agree() -> None:
        counted = published(engine)
        assert [counted[each.account_id] for each in customers] == [
            model.accounts[place].published if place in model.accounts else 0 for place in range(3)
        ]

    for place, customer, count in [(0, customers[0], 7), (1, customers[1], 9), (2, customers[2], 5)]:
        for one in range(count):
            engine.order(customer, f"{place} {one}", publish=False)
            model.submit(place, 1, weight=customer.weight)
            agree()
    for _ in range(12):
        # Those of one claim are published at the same time, and belong to one account.
        first = engine.rows(
            "SELECT id, account_id FROM jobs WHERE status = 'queued' AND published_at IS NOT NULL"
            " ORDER BY published_at, id LIMIT 1"
        )[0]
        assert isinstance(claim.claim(engine.context, first.id), claim.Claimed)
        assert model.claim() == number[first.account_id]
        agree()


def test_many_busy_accounts_have_one_message_each_and_a_newcomer_is_behind_one_job_of_each(engine: Engine) -> None:
    crowd = [engine.account() for _ in range(40)]
    for each in crowd:
        queue(engine, each, 3)
    while sweep_round(engine):
        pass
    assert set(published(engine).values()) == {1}
    newcomer = engine.account()
    assert len(engine.order(newcomer, "first", publish=False).nudges) == 1
    assert engine.order(newcomer, "second", publish=False).nudges == []


def test_a_lone_account_has_its_whole_window_whatever_its_jobs_cost(engine: Engine, account: Caller) -> None:
    for unit_price in (100_000, 7_000_000, 30_000_000):
        queue(engine, account, 3, n=2, unit_price=unit_price)
    sweep_round(engine, share_by="price")
    for _ in range(3):
        sweep_round(engine, share_by="price")
    assert published(engine)[account.account_id] == WINDOW


@pytest.mark.parametrize(("share_by", "ratio"), [("jobs", 1), ("images", 2), ("price", 6)])
def test_a_window_counts_jobs_images_or_their_price(
    engine: Engine, account: Caller, share_by: ShareBy, ratio: int
) -> None:
    """Both always have more, and the queue is claimed in its order; one orders two images at three times the price."""
    dear, cheap = account, engine.account()
    queue(engine, dear, 150, n=2, unit_price=3_000_000)
    queue(engine, cheap, 150, n=1, unit_price=1_000_000)
    claimed: list[str] = []
    with engine.database.autocommit() as connection:
        for each in (dear, cheap):
            publishing.fill(connection, each.account_id, PROVIDER, 1, window=16, share_by=share_by)
        for _ in range(140):
            claimed.append(connection.execute(CLAIM_FIRST).scalar_one())
            publishing.fill(connection, claimed[-1], PROVIDER, 1, window=16, most=4, share_by=share_by)
    counted = Counter(claimed[40:])
    assert counted[cheap.account_id] / counted[dear.account_id] == pytest.approx(ratio, rel=0.15)


def test_the_sweep_tops_up_windows_where_it_stopped_the_round_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "TOPPED_UP_AT_MOST", 3)
    pairs = [Pair(f"acct_{number}", PROVIDER, 1, 1.0, 1, 0.0, True) for number in range(7)]
    with engine.database.autocommit() as connection:
        rounds = [[each.account_id[-1] for each in refill._next_to_top_up(connection, pairs)] for _ in range(3)]
    assert rounds == [["0", "1", "2"], ["3", "4", "5"], ["6", "0", "1"]]


# ------------------------------------------------------------------ few permits


def test_weights_hold_where_permits_come_free_one_at_a_time(engine: Engine) -> None:
    engine.limit(PROVIDER, max_active=1)
    heavy, light = engine.account(weight=3), engine.account()
    for each in (heavy, light):
        queue(engine, each, 40)
    served = Counter(serve(engine, 40))
    assert (served[heavy.account_id], served[light.account_id]) == (30, 10)


def test_no_account_has_a_second_turn_before_each_had_one(engine: Engine) -> None:
    engine.limit(PROVIDER, max_active=2)
    crowd = [engine.account() for _ in range(30)]
    for each in crowd:
        queue(engine, each, 3)
    served = serve(engine, 30)
    assert Counter(served[:30]) == Counter({each.account_id: 1 for each in crowd})
    assert Counter(served) == Counter({each.account_id: 2 for each in crowd})


def test_a_newcomer_waits_for_one_job_of_each_other_at_most(engine: Engine) -> None:
    engine.limit(PROVIDER, max_active=1)
    for each in [engine.account() for _ in range(10)]:
        queue(engine, each, 6)
    serve(engine, 25)
    newcomer = engine.account()
    queue(engine, newcomer, 2)
    served = serve(engine, 21)
    first = served.index(newcomer.account_id)
    assert first <= 10
    assert 8 <= served[first + 1 :].index(newcomer.account_id) <= 10


def test_next_to_a_flood_a_single_job_waits_for_one_of_the_others_at_most(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=1)
    queue(engine, account, 60)
    for _ in range(5):
        serve(engine, 4)
        one = engine.account()
        queue(engine, one, 1)
        assert one.account_id in serve(engine, 2)


def test_an_account_that_was_away_is_owed_nothing(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=1)
    busy = engine.account()
    queue(engine, account, 1)
    queue(engine, busy, 60)
    serve(engine, 31)
    queue(engine, account, 20, unit_price=1)
    assert Counter(serve(engine, 10))[account.account_id] == 5


@pytest.mark.parametrize(("share_by", "share"), [("jobs", 20), ("images", 10), ("price", 4)])
def test_turns_count_jobs_images_or_their_price(engine: Engine, account: Caller, share_by: ShareBy, share: int) -> None:
    """Of 40 permits; one orders three images at three times the price of the other's one."""
    engine.limit(PROVIDER, max_active=1)
    queue(engine, account, 40, n=3, unit_price=3_000_000)
    queue(engine, engine.account(), 40, n=1, unit_price=1_000_000)
    assert Counter(serve(engine, 40, share_by=share_by))[account.account_id] == share


def test_accounts_without_a_due_job_leave_their_places_to_others(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=3)
    queue(engine, account, 5)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() + interval '1 hour'")
    other = engine.account()
    queue(engine, other, 5)
    assert serve(engine, 1) == [other.account_id] * 3


def test_a_new_order_takes_its_turn_with_those_that_wait_for_a_permit(engine: Engine, account: Caller) -> None:
    """The submits of a flood would take each permit that comes free before turns are given."""
    engine.limit(PROVIDER, max_active=1)
    assert len(engine.order(account, "no one waits", publish=False).nudges) == 1
    waiting = engine.account()
    queue(engine, waiting, 1)
    assert engine.order(account, "one waits", publish=False).nudges == []
    engine.sql("UPDATE jobs SET published_at = NULL")
    engine.limit(PROVIDER)
    assert len(engine.order(account, "there is no limit", publish=False).nudges) == 1


def test_a_closed_provider_keeps_no_order_from_its_next_model(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=1)
    queue(engine, account, 1)
    engine.sql("INSERT INTO providers (name) VALUES (:p) ON CONFLICT DO NOTHING", p=PROVIDER)
    engine.sql("UPDATE providers SET paused_at = clock_timestamp() WHERE name = :p", p=PROVIDER)
    assert len(engine.order(engine.account(), "it may fail over", publish=False).nudges) == 1


def test_permits_are_given_out_by_one_process_at_a_time(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=5)
    queue(engine, account, 5)
    with engine.database.transaction() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": refill.TURNS_LOCK})
        assert serve(engine, 1) == []
    assert len(serve(engine, 1)) == WINDOW


def test_turns_of_a_day_ago_are_forgotten(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=1)
    queue(engine, account, 1)
    serve(engine, 1)
    engine.sql("UPDATE dispatch_turns SET at = at - interval '25 hours'")
    sweep_round(engine)
    kept: Sequence[str] = [row.account_id for row in engine.rows("SELECT account_id FROM dispatch_turns ORDER BY 1")]
    assert kept == [""]  # the provider's own time
