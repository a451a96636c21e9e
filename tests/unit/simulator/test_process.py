"""How the simulator is steered, what it counts, and how its process begins and ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
from openai import OpenAI

from simulator.prompts import prompt_hash
from tests.processes import eventually
from tests.unit.simulator.driving import DEADLINE, NORMAL, ODD_TEXT, ROOT, Simulator, chat, running


def test_a_simulator_that_is_down_answers_503(simulator: Simulator, client: OpenAI) -> None:
    """While it is down every call under /v1 gets 503, an invalid one too, and /healthz still answers."""
    simulator.control(down=True)
    with pytest.raises(openai.InternalServerError, match="503"):
        chat(client, "sim")
    with pytest.raises(openai.InternalServerError, match="503"):
        client.models.list()
    with pytest.raises(HTTPError, match="503") as refused:
        simulator.request("/v1/responses", raw=b"no")
    refused.value.close()
    assert simulator.request("/healthz") == {"status": "ok"}
    assert simulator.control(down=False) == NORMAL
    assert chat(client, "sim").choices


def test_the_error_rate_makes_calls_fail(simulator: Simulator, client: OpenAI) -> None:
    """An error rate of 1 fails every call with 500, and one of 0 none."""
    simulator.control(error_rate=1)
    with pytest.raises(openai.InternalServerError):
        chat(client, "sim")
    simulator.control(error_rate=0)
    assert chat(client, "sim").choices


def test_the_speed_adds_to_the_latency(simulator: Simulator, client: OpenAI) -> None:
    """An answer takes the latency and the time of its output tokens."""
    simulator.control(latency=0.1, tokens_per_second=100)
    begun = time.monotonic()
    answer = client.responses.create(model="sim", input="x" * 20)
    assert answer.usage is not None
    assert time.monotonic() - begun >= 0.1 + answer.usage.output_tokens / 100


@pytest.mark.parametrize(
    "changes", [{"latency": -1}, {"error_rate": 2}, {"tokens_per_second": 0}, {"down": 1}, {"latency": 5, "typo": 1}]
)
def test_a_wrong_setting_changes_nothing(simulator: Simulator, changes: dict[str, object]) -> None:
    """A setting that is unknown or out of bounds is refused with 400, and none of the changes is made."""
    with pytest.raises(HTTPError, match="400") as refused:
        simulator.control(**changes)
    refused.value.close()
    assert simulator.control() == NORMAL


def test_stats_count_calls_by_prompt_and_model(simulator: Simulator, client: OpenAI) -> None:
    """Every call counts, whatever its outcome, under its model and under the hash that tests can compute."""
    for _ in range(2):
        client.responses.create(model="sim", input=ODD_TEXT)
    with pytest.raises(openai.InternalServerError):
        chat(client, "sim-500")
    client.models.list()
    said = {"messages": [{"role": "user", "content": "hello"}]}
    assert simulator.stats() == {
        "calls": 3,
        "in_flight": 0,
        "peak": 1,
        "aborted": 0,
        "incomplete": 0,
        "by_prompt": {prompt_hash({"input": ODD_TEXT}): 2, prompt_hash(said): 1},
        "by_model": {"sim": 2, "sim-500": 1},
    }
    assert simulator.request("/stats/reset", {})["calls"] == 0


def test_a_prompt_hash_depends_on_the_prompt_only() -> None:
    """The hash of a body is the same for any key order and any other field, and differs for another prompt."""
    one = prompt_hash({"model": "a", "input": [{"role": "user", "content": "\ud800\x00"}]})
    assert one == prompt_hash({"input": [{"content": "\ud800\x00", "role": "user"}], "model": "b"})
    assert one != prompt_hash({"input": "x"})
    assert len(one) == 16


def test_a_client_that_leaves_in_mid_stream_is_an_abort(simulator: Simulator, client: OpenAI) -> None:
    """A stream whose client hangs up is no longer in flight, and counts as aborted."""
    simulator.control(tokens_per_second=1)
    with client.responses.create(model="sim", input="x" * 400, stream=True) as stream:
        assert next(stream).type == "response.created"
        assert simulator.stats()["in_flight"] == 1
    eventually(lambda: simulator.stats()["in_flight"] == 0)
    assert simulator.stats()["aborted"] == 1


@pytest.mark.parametrize("sent", [b"", b'{"model": "sim", ', b'{"model": "sim", "input": "hello"'])
def test_a_client_that_leaves_in_mid_request_leaves_an_incomplete_call(simulator: Simulator, sent: bytes) -> None:
    """A call whose body never came whole counts as aborted and as incomplete, and under no prompt."""
    head = b"POST /v1/responses HTTP/1.1\r\nHost: simulator\r\nContent-Length: 100\r\n\r\n"
    host, port = urlsplit(simulator.root).hostname, urlsplit(simulator.root).port
    with socket.create_connection((host, port), timeout=DEADLINE) as connection:
        connection.sendall(head + sent)
        eventually(lambda: simulator.stats()["in_flight"] == 1)
        assert simulator.stats()["incomplete"] == 0
    eventually(lambda: simulator.stats()["in_flight"] == 0)
    stats = simulator.stats()
    assert (stats["calls"], stats["aborted"], stats["incomplete"], stats["by_prompt"]) == (1, 1, 1, {})


def test_calls_in_flight_together_reach_their_number_as_peak(simulator: Simulator) -> None:
    """200 calls that wait at the same time are all in flight, and none of them is left when their clients leave."""

    async def hold() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def call(number: int) -> None:
                body = {"model": "sim-hang", "input": f"prompt {number}"}
                async with session.post(f"{simulator.url}/responses", json=body):
                    pytest.fail("a hanging call answered")

            calls = [asyncio.create_task(call(number)) for number in range(200)]
            async with asyncio.timeout(DEADLINE):
                while (await (await session.get(f"{simulator.root}/stats")).json())["in_flight"] < 200:
                    await asyncio.sleep(0.005)
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(hold())
    eventually(lambda: simulator.stats()["in_flight"] == 0)
    stats = simulator.stats()
    assert (stats["calls"], stats["peak"], stats["aborted"]) == (200, 200, 200)
    assert len(stats["by_prompt"]) == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_code_0(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the process with code 0, though a call still hangs."""
    with running(tmp_path) as simulator:
        body = b'{"model":"sim-hang","input":"x"}'
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", int(simulator.root.rpartition(":")[2])), DEADLINE) as connection:
            connection.sendall(head + body)
            eventually(lambda: simulator.stats()["in_flight"] == 1)
            begun = time.monotonic()
            os.kill(simulator.process.pid, number)
            assert simulator.process.wait(DEADLINE) == 0
            assert time.monotonic() - begun < 3


def test_wrong_arguments_end_it_with_an_explanation() -> None:
    """An argument that makes no sense ends the process with code 2 and says why."""
    ended = subprocess.run(
        [sys.executable, "-m", "simulator", "--error-rate", "2"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "error_rate must be a number from 0 to 1" in ended.stderr


def test_it_raises_the_limit_of_open_files(tmp_path: Path) -> None:
    """A simulator that starts with a low soft limit of open files raises it as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with running(tmp_path) as simulator:
            assert resource.prlimit(simulator.process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
