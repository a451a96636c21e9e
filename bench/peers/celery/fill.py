"""``python fill.py``: a task for each line of standard input."""

import sys

from app import ask

for line in sys.stdin:
    ask.delay(line.rstrip("\n"))
