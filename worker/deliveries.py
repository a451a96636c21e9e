"""Taking a message while Redis is full.

kombu notes each message that it takes in ``unacked`` before it hands it over, with commands that a full Redis refuses
(kombu 5.7, ``kombu/transport/redis.py``, ``QoS.append``): the message is lost, and no waiting job begins until there is
memory again. The same note as a script that is allowed to use memory lets jobs run on, and so make room.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from kombu.transport.redis import Channel, QoS
from kombu.transport.virtual import QoS as InMemoryQoS
from redis import Redis
from redis.commands.core import Script

_NOTE: Final = """#!lua flags=allow-oom
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""


class PatientQoS(QoS):
    """kombu's bookkeeping of unacknowledged messages, with the same effect, also in a full Redis."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that the message was taken."""
        about = message.delivery_info
        noted = json.dumps([message._raw, about["exchange"], about["routing_key"]])
        with self.channel.conn_or_acquire() as client:
            _script(client)(keys=[self.unacked_index_key, self.unacked_key], args=[time.time(), delivery_tag, noted])
        InMemoryQoS.append(self, message, delivery_tag)


def install() -> None:
    """Let every channel of this process keep its books so; ``QoS`` is the attribute that kombu has for it."""
    Channel.QoS = PatientQoS


def _script(client: Redis) -> Script:
    return client.register_script(_NOTE)
