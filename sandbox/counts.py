"""What each emulator was asked: the evidence for a test after a crash."""

import hashlib
import threading
from collections import Counter, deque
from dataclasses import dataclass, field, fields

KEYS_MAX = 500_000
UPLOADS_MAX = 10_000


def prompt_hash(prompt: str) -> str:
    """The first 16 hex digits of the prompt's SHA-256: how counts name a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


@dataclass
class Tally:
    """Numbers of one provider since the last reset.

    ``submits`` are calls that would buy an image, with a good key and a well-formed body; ``accepted`` are
    those that started work (a repeated dedupe key starts none). The ``*_by_*`` counters are by the caller's
    dedupe key where the contract has one, else by ``prompt_hash``.
    """

    requests: int = 0
    submits: int = 0
    accepted: int = 0
    checks: int = 0
    downloads: int = 0
    chats: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    submits_by_key: Counter[str] = field(default_factory=Counter)
    submits_by_prompt: Counter[str] = field(default_factory=Counter)
    submits_by_request_id: Counter[str] = field(default_factory=Counter)
    accepted_by_key: Counter[str] = field(default_factory=Counter)
    accepted_by_prompt: Counter[str] = field(default_factory=Counter)
    check_batches: Counter[int] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def describe(self, *, keys: bool) -> dict[str, object]:
        """As JSON; ``keys=False`` leaves out the long tables and keeps only the keys seen more than once."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        tables = {name: dict(shown.pop(name)) for name in list(shown) if "_by_" in name}
        sizes = shown.pop("check_batches")
        shown |= {
            "checked_ids": sum(size * times for size, times in sizes.items()),
            "batch_size_max": max(sizes, default=0),
            "batch_sizes": dict(sorted(sizes.items())),
            "statuses": dict(sorted(self.statuses.items())),
            "keys": len(self.submits_by_key),
            "repeated_submits": _repeated(self.submits_by_key),
            "repeated_accepts": _repeated(self.accepted_by_key),
        }
        return shown | (tables if keys else {})


def _repeated(table: Counter[str]) -> dict[str, int]:
    return {key: times for key, times in table.items() if times > 1}


class Counts:
    """The tallies of all emulators and a short log of their latest requests. Calls are atomic."""

    def __init__(self, *, requests_kept: int = 500) -> None:
        self._tallies: dict[str, Tally] = {}
        self._log: deque[dict[str, object]] = deque(maxlen=requests_kept)
        self._uploads: dict[str, str] = {}
        self._lock = threading.Lock()

    def begin(self, provider: str) -> None:
        """A request came in."""
        with self._lock:
            tally = self._of(provider)
            tally.requests += 1
            tally.in_flight += 1
            tally.in_flight_max = max(tally.in_flight_max, tally.in_flight)

    def end(self, provider: str, status: int | None) -> None:
        """Its answer is sent, or its connection gone (``status`` None)."""
        with self._lock:
            tally = self._of(provider)
            # After a reset, requests from before it still end.
            tally.in_flight = max(0, tally.in_flight - 1)
            if status is not None:
                tally.statuses[status] += 1

    def submit(self, provider: str, *, key: str, prompt: str, request_id: str = "") -> None:
        """A call that asks for an image."""
        with self._lock:
            tally = self._of(provider)
            tally.submits += 1
            _add(tally.submits_by_key, key)
            _add(tally.submits_by_prompt, prompt_hash(prompt))
            if request_id:
                _add(tally.submits_by_request_id, request_id)

    def accept(self, provider: str, *, key: str, prompt: str) -> None:
        """Work was started, and would be paid for."""
        with self._lock:
            tally = self._of(provider)
            tally.accepted += 1
            _add(tally.accepted_by_key, key)
            _add(tally.accepted_by_prompt, prompt_hash(prompt))

    def check(self, provider: str, batch_size: int) -> None:
        """Someone looked at ``batch_size`` jobs in one call."""
        with self._lock:
            tally = self._of(provider)
            tally.checks += 1
            tally.check_batches[batch_size] += 1

    def download(self, provider: str) -> None:
        """A result file was fetched."""
        with self._lock:
            self._of(provider).downloads += 1

    def chat(self, provider: str) -> None:
        """A text was asked for."""
        with self._lock:
            self._of(provider).chats += 1

    def fault(self, provider: str, name: str) -> None:
        """A scripted fault fired."""
        with self._lock:
            self._of(provider).faults[name] += 1

    def note(self, entry: dict[str, object]) -> None:
        """Remember what a request looked like."""
        self._log.append(entry)

    def uploaded(self, link: str, blob: bytes) -> None:
        """A file was uploaded, to be named by its link in a later request."""
        with self._lock:
            if len(self._uploads) >= UPLOADS_MAX:
                self._uploads.clear()
            self._uploads[link] = hashlib.sha256(blob).hexdigest()

    def sent_before(self, link: str) -> str | None:
        """The SHA-256 of what was uploaded under a link; None for any other link."""
        return self._uploads.get(link)

    def requests(self, provider: str | None = None, *, limit: int = 500) -> list[dict[str, object]]:
        """The latest requests, oldest first."""
        entries = [entry for entry in list(self._log) if provider in (None, entry.get("provider"))]
        return entries[-limit:]

    def describe(self, *, keys: bool = True) -> dict[str, object]:
        """Every tally as JSON."""
        with self._lock:
            return {provider: tally.describe(keys=keys) for provider, tally in sorted(self._tallies.items())}

    def reset(self, *, requests_kept: int) -> None:
        """Start again from zero; requests still in flight stay counted as such."""
        with self._lock:
            in_flight = {provider: tally.in_flight for provider, tally in self._tallies.items()}
            self._tallies = {p: Tally(in_flight=n, in_flight_max=n) for p, n in in_flight.items()}
            self._log = deque(maxlen=requests_kept)
            self._uploads.clear()

    def _of(self, provider: str) -> Tally:
        return self._tallies.setdefault(provider, Tally())


def _add(table: Counter[str], key: str) -> None:
    if key in table or len(table) < KEYS_MAX:
        table[key] += 1
