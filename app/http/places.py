"""How many answers may wait for jobs at once in a web process, in all and of one account."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NoReturn

from core.errors import UnavailableError

RETRY_AFTER_S = 5


class TooManyStreamsError(UnavailableError):
    """The account has as many waiting answers as one may have in this process."""

    code = "rate_limited"


class Places:
    """``most`` in all, ``most_per_account`` of one account."""

    def __init__(self, most: int, most_per_account: int) -> None:
        self._most = most
        self._most_per_account = most_per_account
        self._lock = threading.Lock()
        self._taken = 0
        self._of_accounts: Counter[str] = Counter()

    def take(self, account_id: str) -> bool:
        """Whether there is a place; it is taken then, until :meth:`give_back`."""
        with self._lock:
            if not self.room(account_id):
                return False
            self._taken += 1
            self._of_accounts[account_id] += 1
            return True

    def room(self, account_id: str) -> bool:
        """Whether there is a place; none is taken."""
        return self._taken < self._most and self._of_accounts[account_id] < self._most_per_account

    def check(self, account_id: str) -> None:
        """For an answer that takes a place in each of its waits: have none begun that would find none. Raises as
        :meth:`take_or_refuse`."""
        with self._lock:
            room = self.room(account_id)
        if not room:
            self._refuse(account_id)

    def take_or_refuse(self, account_id: str) -> None:
        """Take a place. Raises TooManyStreamsError (429) or UnavailableError (503), both with a time to come back."""
        if not self.take(account_id):
            self._refuse(account_id)

    def _refuse(self, account_id: str) -> NoReturn:
        if self._of_accounts[account_id] >= self._most_per_account:
            detail = f"this account has {self._most_per_account} streams and waiting calls open, the most it may have"
            raise TooManyStreamsError(detail, retry_after_s=RETRY_AFTER_S)
        raise UnavailableError("too many streams and waiting calls are open", retry_after_s=RETRY_AFTER_S)

    def give_back(self, account_id: str) -> None:
        with self._lock:
            self._taken -= 1
            self._of_accounts[account_id] -= 1
            if not self._of_accounts[account_id]:
                del self._of_accounts[account_id]
