"""What the Stability twin remembers: accounts with their credits and pace, and the calls still to be fetched."""

import hashlib
import re
import threading
from collections import defaultdict, deque
from dataclasses import dataclass

from sandbox.bounded import BoundedStore
from sandbox.emulators import keys
from sandbox.emulators.stability.rules import SEED_MAX, Order
from sandbox.faults import Script
from sandbox.markers import Fault
from sandbox.state import State

CREDITS_AT_FIRST = 1_000_000.0
REQUESTS_MAX, WINDOW_S, LOCK_OUT_S = 150, 10.0, 60.0
NO_LIMIT_KEY = "no-limit"
JOBS_BYTES_MAX = 256 * 2**20
_FEW_CREDITS = re.compile(r"credits-(\d{1,6}(?:\.\d)?)")


@dataclass
class Job:
    """An accepted asynchronous call. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    owner: str
    order: Order
    fate: Script
    seed: int
    done_s: float
    gone_s: float
    looks_left: int  # looks still answered by 202, however late they come
    looked_s: float | None = None


class StabilityStore:
    """Accounts and jobs. Calls are atomic."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        self._lock = threading.Lock()
        self._jobs: BoundedStore[str, Job] = BoundedStore(
            items_max=sandbox_state.settings.tasks_max,
            size_max=JOBS_BYTES_MAX,
            size_of=lambda job: sum(map(len, job.order.files.values())),
        )
        self._balances: dict[str, float] = {}
        self._requests: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REQUESTS_MAX))
        self._locked_until_s: dict[str, float] = {}
        self._drawn = 0

    def clear(self) -> None:
        """Forget it all."""
        with self._lock:
            self._jobs.clear()
            for table in (self._balances, self._requests, self._locked_until_s):
                table.clear()
            self._drawn = 0

    def restart(self) -> int:
        """Calls in progress end with a server error."""
        now, broken = self._sandbox.clock.now(), 0
        for job in self._jobs.values():
            if now < job.done_s:
                job.done_s, job.looks_left, job.fate = now, 0, Script((Fault("fail"),))
                broken += 1
        return broken

    def admit(self, owner: str, key: str) -> bool:
        """Count one request; False within a lock-out, which the 151st request of ten seconds brings on."""
        if key == NO_LIMIT_KEY:
            return True
        now = self._sandbox.clock.now()
        with self._lock:
            if now < self._locked_until_s.get(owner, 0.0):
                return False
            latest = self._requests[owner]
            if len(latest) == REQUESTS_MAX and now - latest[0] < WINDOW_S:
                self._locked_until_s[owner] = now + LOCK_OUT_S
                latest.clear()
                return False
            latest.append(now)
            return True

    def credits(self, owner: str, key: str) -> float:
        """What the account has left. The key ``credits-N`` begins with N, ``no-quota`` with none."""
        with self._lock:
            return self._credits(owner, key)

    def charge(self, owner: str, key: str, price: float) -> bool:
        """Take ``price`` credits; False where there are fewer."""
        with self._lock:
            left = self._credits(owner, key) - price
            if left < 0:
                return False
            self._balances[owner] = left
            return True

    def refund(self, owner: str, price: float) -> None:
        """Give back what a failed call had taken."""
        with self._lock:
            self._balances[owner] += price

    def _credits(self, owner: str, key: str) -> float:
        few = _FEW_CREDITS.fullmatch(key)
        at_first = float(few[1]) if few else 0.0 if key == keys.NO_QUOTA_KEY else CREDITS_AT_FIRST
        return self._balances.setdefault(owner, at_first)

    def seed_for(self, order: Order) -> int:
        """The seed asked for; where none was (or 0), another one each time, the same after a reset."""
        asked = int(order.texts.get("seed", "0"))
        if asked:
            return asked
        with self._lock:
            self._drawn += 1
            digest = hashlib.sha256(f"{self._drawn} {order.prompt}".encode()).digest()
        return 1 + int.from_bytes(digest[:4], "big") % SEED_MAX

    def put(
        self, owner: str, order: Order, fate: Script, *, seed: int, done_s: float, gone_s: float, looks: int
    ) -> Job:
        """Keep a call to be looked at; its number has 64 hex digits."""
        with self._lock:
            self._drawn += 1
            number = hashlib.sha256(f"{owner} {self._drawn} {seed} {done_s}".encode()).hexdigest()
        job = Job(number, owner, order, fate, seed, done_s, gone_s, looks)
        self._jobs.put(number, job)
        return job

    def find(self, owner: str, number: str) -> Job | None:
        """The call, if it is the owner's."""
        job = self._jobs.get(number)
        return job if job is not None and job.owner == owner else None
