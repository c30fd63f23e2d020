"""The screen ``words``: the operator's file of words, phrases and patterns, by category.

A word is found as a whole word: "ass" is not in "glass". Scripts that put no blanks between words (Chinese, Japanese,
Thai and others) have no such bound. Words of a phrase may have blanks, hyphens and other marks between them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.screening.folding import folded
from jobs.screening.patterns import PatternError, Patterns
from jobs.screening.subject import Refusal, ScreenFailedError, Subject

log = structlog.get_logger(__name__)

NAME = "words"
MAX_FILE_BYTES = 5 * 2**20
MAX_TERMS = 100_000
FOLLOWED_EVERY_S = 5.0
# Terms that are looked for one by one, between two looks at the clock.
TERMS_IN_A_ROW = 2000

# Scripts without blanks between words: Thai, Lao, Myanmar, Khmer, kana, and the ideographs.
_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_WORDS = re.compile(rf"[^\W_{_SCRIPTS}]+")
# What a term may hold besides words to be found word by word; with anything else it is found as it stands.
_PLAIN = re.compile(rf"(?:[^\W_{_SCRIPTS}]|[\s_'’.,-])+")

Term = Annotated[str, Field(min_length=1, max_length=500)]


class WordsFileError(Exception):
    """The file cannot be used; the message names every fault."""


class _Category(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    words: list[Term] = []
    patterns: list[Term] = []
    negative_prompt: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    categories: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_./-]{0,63}$")], _Category],
        Field(min_length=1, max_length=200),
    ]


@dataclass(frozen=True, slots=True)
class _Phrases:
    """Words and phrases, each with the number of its category; ``by_word`` by the first word, ``literal`` as it is."""

    by_word: Mapping[str, Sequence[tuple[tuple[str, ...], int]]]
    literal: Sequence[tuple[str, int]]

    def search(self, text: str, *, ends_at: float) -> Iterator[int]:
        """The categories of the terms in a folded text. Raises TimeoutError."""
        words = _WORDS.findall(text)
        for at, word in enumerate(words):
            for phrase, category in self.by_word.get(word, ()):
                if len(phrase) == 1 or tuple(words[at : at + len(phrase)]) == phrase:
                    yield category
        for number, (term, category) in enumerate(self.literal):
            if number % TERMS_IN_A_ROW == TERMS_IN_A_ROW - 1:
                time.sleep(0)
                if time.monotonic() > ends_at:
                    raise TimeoutError
            if _stands_in(term, text):
                yield category


@dataclass(frozen=True, slots=True)
class Words:
    """The content of a file. ``categories`` by their numbers, in the order of the file; ``patterns_of``: the category
    of each pattern; ``negative``: the categories that negative prompts are searched for, too."""

    categories: Sequence[str]
    phrases: _Phrases
    patterns: Patterns
    patterns_of: Sequence[int]
    negative: frozenset[int]
    terms: int

    def search(self, text: str, *, is_negative: bool = False, ends_at: float) -> str | None:
        """The category of what is in a text, the first of the file where there are several. Raises TimeoutError."""
        text = folded(text)
        found = set(self.phrases.search(text, ends_at=ends_at))
        found.update(self.patterns_of[number] for number in self.patterns.search(text, ends_at=ends_at))
        if is_negative:
            found &= self.negative
        return self.categories[min(found)] if found else None


def _stands_in(term: str, text: str) -> bool:
    """Whether a term is in a text with no letter or digit next to an end that is one itself."""
    at = text.find(term)
    while at >= 0:
        end = at + len(term)
        if not (_joined(text[at - 1 : at], term[0]) or _joined(term[-1], text[end : end + 1])):
            return True
        at = text.find(term, at + 1)
    return False


def _joined(left: str, right: str) -> bool:
    """Whether two neighbours are parts of one word."""
    return left.isalnum() and right.isalnum() and not _UNSPACED.match(left) and not _UNSPACED.match(right)


def read(path: Path) -> Words:
    """The words of a file. Raises WordsFileError."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise WordsFileError(f"{path}: has more than {MAX_FILE_BYTES} bytes")
        found = _File.model_validate(yaml.safe_load(data.decode("utf-8")))
    except OSError as error:
        raise WordsFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WordsFileError(f"{path}: is not UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise WordsFileError(f"{path}: no YAML{f', line {mark.line + 1}' if mark else ''}") from None
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors()[:50])
        raise WordsFileError(f"{path}: {'; '.join(faults)}") from None
    return _built(path, found)


def _built(path: Path, file: _File) -> Words:
    by_word: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    literal: list[tuple[str, int]] = []
    patterns: list[tuple[int, str, str]] = []  # the number of the category, where it stands, and the pattern
    faults: list[str] = []
    for number, (name, category) in enumerate(file.categories.items()):
        for at, word in enumerate(category.words):
            term = folded(word).strip()
            if not any(each.isalnum() for each in term):
                faults.append(f"categories.{name}.words.{at}: has no letter and no digit")
            elif _PLAIN.fullmatch(term):
                phrase = tuple(_WORDS.findall(term))
                by_word.setdefault(phrase[0], []).append((phrase, number))
            else:
                literal.append((term, number))
        for at, pattern in enumerate(category.patterns):
            patterns.append((number, f"categories.{name}.patterns.{at}", pattern))
    terms = sum(len(each.words) + len(each.patterns) for each in file.categories.values())
    if not terms:
        faults.append("has no word and no pattern")
    if terms > MAX_TERMS:
        faults.append(f"has more than {MAX_TERMS} words and patterns")
    together = Patterns([])
    try:
        together = Patterns([pattern for _, _, pattern in patterns])
    except PatternError as error:
        faults += _faults_of((place, pattern) for _, place, pattern in patterns) or [f"patterns: {error}"]
    if faults:
        raise WordsFileError(f"{path}: {'; '.join(faults[:50])}")
    negative = frozenset(at for at, each in enumerate(file.categories.values()) if each.negative_prompt)
    patterns_of = [number for number, _, _ in patterns]
    return Words(list(file.categories), _Phrases(by_word, literal), together, patterns_of, negative, terms)


def _faults_of(patterns: Iterable[tuple[str, str]]) -> list[str]:
    """What is wrong with patterns, each by itself, by the place at which it stands."""
    faults: list[str] = []
    for place, pattern in patterns:
        try:
            Patterns([pattern])
        except PatternError as error:
            faults.append(f"{place}: {error}")
    return faults


@dataclass(slots=True)
class WordsScreen:
    """The screen. Its file is followed: a change counts within seconds, and a faulty one changes nothing."""

    path: Path
    words: Words
    name: str = NAME
    is_local: bool = True
    _seen: tuple[int, int] = (0, 0)
    _looked_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, path: Path) -> WordsScreen:
        """Raises WordsFileError."""
        seen = _stamp(path)
        return cls(path, read(path), _seen=seen, _looked_at=time.monotonic())

    def judge(self, subject: Subject, *, within_s: float) -> Refusal | None:
        """As of Screen. A negative prompt names what is not wanted: only categories that say so are looked for."""
        self._follow()
        words, ends_at = self.words, time.monotonic() + within_s
        asked = [("prompt", subject.prompt), *subject.texts.items(), ("negative_prompt", subject.negative_prompt)]
        try:
            for name, text in asked:
                is_negative = name == "negative_prompt"
                if text and (category := words.search(text, is_negative=is_negative, ends_at=ends_at)):
                    return Refusal(category, name)
        except TimeoutError:
            raise ScreenFailedError("too_slow", "the text could not be searched in time") from None
        return None

    def probe(self, *, within_s: float) -> str:  # noqa: ARG002 (as of Screen)
        """As of Screen: the file as it is now."""
        try:
            words = read(self.path)
        except WordsFileError as error:
            raise ScreenFailedError("faulty_file", str(error)) from None
        return f"{words.terms} words and patterns in {len(words.categories)} categories"

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < FOLLOWED_EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = now
            if (stamp := _stamp(self.path)) == self._seen:
                return
            self._seen = stamp
            self.words = read(self.path)
            log.info("screen_words_read", terms=self.words.terms)
        except WordsFileError as error:
            log.warning("screen_words_faulty", detail=str(error))
        finally:
            self._lock.release()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size
