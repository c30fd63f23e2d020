"""The language of faults, when they fire, and the bounded store beneath."""

import ast
from pathlib import Path

import pytest

import sandbox
from sandbox.bounded import BoundedStore
from sandbox.faults import FaultBook, Occasion
from sandbox.markers import UnknownFault, faults_in, parse, without_markers


def fires(book, prompt="", place="submit", key="k", provider="chatgpt2api"):
    return [fault.name for fault in book.script(Occasion(provider, place, prompt, key)).faults]


def test_a_marker_is_read_with_values_and_options():
    limit, slow = faults_in("a kite [sandbox:429 retry_after=3 times=2, latency=2.5] at sea")
    assert (limit.status, dict(limit.options)) == (429, {"retry_after": "3", "times": "2"})
    assert (slow.name, slow.number(0)) == ("latency", 2.5)
    assert without_markers("a kite [sandbox:429 times=2]  at sea") == "a kite at sea"


def test_a_prompt_without_a_marker_has_no_faults_whatever_its_brackets():
    assert faults_in("a sign saying [closed]") == ()


@pytest.mark.parametrize(
    "text",
    ["explode", "429 often=2", "500 times=many", "drop now", "500 at=lunch", "fail at=check", "latency=soon"],
)
def test_nonsense_is_refused_rather_than_ignored(text):
    with pytest.raises(UnknownFault):
        parse(text)


def test_times_counts_per_prompt_so_that_a_retry_under_a_new_key_succeeds():
    book, prompt = FaultBook(), "x [sandbox:500 times=2]"
    assert [fires(book, prompt, key=key) for key in "abc"] == [["500"], ["500"], []]
    assert fires(book, prompt + " other") == ["500"]


def test_times_can_count_per_key_and_skip_the_first():
    book = FaultBook()
    per_key = "x [sandbox:drop times=1 per=key]"
    assert [fires(book, per_key, key=key) for key in "aabb"] == [["drop"], [], ["drop"], []]
    later = "y [sandbox:drop times=1 skip=1]"
    assert [fires(book, later) for _ in range(3)] == [[], ["drop"], []]


def test_each_fault_fires_in_its_own_place():
    book, prompt = FaultBook(), "x [sandbox:hang at=check, truncated, refuse, crlf, garbage at=download]"
    assert fires(book, prompt, "submit") == ["refuse"]
    assert fires(book, prompt, "outcome") == ["truncated"]
    assert fires(book, prompt, "check") == ["hang"]
    assert fires(book, prompt, "download") == ["garbage"]
    assert fires(book, prompt, "chat") == ["refuse", "crlf"]


def test_what_comes_before_acceptance_is_told_apart_from_what_comes_after():
    book = FaultBook()
    script = book.script(Occasion("openai", "submit", "x [sandbox:503]"))
    assert script.refusal and not script.spoiler
    script = book.script(Occasion("openai", "submit", "x [sandbox:503 accept=1]"))
    assert script.spoiler and not script.refusal
    assert book.script(Occasion("openai", "submit", "x [sandbox:drop]")).spoiler
    assert book.script(Occasion("openai", "submit", "x [sandbox:drop accept=0]")).refusal


def test_a_rule_is_narrowed_by_provider_route_prompt_and_count():
    book = FaultBook()
    rule = book.add(parse("500"), provider="openai", route="check", prompt_contains="kite", count=1)
    assert fires(book, "a kite", "check") == []
    assert fires(book, "a boat", "check", provider="openai") == []
    assert fires(book, "a kite", "submit", provider="openai") == []
    assert [fires(book, "a kite", "check", provider="openai") for _ in range(2)] == [["500"], []]
    assert rule.describe()["fired"] == 1
    assert book.remove(rule.number)
    assert not book.remove(rule.number)


def test_a_rule_with_a_probability_repeats_itself_with_its_seed():
    def run(seed):
        book = FaultBook()
        book.add(parse("500"), probability=0.5, seed=seed)
        return [fires(book) for _ in range(50)]

    assert run(1) == run(1) != run(2)
    assert 10 < sum(map(len, run(1))) < 40


def test_a_rule_may_decide_the_outcome():
    book = FaultBook()
    book.add(parse("truncated"), route="submit", count=1)
    assert fires(book, place="submit") == []
    assert fires(book, place="outcome") == ["truncated"]


def test_the_store_forgets_its_oldest():
    dropped = []
    store = BoundedStore(items_max=2, on_drop=lambda key, value: dropped.append((key, value)))
    for key in "abc":
        store.put(key, key.upper())
    assert (len(store), store.get("a"), store.values()) == (2, None, ["B", "C"])
    assert dropped == [("a", "A")]


def test_the_store_is_bounded_by_size_too_and_keeps_at_least_one():
    store = BoundedStore(items_max=10, size_max=5, size_of=len)
    store.put("a", "xxxx")
    store.put("b", "yyyy")
    store.put("c", "z" * 9)
    assert store.values() == ["z" * 9]


def test_the_store_makes_a_value_once():
    store = BoundedStore(items_max=10)
    assert store.add("a", lambda: 1) == (1, True)
    assert store.add("a", lambda: 2) == (1, False)


def test_the_sandbox_shares_no_code_with_the_product():
    ours = set("app workers jobs quota accounts providers storage webhooks core migrations".split())  # noqa: SIM905
    for path in Path(sandbox.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & ours, path
