"""RQ: a function that calls the LLM with the SDK's default client and returns the text.

RQ's "Getting Started", and its "Performance Notes": a worker that has imported what the jobs need before it forks.
"""

from openai import OpenAI
from rq import Worker


class PreloadedWorker(Worker):
    """RQ's worker; naming it on the command line imports this module, and with it the SDK."""


def ask(prompt: str) -> str | None:
    """Ask the LLM."""
    client = OpenAI()
    answer = client.chat.completions.create(model="sim", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content
