"""npm's ``openai`` follows streams. ``tests/system/run`` installs it and names this file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.driving import calls_of, unique
from tests.processes import Stack

FOLLOW = Path(__file__).parent / "webhooks" / "follow.mjs"


def test_npm_follows(stack: Stack) -> None:
    """Streamed responses, in the background and not, dropped and resumed, by its helpers, and chat completions."""
    prompt = unique("a prompt that is long enough for half of its answer to be something")
    env = {**os.environ, "BASE_URL": f"{stack.api}/v1", "API_KEY": stack.api_key}
    asked = json.dumps({"prompt": prompt})
    answer = subprocess.run(["node", FOLLOW], input=asked, env=env, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    text = f"Simulated answer to: {prompt}"
    for name in ("created", "background"):
        assert (found[name]["text"], found[name]["final"]) == (text, text)
        assert found[name]["numbers"] == list(range(len(found[name]["numbers"])))
    assert found["background"]["types"][:3] == ["response.created", "response.queued", "response.in_progress"]
    dropped, resumed = found["dropped"], found["resumed"]
    assert dropped["text"] + resumed["text"] == text == resumed["final"]
    assert resumed["numbers"][0] == dropped["numbers"][-1] + 1
    assert found["helped"]["final"] == found["replayed"]["final"] == text
    assert found["chat"]["text"] == found["chat_helped"]["text"] == text
    assert found["failed"]["code"] == "llm_unreachable"
    assert calls_of(stack, prompt) == 4
