"""arq: a coroutine that calls the LLM with the SDK's asynchronous client and returns the text.

arq's "Simple Usage", with the client made at start-up as there, and the openai SDK's README.
"""

import os
from typing import Any

from arq.connections import RedisSettings
from openai import AsyncOpenAI

REDIS = RedisSettings.from_dsn(os.environ["REDIS_URL"])


async def ask(ctx: dict[str, Any], prompt: str) -> str | None:
    """Ask the LLM."""
    client: AsyncOpenAI = ctx["client"]
    answer = await client.chat.completions.create(model="sim", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content


async def startup(ctx: dict[str, Any]) -> None:
    """Make the client."""
    ctx["client"] = AsyncOpenAI()


class WorkerSettings:
    """What ``arq app.WorkerSettings`` runs."""

    functions = (ask,)
    on_startup = startup
    redis_settings = REDIS
    max_jobs = int(os.environ.get("SLOTS", "10"))
