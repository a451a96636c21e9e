"""redis-py's errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobs.errors import AcceptanceUnknown, OutcomeUnknown, StoreFull, StoreUnavailable
from jobs.redis_clients import NotSent

#: Error codes by which a server that is up says that it takes no writes now: nothing was done.
_REFUSALS: Final = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN")


@contextmanager
def redis_errors(lost_reply: type[AcceptanceUnknown | OutcomeUnknown] | None = None) -> Iterator[None]:
    """Turn redis-py's errors into ours; ``lost_reply`` is raised where the command may have run."""
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull("Redis is full; nothing was stored. Try again later.", retry_after=5) from error
    except ResponseError as error:
        if isinstance(error, ReadOnlyError) or str(error).startswith(_REFUSALS):
            raise StoreUnavailable("The job store takes no writes now. Try again.", retry_after=2) from error
        raise
    except (NotSent, BusyLoadingError) as error:
        raise StoreUnavailable("The job store does not answer. Try again.", retry_after=2) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        # redis-py tells so of a master that has become a replica (``redis/sentinel.py``), which did nothing.
        if lost_reply and not isinstance(error.__context__, ReadOnlyError):
            raise lost_reply(lost_reply.lost, retry_after=2) from error
        raise StoreUnavailable("The job store does not answer. Try again.", retry_after=2) from error
