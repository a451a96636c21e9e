"""``python fill.py``: a job for each line of standard input."""

import asyncio
import sys

from app import REDIS
from arq import create_pool


async def main() -> None:
    """Enqueue them one after the other."""
    redis = await create_pool(REDIS)
    for line in sys.stdin:
        await redis.enqueue_job("ask", line.rstrip("\n"))
    await redis.aclose()


asyncio.run(main())
