"""Prompt enhancement: which upstream writes, and reading it with a bound on every silence.

The only place where the web process loads adapters, and only at the first use.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.http.errors import EnhancerNotConfiguredError, InvalidRequestError
from jobs.errors import FieldFault
from providers.catalog.catalog import Catalog
from providers.configured import prompt_model
from providers.errors import ProviderError
from providers.prompts import ENHANCEMENTS, Enhancement

log = structlog.get_logger(__name__)

WAITING_CHUNKS = 64
POOL_SIZE = 20  # connections to one upstream


class Writer(Protocol):
    """The part of providers.base.Provider that writes text."""

    def stream_text(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float | None, max_tokens: int | None = None
    ) -> Iterator[str]: ...


class Enhancer:
    """``models`` are the language models of the configured providers, by provider, the preferred one first."""

    def __init__(self, models: Mapping[str, str], load: Callable[[str], Writer]) -> None:
        self.models = dict(models)
        self._load = load

    @classmethod
    def from_env(cls, env: Mapping[str, str], catalog: Catalog, configured: Collection[str]) -> Enhancer:
        named = {name: prompt_model(catalog.providers[name], env) for name in configured if name in catalog.providers}
        return cls({name: model for name, model in named.items() if model}, _Writers(env))

    def write(self, prompt: str, mode: str, *, model: str | None = None, language: str | None = None) -> Iterator[str]:
        """The pieces of the enhanced prompt as they come.

        ``model``: a language model, with its provider in front where two have it (``openai/gpt-5.4-mini``), or a
        provider alone. Raises EnhancerNotConfiguredError or InvalidRequestError immediately. While iterating:
        ProviderError.
        """
        if not self.models:
            raise EnhancerNotConfiguredError
        return _written(self._load(self._provider_of(model)), ENHANCEMENTS[mode], prompt, language)

    def only(self, providers: Collection[str]) -> Enhancer:
        """The same with the language models of these providers alone."""
        return Enhancer({name: model for name, model in self.models.items() if name in providers}, self._load)

    def names(self) -> dict[str, str]:
        """The provider of each language model by a name that means it alone, the preferred one first."""
        several = Counter(self.models.values())
        return {
            f"{provider}/{model}" if several[model] > 1 else model: provider for provider, model in self.models.items()
        }

    def provider_of(self, name: str) -> str | None:
        """The provider of the language model that a name means; None for one that is none of them."""
        for provider, model in self.models.items():
            if name in (model, provider, f"{provider}/{model}"):
                return provider
        return None

    def complete(
        self,
        provider: str,
        messages: Sequence[Mapping[str, str]],
        *,
        temperature: float | None,
        max_tokens: int | None,
    ) -> Iterator[str]:
        """The pieces of a chat completion by the language model of a provider, as they come.

        Raises EnhancerNotConfiguredError immediately. While iterating: ProviderError.
        """
        return _completed(self._load(provider), messages, temperature, max_tokens)

    def _provider_of(self, asked: str | None) -> str:
        if asked is None:
            return next(iter(self.models))
        if found := self.provider_of(asked):
            return found
        offered = ", ".join(f"{model} ({provider})" for provider, model in self.models.items())
        raise InvalidRequestError([FieldFault("model", "not_allowed", f"must be one of {offered}")])


def _written(writer: Writer, enhancement: Enhancement, prompt: str, language: str | None) -> Iterator[str]:
    """Connects with the first piece, not before: an upstream away is then a fault like any later one."""
    messages = enhancement.messages(prompt, language=language)
    yield from writer.stream_text(messages, temperature=enhancement.temperature)


def _completed(
    writer: Writer, messages: Sequence[Mapping[str, str]], temperature: float | None, max_tokens: int | None
) -> Iterator[str]:
    """As :func:`_written`."""
    yield from writer.stream_text(messages, temperature=temperature, max_tokens=max_tokens)


class _Writers:
    """The adapters, loaded at first use and kept."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._loaded: dict[str, Writer] = {}

    def __call__(self, name: str) -> Writer:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._built(name)
            return self._loaded[name]

    def _built(self, name: str) -> Writer:
        from providers import registry

        try:
            found = registry.load(self._env, pool_size=POOL_SIZE).of(name)
        except registry.BadSettingError as error:
            log.warning("enhancer_misconfigured", reason=str(error))  # names the variable, hides its value
            raise EnhancerNotConfiguredError from None
        if not found:
            raise EnhancerNotConfiguredError
        return found[0]


# ---------------------------------------------------------------- reading ahead


@dataclass(frozen=True, slots=True)
class Ended:
    """The text is complete."""


Piece = str | ProviderError | Ended


class Reader:
    """Reads an upstream in a thread of its own, so that a silence differs from the end."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._pieces: queue.Queue[Piece] = queue.Queue(WAITING_CHUNKS)
        self._gone = threading.Event()
        threading.Thread(target=self._read, name="enhance", daemon=True).start()

    def next(self, timeout_s: float) -> Piece | None:
        """The next piece, or None when there was none for so long."""
        try:
            return self._pieces.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """The caller has left: the upstream is dropped at its next piece."""
        self._gone.set()

    def _read(self) -> None:
        last: Piece = ProviderError("upstream_failed", "the reader broke off")
        try:
            for text in self._source:
                if not self._put(text):
                    return
            last = Ended()
        except ProviderError as error:
            last = error
        finally:
            # After an unexpected exception, too: the caller waits for an end.
            self._put(last)
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def _put(self, piece: Piece) -> bool:
        while not self._gone.is_set():
            try:
                self._pieces.put(piece, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False
