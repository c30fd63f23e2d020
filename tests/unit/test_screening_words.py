"""The screen ``words``: patterns in linear time, words as whole words, the file and its faults."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.screening import words
from jobs.screening.folding import folded
from jobs.screening.patterns import PatternError, Patterns
from jobs.screening.subject import Refusal, ScreenFailedError, Subject
from jobs.screening.words import WordsFileError, WordsScreen

FOREVER = float("inf")

# ---------------------------------------------------------------- patterns

_ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\b", r"\B", "^", "$", r"\w", r"\s", "ü"])
_REPEATS = ["*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{2,}", "+?"]
_PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(_REPEATS)).map(lambda two: f"(?:{two[0]}){two[1]}"),
    ),
    max_leaves=6,
)


@given(pattern=_PATTERNS, text=st.text("ab ü", max_size=8))
@settings(max_examples=80, deadline=None)
def test_patterns_find_what_pythons_own_matcher_finds(pattern: str, text: str) -> None:
    try:
        found = Patterns([pattern]).search(text)
    except PatternError as error:
        assert "every text" in str(error)
        return
    assert (found is not None) is (re.search(pattern, text) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)*c", "a*a*a*a*a*a*b", "(.*a){12}b"])
def test_no_pattern_takes_forever(pattern: str) -> None:
    """Each would take Python's own matcher longer than a test run."""
    patterns = Patterns([pattern])
    assert patterns.search("a" * 2_000) is None
    assert patterns.search("a" * 2_000 + "bc") is not None


def test_a_search_ends_when_its_time_is_over() -> None:
    with pytest.raises(TimeoutError):
        Patterns(["x.{9}y"]).search("ab" * 5_000, ends_at=0.0)


def test_the_first_pattern_that_is_found_is_told() -> None:
    patterns = Patterns(["wolf", "red (fox|hen)", r"\bhen\b"])
    assert [patterns.search(text) for text in ("a red fox", "a hen", "then", "wolf")] == [1, 2, None, 0]


def test_what_is_remembered_of_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.screening.patterns.MAX_STEPS_KEPT", 20)
    patterns = Patterns(["fo+x"])
    for letter in map(chr, range(0x4E00, 0x4E00 + 200)):
        assert patterns.search(f"{letter} fooox") == 0
        assert patterns._table.kept <= 21


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)", "looks ahead"),
        ("(?i)a", "looks ahead"),
        (r"(a)\1", r"\\1"),
        ("a**", "repeats twice"),
        ("*a", "nothing to repeat"),
        ("(a", "not closed"),
        ("[a", "not closed"),
        ("a)", "too many"),
        ("a{300}", "at most 200"),
        ("a*", "every text"),
        ("^|b", "every text"),
        ("(((a{99}){99}){99})", "too large"),
        ("a" * 501, "500 characters"),
    ],
)
def test_a_pattern_that_is_not_understood_says_why(pattern: str, said: str) -> None:
    with pytest.raises(PatternError, match=said):
        Patterns([pattern])


# ---------------------------------------------------------------- words

FILE = """
categories:
  violence:
    words: [gore, blood bath, "c++", straße, 血腥]
    patterns: ['beh[e3]ad\\w*']
  minors:
    words: [toddler]
    negative_prompt: true
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("full of GORE, everywhere", "violence"),
        ("\uff47\uff4f\uff52\uff45", "violence"),  # full-width letters
        ("g\u200bo\u00adre", "violence"),  # a zero-width space and a soft hyphen
        ("blood   bath", "violence"),
        ("a blood-bath", "violence"),
        ("blood_bath", "violence"),
        ("a BEH3ADED king", "violence"),
        ("STRASSE", "violence"),
        ("code in C++", "violence"),
        ("一个血腥的场景", "violence"),
        ("gore, and a toddler", "violence"),  # the first of the file
        ("toddler", "minors"),
        ("gorey glory, categories", None),
        ("blood in the bath", None),
        ("code in c", None),
        ("abc++", None),
        ("", None),
    ],
)
def test_words_are_found_as_whole_words_however_they_are_written(path: Path, text: str, category: str | None) -> None:
    assert words.read(path).search(text, ends_at=FOREVER) == category


def test_folding_leaves_plain_words() -> None:
    assert folded("ＣＡＦＥ\u0301 \n ﬁne\ufe0f") == "café fine"


def _judged(screen: WordsScreen, **said: object) -> Refusal | None:
    return screen.judge(Subject("order", "acct_a", **said), within_s=5)


def test_every_text_is_searched_but_the_negative_prompt_only_where_a_category_says_so(path: Path) -> None:
    screen = WordsScreen.of(path)
    assert _judged(screen, prompt="a field", texts={"extra.style": "gore"}) == Refusal("violence", "extra.style")
    assert _judged(screen, prompt="a field", negative_prompt="gore, blood bath") is None
    assert _judged(screen, prompt="a field", negative_prompt="toddler") == Refusal("minors", "negative_prompt")


def test_a_text_that_cannot_be_searched_in_time_gets_no_opinion(path: Path) -> None:
    with pytest.raises(ScreenFailedError, match="too_slow"):
        WordsScreen.of(path).judge(Subject("order", "a", prompt="ab" * 9_000), within_s=-1)


def test_the_file_is_followed_and_a_faulty_one_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "FOLLOWED_EVERY_S", 0.0)
    screen = WordsScreen.of(path)
    path.write_text("categories: {weather: {words: [rain]}}", encoding="utf-8")
    os.utime(path, (1, 1))
    assert _judged(screen, prompt="gore") is None
    assert _judged(screen, prompt="rain") == Refusal("weather")
    path.write_text("categories: 7", encoding="utf-8")
    assert _judged(screen, prompt="rain") == Refusal("weather")
    with pytest.raises(ScreenFailedError, match="faulty_file"):
        screen.probe(within_s=1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("categories: {}", ["categories"]),
        ("words: [a]", ["categories", "words"]),
        ("categories: {A B: {words: [a]}}", ["A B"]),
        (
            "categories: {a: {words: ['!!', 7], patterns: ['(x']}}",
            ["categories.a.words.1"],
        ),
        ("categories: {a: {words: ['!!'], patterns: ['(x', 'y*']}}", ["words.0", "patterns.0", "patterns.1"]),
        ("categories: {a: {}}", ["no word"]),
        ("categories: [", ["YAML"]),
    ],
)
def test_a_faulty_file_is_refused_with_every_fault(path: Path, content: str, told: list[str]) -> None:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(WordsFileError) as error:
        words.read(path)
    assert [each for each in told if each not in str(error.value)] == []
