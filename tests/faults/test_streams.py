"""A worker dies in the middle of a stream: who listens is told, and the replay holds the attempt that survived."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import openai

from tests.faults.cluster import LEASE
from tests.faults.room import Room
from tests.integration.driving import calls_of, ended, unique
from tests.processes import eventually, free_port

DELTA = "response.output_text.delta"


def write_slowly(room: Room, tokens_per_second: float | None) -> None:
    control = room.cluster.llm.removesuffix("/v1") + "/control"
    httpx2.post(control, json={"tokens_per_second": tokens_per_second}).raise_for_status()


class Reader:
    """Reads a stream in a thread, as the SDK does."""

    def __init__(self, stream: Any) -> None:
        self.events: list[Any] = []
        self.raised: BaseException | None = None
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._stream:
                self.events.append(event)
        except openai.APIError as error:
            self.raised = error

    def until(self, kind: str) -> None:
        """Return once an event of this type has come."""
        eventually(lambda: any(event.type == kind for event in list(self.events)))

    def end(self, within: float = 20) -> Any:
        """The last event, once the stream has ended."""
        self._thread.join(within)
        assert not self._thread.is_alive(), "the stream goes on"
        return self.events[-1]


def sdk(room: Room) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{room.cluster.api}/v1", api_key="local", max_retries=0)


def test_a_worker_killed_in_mid_stream(room: Room) -> None:
    """SIGKILL: the live stream ends with an error event that names it; the replay holds the surviving attempt only, its
    numbers go on above; two LLM calls; one end."""
    prompt = unique("a prompt of some length, whose answer takes a while when it is written slowly")
    room.cluster.start_worker("w1")
    write_slowly(room, 20)
    with sdk(room) as client:
        live = Reader(client.responses.create(model="sim", input=prompt, background=True, stream=True))
        live.until(DELTA)
        response_id = live.events[0].response.id
        room.cluster.parts["w1"].kill()
        error = live.end(within=3 * LEASE + 5)
        assert (error.type, error.code) == ("error", "worker_crashed")
        assert response_id in error.message
        numbers = [event.sequence_number for event in live.events]
        assert numbers == sorted(set(numbers))
        write_slowly(room, None)
        waiting = Reader(client.responses.retrieve(response_id, stream=True, starting_after=error.sequence_number))
        room.cluster.start_worker("w2")
        assert waiting.end().type == "response.completed"
        assert ended(room.client, response_id)["status"] == "completed"
        replay = list(client.responses.retrieve(response_id, stream=True))
    for events in (waiting.events, replay):
        assert events[0].type == "response.created"
        assert events[0].sequence_number == error.sequence_number + 1
        assert [event.sequence_number for event in events] == list(
            range(error.sequence_number + 1, error.sequence_number + 1 + len(events))
        )
        text = "".join(event.delta for event in events if event.type == DELTA)
        assert text == f"Simulated answer to: {prompt}" == events[-1].response.output_text
    assert calls_of(room.cluster, prompt) == 2  # type: ignore[arg-type]
    assert room.numbers([response_id], "strikes") == [1]
    room.cluster.wait_until_idle()


def test_a_chat_completion_whose_worker_is_killed(room: Room) -> None:
    """The SDK raises APIError with the code; the job goes on and has the whole answer."""
    prompt = unique("a prompt of some length, whose answer takes a while when it is written slowly")
    messages = [{"role": "user", "content": prompt}]
    room.cluster.start_worker("w1")
    write_slowly(room, 20)
    with sdk(room) as client:
        raw = client.chat.completions.with_raw_response.create(model="sim", messages=messages, stream=True)  # type: ignore[call-overload]
        job_id = raw.headers["x-promptq-job-id"]
        live = Reader(raw.parse())
        eventually(lambda: len(live.events) > 2)
        room.cluster.parts["w1"].kill()
        live.end(within=3 * LEASE + 5)
        assert isinstance(live.raised, openai.APIError)
        assert live.raised.code == "worker_crashed"
    write_slowly(room, None)
    room.cluster.start_worker("w2")
    job = ended(room.client, job_id)
    assert job["result"]["choices"][0]["message"]["content"] == f"Simulated answer to: {prompt}"
    assert calls_of(room.cluster, messages) == 2  # type: ignore[arg-type]


def test_a_stream_over_a_restart_of_redis(room: Room) -> None:
    """Redis is killed in mid-stream and comes back with its data: nothing of the stream is lost or told twice."""
    prompt = unique("a prompt of some length, whose answer takes a while when it is written slowly")
    room.cluster.start_worker("w1")
    write_slowly(room, 40)
    with sdk(room) as client:
        live = Reader(client.responses.create(model="sim", input=prompt, background=True, stream=True))
        live.until(DELTA)
        response_id = live.events[0].response.id
        # So that nothing that was told is lost with the last second.
        room.store.config_set("appendfsync", "always")
        eventually(lambda: len(live.events) > 8)
        room.cluster.end("redis")
        room.cluster.start_redis()
        last = live.end(within=30)
        write_slowly(room, None)
        assert last.type == "response.completed", last
        assert "".join(event.delta for event in live.events if event.type == DELTA) == last.response.output_text
        assert [event.sequence_number for event in live.events] == list(range(len(live.events)))
        assert ended(room.client, response_id)["status"] == "completed"
    assert calls_of(room.cluster, prompt) == 1  # type: ignore[arg-type]


def test_a_worker_that_stops_hands_its_stream_back(room: Room) -> None:
    """SIGTERM and the end of the grace: the stream says that its worker was stopped, and another makes the answer."""
    prompt = unique("a prompt of some length, whose answer takes a while when it is written slowly")
    room.cluster.start_worker("w1", PROMPTQ_GRACE_SECONDS="0.2")
    write_slowly(room, 10)
    with sdk(room) as client:
        live = Reader(client.responses.create(model="sim", input=prompt, background=True, stream=True))
        live.until(DELTA)
        response_id = live.events[0].response.id
        room.cluster.parts["w1"].stop()
        error = live.end()
        assert (error.type, error.code) == ("error", "worker_stopped")
        write_slowly(room, None)
        room.cluster.start_worker("w2")
        rest = list(client.responses.retrieve(response_id, stream=True, starting_after=error.sequence_number))
    assert rest[-1].response.output_text == f"Simulated answer to: {prompt}"
    assert room.numbers([response_id], "strikes") == [0]
    assert room.numbers([response_id], "attempt") == [1]


def test_a_replica_that_stops_says_where_to_go_on(room: Room) -> None:
    """SIGTERM to the API: before its grace is over a stream ends with an event that names the number to go on from, and
    another replica does."""
    prompt = unique("a prompt of some length, whose answer takes a while when it is written slowly")
    room.cluster.start_worker("w1")
    write_slowly(room, 4)
    port = free_port()
    room.cluster.start_api("api2", port=port, PROMPTQ_GRACE_SECONDS="6")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="local", max_retries=0) as other:
        live = Reader(other.responses.create(model="sim", input=prompt, background=True, stream=True))
        live.until(DELTA)
        response_id = live.events[0].response.id
        room.cluster.parts["api2"].terminate()
        error = live.end()
    assert (error.type, error.code) == ("error", "wait_timeout")
    write_slowly(room, None)
    with sdk(room) as client:
        rest = list(client.responses.retrieve(response_id, stream=True, starting_after=error.sequence_number))
    told = [*live.events[:-1], *rest]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert "".join(event.delta for event in told if event.type == DELTA) == f"Simulated answer to: {prompt}"
    assert calls_of(room.cluster, prompt) == 1  # type: ignore[arg-type]
