"""kombu's Redis transports, which outlive what they cannot read.

What a queue holds is taken off it before it is taken apart, so a message that cannot be is gone already:
here it is counted, and the next one is read.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import DataError, RedisError

from workers.broker.poison import REJECTED


def install() -> None:
    """Let every connection of this process that is made from now on use them. For workers: no one else reads."""
    TRANSPORT_ALIASES.update(
        redis="workers.broker.transports:Transport",
        rediss="workers.broker.transports:Transport",
        sentinel="workers.broker.transports:SentinelTransport",
    )


def _says_nothing_of_the_message(error: Exception) -> bool:
    """Whether the connection failed. DataError is ours: Redis was asked to store what it cannot."""
    return isinstance(error, Empty | OSError | RedisError) and not isinstance(error, DataError)


class _Outliving:
    """Over a channel of kombu: reading from a queue, and from a topic."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except Exception as error:
            if _says_nothing_of_the_message(error):
                raise
            REJECTED.count("unreadable", queue="")
            return True

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except Exception as error:
            if _says_nothing_of_the_message(error):
                raise
            REJECTED.count("unreadable", queue="topics")
            return True


class _Channel(_Outliving, redis.Channel):  # type: ignore[misc]
    pass


class _SentinelChannel(_Outliving, redis.SentinelChannel):  # type: ignore[misc]
    pass


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = _Channel


class SentinelTransport(redis.SentinelTransport):  # type: ignore[misc]
    Channel = _SentinelChannel
