"""kombu's Redis transports, made to survive messages that they cannot read.

kombu removes a message from its queue before decoding it, so an unreadable one is gone already. Here it is counted,
and the next one is read.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import DataError, RedisError

from workers.broker.poison import REJECTED


def install() -> None:
    """Use these transports for every connection that this process makes from now on. Only workers need them."""
    TRANSPORT_ALIASES.update(
        redis="workers.broker.transports:Transport",
        rediss="workers.broker.transports:Transport",
        sentinel="workers.broker.transports:SentinelTransport",
    )


def _says_nothing_of_the_message(error: Exception) -> bool:
    """Return whether the connection failed, not the message. A DataError is about the message."""
    return isinstance(error, Empty | OSError | RedisError) and not isinstance(error, DataError)


class _Outliving:
    """A mix-in for kombu's channels that survives unreadable messages of queues and of topics."""

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
