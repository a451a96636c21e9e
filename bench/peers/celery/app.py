"""Stock Celery: a task that calls the LLM with the SDK's default client and returns the text.

Celery's "First Steps" with Redis as broker and result backend, and the openai SDK's README.
"""

import os

from celery import Celery
from openai import OpenAI

app = Celery("app", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
client = OpenAI()


@app.task
def ask(prompt: str) -> str | None:
    """Ask the LLM."""
    answer = client.chat.completions.create(model="sim", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content
