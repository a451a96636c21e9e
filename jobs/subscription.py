"""Listening to Redis channels, with a connection that is known to live."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from redis import Redis
from redis.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError

#: Seconds without a word before the server is asked for one; after twice as long the connection counts as dead.
_QUIET: Final = 15.0


def listen(client: Redis, channel: str) -> Iterator[bytes | None]:
    """Yield None once the subscription holds, then each message's bytes, for ever.

    What was published before the None was missed. Raises redis-py's errors when the connection is lost, or when
    nothing, not even the answer to a PING, has come for half a minute.
    """
    with client.pubsub() as pubsub:
        pubsub.subscribe(channel)
        for message in messages(pubsub):
            if message["type"] == "subscribe":
                yield None
            elif message["type"] == "message":
                yield message["data"]


def messages(pubsub: PubSub) -> Iterator[dict[str, Any]]:
    """What comes, as redis-py has it, from at least one channel that was subscribed to. Raises as ``listen`` does."""
    asked = False
    while True:
        message = pubsub.get_message(timeout=_QUIET)
        if message is not None:
            asked = False
            yield message
        elif asked:
            raise RedisConnectionError("the subscription is dead")
        else:
            pubsub.ping()
            asked = True
