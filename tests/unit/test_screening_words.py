"""The screen ``words``: patterns in linear time, words as whole words, the file and its faults."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import re2

from jobs.screening import words
from jobs.screening.folding import folded
from jobs.screening.patterns import PatternError, Patterns
from jobs.screening.subject import Refusal, ScreenFailedError, Subject
from jobs.screening.words import WordsFileError, WordsScreen

FOREVER = float("inf")
ROOT = Path(__file__).resolve().parents[2]

# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)*c", "a*a*a*a*a*a*b", "(.*a){12}b"])
def test_no_pattern_takes_forever(pattern: str) -> None:
    """Each would take Python's own matcher longer than a test run."""
    patterns = Patterns([pattern])
    assert patterns.search("a" * 30_000) == []
    assert patterns.search("a" * 30_000 + "bc") == [0]


def test_a_search_ends_when_its_time_is_over() -> None:
    with pytest.raises(TimeoutError):
        Patterns(["x.{9}y"]).search("ab" * 5_000, ends_at=0.0)


def test_every_pattern_that_is_found_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    written = ["wolf", "red (fox|hen)", r"\bhen\b"]
    for size in (20_000, 1 + max(_size(each) for each in written)):  # in one set, and in several
        monkeypatch.setattr("jobs.screening.patterns.MAX_SET_SIZE", size)
        patterns = Patterns(written)
        found = [patterns.search(text) for text in ("a red fox", "wolf, red hen", "a hen", "then", "")]
        assert found == [[1], [0, 1, 2], [2], [], []]
    assert len(patterns._sets) > 1


def _size(pattern: str) -> int:
    return int(re2.compile(pattern).programsize)


def test_the_clock_is_looked_at_between_two_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.screening.patterns.MAX_SET_SIZE", 1 + _size("wolf"))
    patterns = Patterns(["wolf", "hen"])
    times = iter([1.0, 3.0])
    monkeypatch.setattr("jobs.screening.patterns.time.monotonic", lambda: next(times))
    with pytest.raises(TimeoutError):
        patterns.search("a hen", ends_at=2.0)


def test_a_search_that_ran_out_of_memory_is_not_one_that_found_nothing(path: Path) -> None:
    screen = WordsScreen.of(path)
    empty = re2.Set.SearchSet()
    empty.Add("no such text")
    empty.Compile()
    screen.words.patterns._sets[:] = [replace(screen.words.patterns._sets[0], set=empty)]
    with pytest.raises(MemoryError):
        _judged(screen, prompt="a field")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("GR\u00dc\u00dfE", "gr\u00fc\u00dfe"),
        ("gr\u00fc(\u00df)+e", "GR\u00dcSSSSE"),
        ("[\u00c4\u00d6]l", "\u00e4l"),
        ("cafe\u0301s?", "CAFE\u0301"),  # an accent by itself, in both
        ("\uff47ore", "GORE"),  # full width
        ("bad\u200bword", "bad word bad\u00adword"),  # invisible in both
        ("blood\u00a0bath", "blood \n bath"),
        ("blood\\s+bath", "blood\u3000bath"),
        ("\u8840.{0,3}\u8165", "\u8840\u5f88\u8165"),
        ("\u0438\u0432\u0430\u043d", "\u0418\u0412\u0410\u041d"),
        (r"\p{Cyrillic}{3}", "\u0418\u0412\u0410"),
        (r"\W\D\S\.\Qa.b*\E!", "- x.A.b*!"),
        ("\\Qgro\u00df.\\E", "GROSS."),
        ("[\\]\u00fc]x[[:digit:]]", "\u00dcx7"),
        ("(?i)k", "\u212a"),
    ],
)
def test_a_pattern_is_found_however_it_and_the_text_are_written(pattern: str, text: str) -> None:
    assert Patterns([pattern]).search(folded(text)) == [0]


def test_half_of_a_surrogate_pair_stops_no_search(path: Path) -> None:
    assert words.read(path).search("a\ud800 beh3aded king", ends_at=FOREVER) == "violence"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)", r"is no pattern of RE2: .*\(\?="),
        ("(?<!a)b", r"\(\?<"),
        (r"(a)\1", r"\\1"),
        ("a**", r"\*\*"),
        ("*a", "no argument for repetition"),
        ("(a", r"missing \)"),
        ("[a", r"missing \]"),
        ("a)", r"unexpected \)"),
        ("a{1001}", "repetition size"),
        ("\\\u00fc", "\u00fc"),
        ("[a\ud800]", "surrogate"),
        ("a*", "every text"),
        ("^|b", "every text"),
        ("(.{99}){10}|(.{98}){10}|(.{97}){10}", "too large"),
        ("a" * 501, "500 characters"),
    ],
)
def test_a_pattern_that_is_not_understood_says_why(pattern: str, said: str) -> None:
    with pytest.raises(PatternError, match=said):
        Patterns([pattern])


def test_patterns_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.screening.patterns.MAX_SIZE", 50)
    Patterns(["wolf"])
    with pytest.raises(PatternError, match="together"):
        Patterns(["wolf"] * 10)


def test_re2_is_loaded_by_the_screen_of_words_alone() -> None:
    code = (
        "import sys; from core.settings import Settings; from jobs.screening.building import screens_of;"
        " screens_of(Settings(_env_file=None), {});"
        " print([name for name in sys.modules if name.startswith(('re2', 'jobs.screening.words'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


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


def test_a_pattern_for_negative_prompts_is_found_next_to_one_that_is_not(path: Path) -> None:
    path.write_text(
        "categories: {a: {patterns: [red fox]}, b: {patterns: [fox], negative_prompt: true}}", encoding="utf-8"
    )
    screen = WordsScreen.of(path)
    assert _judged(screen, negative_prompt="a red fox") == Refusal("b", "negative_prompt")
    assert _judged(screen, prompt="a red fox") == Refusal("a", "prompt")


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
    for faulty in ("categories: 7", "categories: {weather: {words: [snow], patterns: ['(?=rain)']}}"):
        path.write_text(faulty, encoding="utf-8")
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
