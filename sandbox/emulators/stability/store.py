"""What Stability's emulator keeps: accounts with their credits and pace, and the calls still to be fetched."""

import hashlib
import re
import secrets
from collections import defaultdict, deque
from dataclasses import dataclass

from sandbox.emulators import keys
from sandbox.emulators.stability.rules import SEED_MAX, Order
from sandbox.faults import Script
from sandbox.plumbing.tasks import Ending, Task, TaskStore
from sandbox.state import State

CREDITS_AT_FIRST = 1_000_000.0
REQUESTS_MAX, WINDOW_S, LOCK_OUT_S = 150, 10.0, 60.0
KEPT_S = 24 * 3600.0
NO_LIMIT_KEY = "no-limit"
SUCCESS, FILTERED = Ending("SUCCESS"), Ending("CONTENT_FILTERED")
FLAGGED, BROKEN, TIMED_OUT = Ending("flagged"), Ending("broken"), Ending("timed out")
_FEW_CREDITS = re.compile(r"credits-(\d{1,6}(?:\.\d)?)")


def ending_for(fate: Script) -> Ending:
    """What a call comes to. Only SUCCESS and FILTERED, which is a blurred image, made something."""
    fault = fate.get("fail", "timeout", "restart")
    if fault is None:
        return SUCCESS
    if fault.name == "timeout":
        return TIMED_OUT
    return {"moderation": FILTERED, "policy": FLAGGED}.get(fault.value, BROKEN)


@dataclass(kw_only=True)
class Job(Task[Ending]):
    """An accepted asynchronous call. ``looks_left`` are still answered by 202, however late they come."""

    stages = ((0.0, "in-progress"),)

    order: Order
    seed: int
    looks_left: int
    looked_s: float | None = None

    @property
    def size_bytes(self) -> int:
        """Its files."""
        return sum(map(len, self.order.files.values()))


class StabilityStore(TaskStore[Job]):
    """Accounts and jobs. Calls are atomic."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._balances: dict[str, float] = {}
        self._requests: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REQUESTS_MAX))
        self._locked_until_s: dict[str, float] = {}

    def clear(self) -> None:
        """Delete it all."""
        with self.lock:
            super().clear()
            for table in (self._balances, self._requests, self._locked_until_s):
                table.clear()

    def interrupted(self, task: Job) -> Ending:
        """Calls in progress end with a server error."""
        task.looks_left = 0
        return BROKEN

    def admit(self, owner: str, key: str) -> bool:
        """Count one request; False within a lock-out, which the 151st request of ten seconds brings on."""
        if key == NO_LIMIT_KEY:
            return True
        now = self.now()
        with self.lock:
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
        few = _FEW_CREDITS.fullmatch(key)
        at_first = float(few[1]) if few else 0.0 if key == keys.NO_QUOTA_KEY else CREDITS_AT_FIRST
        with self.lock:
            return self._balances.setdefault(owner, at_first)

    def charge(self, owner: str, key: str, price: float) -> bool:
        """Take ``price`` credits; False where there are fewer."""
        with self.lock:
            left = self.credits(owner, key) - price
            if left < 0:
                return False
            self._balances[owner] = left
            return True

    def refund(self, owner: str, price: float) -> None:
        """Give back what a failed call had taken."""
        with self.lock:
            self._balances[owner] += price

    def seed_for(self, order: Order) -> int:
        """The seed asked for; where none was (or 0), another one each time, the same after a reset."""
        asked: int = order.fields.get("seed", 0)
        digest = hashlib.sha256(f"{self.next_count()} {order.prompt}".encode()).digest()
        return asked or 1 + int.from_bytes(digest[:4], "big") % SEED_MAX

    def accept(self, order: Order, owner: str, fate: Script, ending: Ending) -> Job:
        """Keep a call to be looked at; its number has 64 hex digits."""
        steps = fate.get("steps")
        return self.start(
            Job,
            number=secrets.token_hex(32),
            owner=owner,
            prompt=order.prompt,
            fate=fate,
            ending=ending,
            retention_s=KEPT_S,
            order=order,
            seed=self.seed_for(order),
            looks_left=int(steps.number(1)) if steps else 0,
        )
