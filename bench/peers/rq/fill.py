"""``python fill.py``: a job for each line of standard input."""

import os
import sys

from app import ask
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis.from_url(os.environ["REDIS_URL"]))
for line in sys.stdin:
    queue.enqueue(ask, line.rstrip("\n"))
