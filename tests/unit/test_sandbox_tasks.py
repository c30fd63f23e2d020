"""Tasks of the emulators: states by the clock, scripted courses, breaking off, retention, and who finds them."""

from dataclasses import dataclass

import pytest

from sandbox.drawing.images import Recipe
from sandbox.faults import Script
from sandbox.markers import parse
from sandbox.plumbing.tasks import Ending, ResultFile, Task, TaskStore
from sandbox.settings import Settings
from sandbox.state import Clock, State

DONE, FAILED = Ending("done"), Ending("failed", "it broke")


@dataclass(kw_only=True)
class Job(Task[Ending]):
    stages = ((0.0, "waiting"), (0.25, "working"))


class JobStore(TaskStore[Job]):
    def interrupted(self, task: Job) -> Ending:
        return Ending("failed", f"{task.number} was interrupted")


@pytest.fixture
def clock() -> Clock:
    return Clock(lambda: 1000.0)


@pytest.fixture
def store(clock) -> JobStore:
    return JobStore(State(Settings(), clock))


def job(faults: str = "", *, number: str = "a", owner: str = "me", kept_s: float = 50.0, lasts_s: float = 10.0) -> Job:
    return Job(
        number=number,
        owner=owner,
        prompt="a kite",
        fate=Script(parse(faults)),
        ending=DONE,
        created_s=1000.0,
        lasts_s=lasts_s,
        kept_s=kept_s,
        flips_to=FAILED,
    )


def course(task: Job, *moments: float) -> list[str]:
    return [task.standing(1000.0 + moment).shown for moment in moments]


def test_the_state_follows_from_the_clock():
    assert course(job(), 0, 2.4, 2.5, 9.9, 10, 99) == ["waiting", "waiting", "working", "working", "done", "done"]
    standing = job().standing(1005.0)
    assert (standing.share, standing.since_s, standing.is_over) == (0.5, 1002.5, False)
    over = job().standing(1012.0)
    assert (over.share, over.since_s, over.ending) == (1.0, 1010.0, DONE)


def test_before_it_began_and_with_no_time_at_all():
    assert course(job(lasts_s=0), -1, 0) == ["waiting", "done"]
    assert job("never", lasts_s=0).standing(1000.0).share == 1.0


def test_a_task_that_never_ends():
    task = job("never")
    assert course(task, 0, 10, 1e9) == ["waiting", "working", "working"]
    assert not task.is_over(1e12)
    assert not task.is_gone(1e12)


def test_a_task_may_fall_back_and_a_success_may_flip():
    assert course(job("backwards"), 5, 6, 7.9, 8, 10) == ["working", "waiting", "waiting", "working", "done"]
    flipped = job("flip")
    assert course(flipped, 10, 10.9, 11) == ["done", "done", "failed"]
    assert flipped.standing(1011.0).ending == FAILED
    assert flipped.done_s == 1010.0


def test_a_word_stands_for_the_states_at_work_alone():
    task = job("word=musing")
    assert course(task, 0, 5, 10) == ["musing", "musing", "done"]
    assert task.standing(1005.0).status == "working"


def test_breaking_off_ends_it_once():
    task = job()
    assert task.break_off(1001.0, Ending("cancelled"))
    assert course(task, 0.5, 1, 20) == ["waiting", "cancelled", "cancelled"]
    assert (task.done_s, task.began_s("working")) == (1001.0, None)
    assert not task.break_off(1002.0, FAILED)
    assert not job().break_off(1010.0, FAILED)


def test_a_break_can_be_set_for_later_and_another_may_come_first():
    task = job()
    task.broken_off = 1006.0, Ending("aborted")
    assert course(task, 5, 6, 10) == ["working", "aborted", "aborted"]
    assert task.break_off(1003.0, Ending("cancelled"))
    assert course(task, 3, 6) == ["cancelled", "cancelled"]


def test_a_finished_task_is_kept_for_its_time():
    assert [job().is_gone(1000.0 + moment) for moment in (10, 59.9, 60)] == [False, False, True]
    assert [job("never, expire", kept_s=0).is_gone(1000.0 + moment) for moment in (9.9, 10)] == [False, True]


def test_a_store_finds_for_the_owner_and_until_it_expires(store, clock):
    store.put(job())
    assert (store.find("me", "a").number, store.find("you", "a"), store.find("me", "b")) == ("a", None, None)
    assert store.find_any("a").owner == "me"
    clock.advance(60)
    assert (store.find("me", "a"), store.find_any("a"), store.all_of("me")) == (None, None, [])


def test_a_store_lists_the_latest_first_and_what_is_unfinished(store, clock):
    for number in "abc":
        store.put(job(number=number, owner="you" if number == "b" else "me", lasts_s=5 if number == "c" else 10))
    assert [task.number for task in store.all_of("me")] == ["c", "a"]
    clock.advance(7)
    assert [task.number for task in store.unfinished()] == ["a", "b"]


def test_a_restart_breaks_off_the_unfinished(store, clock):
    store.put(job(number="short", lasts_s=1))
    store.put(job(number="long"))
    clock.advance(2)
    assert (store.restart(), store.restart()) == (1, 0)
    assert store.find("me", "long").standing(store.now()).ending.error == "long was interrupted"
    assert store.find("me", "short").standing(store.now()).ending == DONE


def test_a_new_task_has_its_course_from_its_outcome(store):
    fate = Script(parse("latency=3, expire=7"))
    task = store.start(Job, number="a", prompt="a kite", fate=fate, ending=DONE, retention_s=50)
    assert (task.owner, task.created_s, task.lasts_s, task.kept_s) == ("", 1000.0, 3.0, 7.0)
    assert store.find_any("a") is task
    other = store.start(
        Job, number="b", prompt="a kite", fate=Script(), ending=DONE, retention_s=50, owner="me", lasts_s=0.5
    )
    assert (other.owner, other.lasts_s, other.kept_s) == ("me", 0.5, 50)


def test_a_store_may_lose_its_tasks(store):
    store.put(job(number="done", lasts_s=0))
    store.put(job(number="at work"))
    assert (store.lose_all(), store.find("me", "done"), store.unfinished()) == (1, None, [])


def test_a_known_number_is_not_made_again_while_it_lives(store, clock):
    assert store.add("me", "a", job)[1]
    first = store.find("me", "a")
    assert store.add("me", "a", job) == (first, False)
    clock.advance(60)
    assert store.add("me", "a", lambda: job(kept_s=1000))[1]


def test_numbers_count_up_until_a_reset(store):
    assert [store.next_count(), store.next_count()] == [1, 2]
    store.put(job())
    store.clear()
    assert (store.next_count(), store.find("me", "a")) == (1, None)


def test_a_file_is_there_from_a_moment_to_another(store, clock):
    store.files.put("x.png", ResultFile(Recipe("x", "m", 8, 8), from_s=1005.0, until_s=1010.0))
    assert store.file("x.png") is None
    clock.advance(5)
    assert store.file("x.png") is not None
    clock.advance(5)
    assert store.file("x.png") is None


def test_an_emulator_has_to_say_how_a_restart_ends_its_tasks():
    bare: TaskStore[Job] = TaskStore(State(Settings(), Clock(lambda: 1000.0)))
    bare.put(job())
    with pytest.raises(NotImplementedError):
        bare.restart()
